"""What a model is scored on: images with captions, or images of classes.

A data set comes from shards (`from_shards`), from one folder for each class (`from_class_folders`), or from a
file of captions (`clipsearch_train.evaluation.captions`). Images stay encoded, or on disk, until they are
embedded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.errors import TrainingError
from clipsearch.files import SUFFIXES
from clipsearch_train.data import Sample, named, read_shards


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its bytes or its path, its captions, and the number of its class where it has one."""

    key: str
    image: bytes | Path
    captions: tuple[str, ...] = ()
    label: int | None = None


@dataclass(frozen=True)
class Dataset:
    """Images of one source; `remarks` are sentences about what was left out of it.

    Raises TrainingError where there are none, or where a label is no class.
    """

    name: str
    items: tuple[Item, ...]
    class_names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.items:
            raise TrainingError(f"{self.name} holds no image to score a model on.")
        for item in self.items:
            if item.label is not None and not 0 <= item.label < len(self.class_names):
                raise TrainingError(
                    f"{item.key} of {self.name} is of the class number {item.label}, which is none of the "
                    f"{len(self.class_names)} classes."
                )

    @property
    def captioned(self) -> bool:
        """Whether any image has a caption, so that retrieval can be scored."""
        return any(item.captions for item in self.items)

    @property
    def labelled(self) -> bool:
        """Whether every image has a class, so that classification can be scored."""
        return all(item.label is not None for item in self.items)

    @property
    def captions(self) -> list[str]:
        """All captions, image by image."""
        return [caption for item in self.items for caption in item.captions]

    @property
    def image_of_caption(self) -> npt.NDArray[np.int64]:
        """(M,): the row of the image of each caption."""
        rows = [row for row, item in enumerate(self.items) for _ in item.captions]
        return np.array(rows, dtype=np.int64)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,): the class of each image; -1 where it has none."""
        return np.array([-1 if item.label is None else item.label for item in self.items], dtype=np.int64)

    @property
    def digest(self) -> str:
        """A hash of keys, captions and classes: equal where two evaluations asked the same questions."""
        asked = [[item.key, item.captions, item.label] for item in self.items]
        return hashlib.sha256(json.dumps([asked, self.class_names]).encode()).hexdigest()[:16]

    def keep(self, rows: Sequence[int]) -> Dataset:
        """The same data set with only these images. Raises TrainingError where none is left."""
        return replace(self, items=tuple(self.items[row] for row in rows))

    def ambiguous(self) -> list[str]:
        """Names that two classes share: no model can tell those apart, so their images count as misses."""
        return [name for name, count in Counter(self.class_names).items() if count > 1]


def from_shards(paths: Sequence[Path], limit: int | None = None) -> list[Dataset]:
    """The sources of some shards (see `clipsearch_train.data`), each a data set, in the order they occur.

    A file `PREFIX_names.json` beside the shards (a list) names the classes of the sources that start with
    PREFIX; without it they are the labels that occur. A sample with several labels is of the first. At most
    `limit` samples of a shard are read. What was left out of the shards stands in the remarks of the first
    data set. Raises TrainingError.
    """
    sources: dict[str, list[Sample]] = {}
    found, report = read_shards(paths, limit)
    for sample in found:
        sources.setdefault(sample.source, []).append(sample)
    names = names_beside(paths, list(sources))
    made = [from_samples(source, samples, names.get(source)) for source, samples in sources.items()]
    if report.skipped:
        told = f"{named([path.name for path in paths])}: left out {report}."
        made[0] = replace(made[0], remarks=(told, *made[0].remarks))
    return made


def names_beside(shards: Sequence[Path], sources: Sequence[str]) -> dict[str, list[str]]:
    """Class names of sources that have a `PREFIX_names.json` beside the shards. Raises TrainingError."""
    names: dict[str, list[str]] = {}
    for folder in sorted({path.parent for path in shards}):
        for path in sorted(folder.glob("*_names.json")):
            for source in sources:
                if source.startswith(path.stem.removesuffix("_names")):
                    names[source] = read_names(path)
    return names


def from_samples(source: str, samples: Sequence[Sample], names: Sequence[str] | None = None) -> Dataset:
    """A data set of training samples. `names` are the classes in order; else they are the labels that occur.

    Samples that `scored` leaves out are counted and named in the remarks. Raises TrainingError for a label
    that is no class.
    """
    kept, remarks = scored(source, samples)
    if not kept:
        return Dataset(source, tuple(Item(s.key, s.image) for s in samples))
    samples = kept
    if samples[0].captions:
        items = [Item(s.key, s.image, captions=s.captions) for s in samples]
        return Dataset(source, tuple(items), remarks=remarks)
    classes = list(names) if names else sorted({sample.labels[0] for sample in samples})
    number = {name: index for index, name in enumerate(classes)}
    items = []
    for sample in samples:
        # A shard's numbers are of the list that stands beside it; without one there is nothing they number.
        index = sample.label_index if names else None
        label = number.get(sample.labels[0], -1) if index is None else index
        if not 0 <= label < len(classes):
            raise TrainingError(
                f"{sample.key} of {source} is of the class {sample.labels[0]!r} (number {index}), which is "
                f"none of the {len(classes)} classes."
            )
        items.append(Item(sample.key, sample.image, label=label))
    return Dataset(source, tuple(items), tuple(classes), remarks)


def scored(source: str, samples: Sequence[Sample]) -> tuple[list[Sample], tuple[str, ...]]:
    """The samples of a source that it is scored by, and a sentence about the others.

    Those with captions, or those with labels alone where they are more.
    """
    captioned = [sample for sample in samples if sample.captions]
    labelled = [sample for sample in samples if not sample.captions and sample.labels]
    kept, word = (captioned, "caption") if len(captioned) >= len(labelled) else (labelled, "label to go by")
    rest = sorted({sample.key for sample in samples} - {sample.key for sample in kept})
    if not kept or not rest:
        return kept, ()
    told = "1 image" if len(rest) == 1 else f"{len(rest):,} images"
    return kept, (f"{source or 'unnamed'}: left out {told} without a {word} ({named(rest)}).",)


def from_class_folders(folder: Path, names: Sequence[str] | None = None) -> Dataset:
    """A folder with a folder of images for each class, as torchvision's ImageFolder reads them.

    A class is called what its folder is, with spaces for underscores, unless `names` tells the classes in the
    folders' alphabetical order. Raises TrainingError: no such folder, a class without images, a name twice,
    or more or fewer names than folders.
    """
    if not folder.is_dir():
        raise TrainingError(f"There is no folder {folder}.")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise TrainingError(f"{folder} holds no folders: each class needs one with its images.")
    if names is not None and len(names) != len(folders):
        raise TrainingError(f"{folder} holds {len(folders)} class folders, and {len(names)} names are given.")
    classes = list(names or (_legible(path.name).replace("_", " ").strip() for path in folders))
    for name, count in Counter(name.casefold() for name in classes).items():
        if count > 1:
            same = [path.name for path, own in zip(folders, classes, strict=True) if own.casefold() == name]
            raise TrainingError(f"The class {name!r} is there twice, as {' and '.join(map(repr, same))}.")
    items = []
    for label, path in enumerate(folders):
        images = images_below(path)
        if not images:
            raise TrainingError(f"The class folder {path} holds no image.")
        items += [Item(str(image.relative_to(folder)), image, label=label) for image in images]
    return Dataset(_legible(folder.resolve().name), tuple(items), tuple(classes))


def _legible(name: str) -> str:
    """A file name in which bytes that are no UTF-8 are question marks."""
    return os.fsencode(name).decode("utf-8", "replace")


def images_below(folder: Path) -> list[Path]:
    """Files below a folder that are called like images, in order, but for what is hidden."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def read_names(path: Path) -> list[str]:
    """Class names from a JSON list, or from a text file with one a line. Raises TrainingError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read: {error}.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TrainingError(f"{path} is not a list of class names.")
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise TrainingError(f"{path} names no class.")
    return names


def matching_classes(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """The images of `dataset`, numbered by another list of classes that has all of its own.

    Raises TrainingError for a class that is not in the list.
    """
    if tuple(classes) == dataset.class_names:  # also where two classes share a name
        return dataset
    number = {name.casefold(): index for index, name in enumerate(classes)}
    used = {item.label for item in dataset.items if item.label is not None}
    strange = [
        dataset.class_names[label]
        for label in sorted(used)
        if dataset.class_names[label].casefold() not in number
    ]
    if strange:
        raise TrainingError(
            f"{dataset.name} has classes that the others do not have ({named(strange)}); "
            "both need the same class names."
        )
    items = tuple(
        replace(
            item, label=None if item.label is None else number[dataset.class_names[item.label].casefold()]
        )
        for item in dataset.items
    )
    return replace(dataset, items=items, class_names=tuple(classes))
