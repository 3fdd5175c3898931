"""Training samples from a folder of images; captions in a csv, tsv or jsonl file or in text files beside.

The captions may come from anywhere: a name that leads out of the folder is never opened, and a row, a text or
an image that is not there is left out, counted and named.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from clipsearch.errors import TrainingError
from clipsearch.files import SUFFIXES
from clipsearch_train.data import Sample, ShardReport, texts_in
from clipsearch_train.recipe_data import Folder

# The names that data sets in use give their columns.
FILE_COLUMNS = ("file", "filename", "file_name", "filepath", "path", "image", "img")
CAPTION_COLUMNS = ("captions", "caption", "title", "text")
LABEL_COLUMNS = ("labels", "label", "class")
_TABLES = (".tsv", ".csv", ".txt")


@dataclass
class Told:
    """What is said about one image: captions and labels, in the order of the file, each once."""

    captions: dict[str, None] = field(default_factory=dict)
    labels: dict[str, None] = field(default_factory=dict)


def read_folder(data: Path, folder: Folder, limit: int | None = None) -> tuple[list[Sample], ShardReport]:
    """The samples of a folder in the order of their names, their images still on the disk, at most `limit`.

    A key is the image's path within the folder. Images of which nothing is said are samples without captions.
    Raises TrainingError where the folder or the captions cannot be read, or there is no image.
    """
    place = data / folder.images
    if not place.is_dir():
        raise TrainingError(f"There is no folder of images {place}.")
    source = folder.source or place.resolve().name
    report = ShardReport()
    names = _image_names(place)
    if not names:
        raise TrainingError(f"There is no image in {place}.")
    told = (
        _beside(place, names, report)
        if folder.captions is None
        else _in_file(data / folder.captions, set(names), report)
    )
    samples = []
    for name in names[:limit]:
        said = told.get(name, Told())
        labels = dict(said.labels)
        parent = PurePosixPath(name).parent.name
        if folder.folder_labels and parent:
            labels[parent.replace("_", " ")] = None
        samples.append(Sample(name, place / name, source, tuple(said.captions), tuple(labels)))
    report.samples = len(samples)
    return samples, report


def _image_names(place: Path) -> list[str]:
    """Paths of the images below a folder, relative to it, sorted; hidden files and folders are left out."""
    names = []
    for parent, folders, files in os.walk(place):
        folders[:] = [name for name in folders if not name.startswith(".")]
        within = Path(parent).relative_to(place)
        names += [
            (within / name).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(names)


def _beside(place: Path, names: list[str], report: ShardReport) -> dict[str, Told]:
    """The captions of `a.jpg` are the lines of `a.txt`."""
    told: dict[str, Told] = {}
    for name in names:
        path = (place / name).with_suffix(".txt")
        if not path.is_file():
            continue
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError):
            report.skip("with unreadable text", name)
            continue
        told[name] = Told(dict.fromkeys(line.strip() for line in lines if line.strip()))
    return told


def _in_file(path: Path, names: set[str], report: ShardReport) -> dict[str, Told]:
    told: dict[str, Told] = {}
    for line, row in read_captions(path):
        name = row.get("file")
        if not isinstance(name, str) or not name.strip():
            report.skip("without a file name", f"{path.name} line {line}")
            continue
        inside = inner_name(name.strip())
        if inside is None:
            report.skip("named outside the folder", name)
        elif inside not in names:
            report.skip("that are not there", name)
        else:
            try:
                captions, labels = texts_in(row.get("captions")), texts_in(row.get("labels"))
            except TypeError:
                report.skip("with unreadable text", name)
                continue
            said = told.setdefault(inside, Told())
            said.captions |= dict.fromkeys(captions)
            said.labels |= dict.fromkeys(labels)
    return told


def inner_name(name: str) -> str | None:
    """A name relative to a folder in its plain form; None for one that leads out of the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return None
    return path.as_posix()


def read_captions(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a captions file with their line numbers, as `file`, `captions` and `labels`.

    csv and tsv may begin with a row of column names; without one a row is a file and its caption. Raises
    TrainingError for a file that cannot be read, is not UTF-8 or has no column of files.
    """
    kind = path.suffix.lower()
    if kind != ".jsonl" and kind not in _TABLES:
        raise TrainingError(f"{path} is none of .csv, .tsv and .jsonl, which captions can be read from.")
    text = _utf8(path)
    if kind == ".jsonl":
        yield from _jsonl_rows(path, text)
    else:
        yield from _table_rows(path, text, _delimiter(kind, text))


def _delimiter(kind: str, text: str) -> str:
    """What is between columns: a spreadsheet's csv may have semicolons, Flickr8k's captions.txt commas."""
    first = text.lstrip().partition("\n")[0]
    if kind == ".csv":
        return ";" if ";" in first and "," not in first else ","
    return "," if kind == ".txt" and "\t" not in first and "," in first else "\t"


def _utf8(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"The captions {path} cannot be read: {error.strerror}.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TrainingError(
            f"{path} is not UTF-8 (line {line}); save it as UTF-8, for instance with "
            f"`iconv -f latin1 -t utf-8`."
        ) from error


def _table_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = io.StringIO(text, newline="")
    # In a tsv a quotation mark is a quotation mark.
    reader = (
        csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        if delimiter == "\t"
        else csv.reader(lines, delimiter=delimiter, strict=True)  # else an open quote takes all that follows
    )
    columns: list[str | None] | None = None
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if columns is None:
                columns = _columns(row)
                if columns is not None:
                    continue
                columns = ["file", "captions"]
            if len(row) != len(columns):
                yield reader.line_num, {}  # counted as a row without a file
                continue
            values: dict[str, Any] = {}
            for column, cell in zip(columns, row, strict=True):
                if column is not None and cell.strip():
                    values[column] = cell if column == "file" else [*values.get(column, []), cell]
            yield reader.line_num, values
    except csv.Error as error:
        raise TrainingError(f"{path} is not a table (line {reader.line_num}): {error}.") from error


def _columns(row: list[str]) -> list[str | None] | None:
    """What the columns of a table are, from its first row; None where that is a row like any other."""
    columns = [_role(cell.strip().lower()) for cell in row]
    return columns if "file" in columns else None


def _role(name: str) -> str | None:
    for role, names in (("file", FILE_COLUMNS), ("captions", CAPTION_COLUMNS), ("labels", LABEL_COLUMNS)):
        if name in names:
            return role
    return None


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):  # JSON may hold other ends of lines
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        yield number, _by_role(values) if isinstance(values, Mapping) else {}


def _by_role(values: Mapping[str, Any]) -> dict[str, Any]:
    return {role: value for key, value in values.items() if (role := _role(str(key).lower())) is not None}
