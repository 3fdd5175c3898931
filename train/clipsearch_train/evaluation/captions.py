"""Images with captions that a file lists: csv, tsv, jsonl, or the JSON of Karpathy and Fei-Fei's splits."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipsearch.errors import TrainingError
from clipsearch_train.data import named
from clipsearch_train.evaluation.datasets import Dataset, Item

IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "filepath", "path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")


def from_captions(file: Path, images: Path | None = None, *, split: str = "test") -> Dataset:
    """Read a file of captions; several lines of one image are several captions.

    file: by its suffix one of
        `.csv`, `.tsv`: an image and a caption a line. A first line that names such columns says which they
        are; without it they are the first and the second.
        `.jsonl`: an object a line with `image` and `caption`, or `captions` (a list).
        `.json`: `images` with `filename`, `sentences` and `split`, as `dataset_flickr8k.json`,
        `dataset_flickr30k.json` and `dataset_coco.json` of Karpathy and Fei-Fei (2015) have them.
    images: the folder that image names are relative to; the file's own by default.
    split: the part of a `.json` that is read; `""` reads all.

    Raises TrainingError: a file that cannot be read, no caption, images that are not there.
    """
    readers = {".csv": _table, ".tsv": _table, ".jsonl": _lines, ".json": _karpathy}
    if file.suffix.lower() not in readers:
        raise TrainingError(
            f"{file} is none of the files of captions that can be read: csv, tsv, jsonl, json."
        )
    captions: dict[str, list[str]] = {}
    try:
        for name, caption in readers[file.suffix.lower()](file, split):
            if caption.strip():
                captions.setdefault(name, []).append(caption.strip())
    except (OSError, ValueError, TypeError, LookupError, AttributeError, csv.Error) as error:
        raise TrainingError(f"{file} cannot be read as a file of captions: {error}.") from error
    if not captions:
        raise TrainingError(f"{file} holds no caption{_of_split(file, split)}.")
    folder = file.parent if images is None else images
    missing = [name for name in captions if not (folder / name).is_file()]
    if missing:
        raise TrainingError(
            f"{len(missing):,} of the {len(captions):,} images that {file} names are not in {folder} "
            f"({named(missing)})."
        )
    items = tuple(Item(name, folder / name, tuple(texts)) for name, texts in captions.items())
    return Dataset(file.stem, items)


def _of_split(file: Path, split: str) -> str:
    return f" of the split {split!r}" if split and file.suffix.lower() == ".json" else ""


def _table(file: Path, _split: str) -> Iterator[tuple[str, str]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        if file.suffix.lower() == ".tsv":
            rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            rows = csv.reader(stream, strict=True)
        image, caption = 0, 1
        for number, row in enumerate(rows):
            if number == 0 and (found := _columns(row)) is not None:
                image, caption = found
            elif row:
                if len(row) <= max(image, caption):
                    raise ValueError(f"line {number + 1} has no caption")
                yield row[image].strip(), row[caption]


def _columns(first: list[str]) -> tuple[int, int] | None:
    """Where the image and the caption stand, if a first line names columns."""
    names = [name.strip().lower() for name in first]
    image = next((names.index(name) for name in IMAGE_COLUMNS if name in names), None)
    caption = next((names.index(name) for name in CAPTION_COLUMNS if name in names), None)
    return None if image is None or caption is None else (image, caption)


def _lines(file: Path, _split: str) -> Iterator[tuple[str, str]]:
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            record: dict[str, Any] = json.loads(line)
            image = next((record[name] for name in IMAGE_COLUMNS if name in record), None)
            told = next((record[name] for name in CAPTION_COLUMNS if name in record), None)
            for text in told if isinstance(told, list) else [told]:
                if not isinstance(image, str) or not isinstance(text, str):
                    raise ValueError(f"line {number} has no image or no caption")
                yield image, text


def _karpathy(file: Path, split: str) -> Iterator[tuple[str, str]]:
    for record in json.loads(file.read_text(encoding="utf-8"))["images"]:
        if not split or record.get("split", split) == split:
            for sentence in record["sentences"]:
                # COCO's images lie in a folder for each year and split.
                yield str(Path(record.get("filepath", "")) / record["filename"]), sentence["raw"]
