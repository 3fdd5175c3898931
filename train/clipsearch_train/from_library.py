"""Training pairs out of one's own library: captions, keywords and folder names of the photos in it.

A photo's caption and keywords are what its metadata says (IPTC, XMP, EXIF), as the index has read it. A
folder name is a label where it says something: `Lisbon trip` does, `DCIM`, `100CANON` and `2019-07` do not.
Photos with a caption are one source and photos with labels alone another, since what is held out of the first
is scored by retrieval and of the second by classification.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from clipsearch.api import Library
from clipsearch.browse import Photo
from clipsearch.errors import LibraryEmpty, TrainingError
from clipsearch.folder import LibraryFolder
from clipsearch_train import recipe as recipes
from clipsearch_train.data import Sample, ShardReport
from clipsearch_train.start import load_start

CAPTIONED, LABELLED = "library_captions", "library_labels"
"""The names of the two sources."""
UNTOLD = "without a caption, keyword or telling folder name"
GONE = "that are not there now"
LEAST = 20
"""Photos about which something has to be said."""
_AT_ONCE = 1000
# What cameras write into the caption by themselves.
_CAMERA_CAPTIONS = frozenset(
    {
        "dcf 1.0", "default", "digital camera", "exif_jpeg_picture", "image description", "jpeg",
        "kodak digital still camera", "minolta digital camera", "olympus digital camera",
        "samsung digital camera", "sony dsc", "untitled",
    }
)  # fmt: skip
_PLAIN_FOLDERS = frozenset(
    {
        "album", "albums", "archive", "backup", "camera", "camera roll", "camera uploads", "dcim", "download",
        "downloads", "export", "exports", "images", "img", "import", "imports", "jpeg", "jpg", "misc",
        "my pictures", "new folder", "originals", "photo", "photos", "pictures", "raw", "sorted", "temp",
        "tmp", "unsorted", "untitled", "untitled folder", "uploads",
    }
)  # fmt: skip
# Folders that cameras make (DCF): 100CANON, 101_PANA, 102APPLE.
_CAMERA_FOLDER = re.compile(r"\d{3}\w{5}$")


def library_samples(path: Path) -> tuple[list[Sample], ShardReport]:
    """The photos of a library about which something is said, and what was left out.

    Raises LibraryNotFound, LibraryEmpty, TrainingError where too little is said.
    """
    samples: list[Sample] = []
    report = ShardReport()
    with Library.open(path) as library:
        roots = [root.path for root in library.status().roots]
        for photo in _photos(library):
            sample = _sample(photo, roots)
            if not sample.told:
                report.skip(UNTOLD, sample.key)
            elif not Path(sample.key).is_file():  # its disk is away, or it went since the last index
                report.skip(GONE, sample.key)
            else:
                samples.append(sample)
    report.samples = len(samples)
    if len(samples) < LEAST:
        raise TrainingError(
            f"Training needs {LEAST} photos about which something is said, and the library at {path} has "
            f"{len(samples)} (left out: {report}). Give photos captions or keywords in a photo manager, or "
            "put them into folders with telling names, then run `clipsearch index`."
        )
    return samples, report


def _photos(library: Library) -> Iterator[Photo]:
    with library.look() as view:
        slots = view.overview.slots
        for start in range(0, len(slots), _AT_ONCE):
            yield from view.photos(slots[start : start + _AT_ONCE])


def _sample(photo: Photo, roots: list[bytes]) -> Sample:
    """What is known of a photo; its first label, which it is classified by, is the innermost folder."""
    labels: dict[str, None] = {}
    for path in photo.paths:
        labels |= dict.fromkeys(reversed(folder_names(path, roots)))
    labels |= dict.fromkeys(photo.keywords)
    places = [os.fsdecode(path) for path in photo.paths]
    place = next((place for place in places if Path(place).is_file()), places[0])
    caption = own_words(photo.caption)
    if caption is None:
        return Sample(place, Path(place), LABELLED, (), tuple(labels), content=photo.content_hash.hex())
    # A sample with captions is told by one of those alone.
    captions = (caption, ", ".join(labels)) if labels else (caption,)
    return Sample(place, Path(place), CAPTIONED, captions, tuple(labels), content=photo.content_hash.hex())


def own_words(caption: str | None) -> str | None:
    """A caption that a person wrote; None for what cameras and programs put there, and for numbers."""
    text = " ".join((caption or "").split())
    if text.lower() in _CAMERA_CAPTIONS or sum(letter.isalpha() for letter in text) < 2:
        return None
    return text


def folder_names(path: bytes, roots: list[bytes]) -> list[str]:
    """What the folders between a root and a photo say."""
    above = [root for root in roots if path.startswith(root.rstrip(b"/") + b"/")]
    within = path[len(max(above, key=len)) :] if above else path
    parts = within.strip(b"/").split(b"/")[:-1]
    said = (telling(os.fsdecode(part)) for part in parts)
    return [name for name in said if name is not None]


def telling(name: str) -> str | None:
    """What a folder name says, without dates and numbers at its ends; None if nothing."""
    if _CAMERA_FOLDER.match(name):
        return None
    words = re.sub(r"[_\-.,\s]+", " ", name).split()
    while words and not any(letter.isalpha() for letter in words[0]):
        words.pop(0)
    while words and not any(letter.isalpha() for letter in words[-1]):
        words.pop()
    text = " ".join(words)
    if text.lower() in _PLAIN_FOLDERS or sum(letter.isalpha() for letter in text) < 2:
        return None
    return text if text.isprintable() else None


def own_photos_recipe(path: Path, photos: int) -> recipes.Recipe:
    """A recipe that adapts the library's own model to its photos, gently.

    Low-rank adapters in both towers; a tenth of the photos is kept for validation. Raises LibraryNotFound,
    LibraryEmpty, ModelNotFound, ModelInvalid.
    """
    folder = LibraryFolder.open(path)
    try:
        space = folder.active_space()
    finally:
        folder.close()
    if space is None:
        raise LibraryEmpty(f"The library at {path} is empty; `clipsearch index DIR` fills it.")
    start = recipes.Start(space.model_source, lora_rank=8)
    batch = min(64, max(2, photos * 9 // 10 // 2))
    steps = max(50, min(1000, 10 * photos // batch))
    return recipes.Recipe(
        name="own-photos",
        model=load_start(start).model.config,
        start=start,
        data=recipes.Data(
            train=(), val=(), hold_out=0.1, min_crop=0.5, templates=("a photo of {}", "{}"), order="epochs"
        ),
        optim=recipes.Optim(steps=steps, batch=batch, lr=5e-4, weight_decay=0.0, warmup=steps // 10),
        freeze_batch_norm=True,
        eval_every=max(1, steps // 4),
    )
