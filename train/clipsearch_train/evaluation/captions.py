"""Images with captions that a file lists: csv, tsv, jsonl, or the JSON of Karpathy and Fei-Fei's splits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from clipsearch.errors import TrainingError
from clipsearch_train.data import ShardReport, named, texts_in
from clipsearch_train.evaluation.datasets import Dataset, Item
from clipsearch_train.folders import inner_name, read_captions

Told = tuple[str, tuple[str, ...]]
"""The name of an image, and captions of it."""


def from_captions(file: Path, images: Path | None = None, *, split: str = "test") -> Dataset:
    """Read a file of captions; several lines of one image are several captions.

    file: `.csv`, `.tsv` and `.jsonl` as for training (`clipsearch_train.folders.read_captions`), or `.json`:
        `images` with `filename`, `sentences` and `split`, as `dataset_flickr8k.json`,
        `dataset_flickr30k.json` and `dataset_coco.json` of Karpathy and Fei-Fei (2015) have them.
    images: the folder that image names are relative to; the file's own by default.
    split: the part of a `.json` that is read; `""` reads all.

    Rows that cannot be used, and images that are not there, are left out, counted and named in the remarks.
    Raises TrainingError: a file that cannot be read, no caption, none of the images there.
    """
    report = ShardReport()
    rows = _karpathy(file, split) if file.suffix.lower() == ".json" else _lines(file, report)
    captions: dict[str, list[str]] = {}
    for name, told in rows:
        captions.setdefault(name, []).extend(told)
    if not captions:
        raise TrainingError(f"{file} holds no caption{_of_split(file, split)}{_left_out(report)}.")
    folder = file.parent if images is None else images
    there = {name for name in captions if os.path.isfile(folder / name)}  # noqa: PTH113 - of any length
    if not there:
        raise TrainingError(
            f"None of the {len(captions):,} images that {file} names is in {folder} "
            f"({named(list(captions))}); --images names their folder."
        )
    for name in captions:
        if name not in there:
            report.skip("that are not there", name)
    items = tuple(Item(name, folder / name, tuple(told)) for name, told in captions.items() if name in there)
    remarks = (f"{file.stem}: left out {report}.",) if report.skipped else ()
    return Dataset(file.stem, items, remarks=remarks)


def _lines(file: Path, report: ShardReport) -> Iterator[Told]:
    """The rows of a table or of a `.jsonl`; those that cannot be used are noted."""
    for line, row in read_captions(file):
        name, place = row.get("file"), f"line {line}"
        try:
            told = texts_in(row.get("captions"))
        except TypeError:
            report.skip("with unreadable text", place)
            continue
        if not isinstance(name, str) or not name.strip():
            report.skip("without a file name", place)
        elif not told:
            report.skip("without a caption", place)
        else:
            yield inner_name(name.strip()) or name.strip(), told


def _karpathy(file: Path, split: str) -> Iterator[Told]:
    try:
        for record in json.loads(file.read_text(encoding="utf-8-sig"))["images"]:
            if not split or record.get("split", split) == split:
                # COCO's images lie in a folder for each year and split.
                name = Path(record.get("filepath", "")) / record["filename"]
                yield str(name), texts_in([sentence["raw"] for sentence in record["sentences"]])
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise TrainingError(f"{file} cannot be read as a file of captions: {error}.") from error


def _of_split(file: Path, split: str) -> str:
    return f" of the split {split!r}" if split and file.suffix.lower() == ".json" else ""


def _left_out(report: ShardReport) -> str:
    return f" (left out: {report})" if report.skipped else ""
