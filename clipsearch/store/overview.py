"""All visible photos at a glance: the few columns that filters, counts, a timeline and a map need."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """A column of few different values: row i holds `values[codes[i]]`, or nothing where the code is −1."""

    values: tuple[str, ...]
    codes: Ints

    def counts(self, rows: Ints) -> dict[str, int]:
        """How often each value occurs in `rows`, commonest first; those that do not are left out."""
        codes = self.codes[rows]
        found = np.bincount(codes[codes >= 0], minlength=len(self.values))
        order = np.argsort(-found, kind="stable")
        return {self.values[code]: int(found[code]) for code in order if found[code]}


@dataclass(frozen=True)
class Overview:
    """One row for each visible photo, ascending by slot.

    `dated` is seconds (`datetime64[s]`, NaT where there is none) on the camera's clock, else of the file.
    A photo with copies lies in several folders: `file_rows[j]` is a row and `file_folders[j]` the number of a
    folder in `folders`.
    """

    slots: Ints
    image_ids: Ints
    dated: npt.NDArray[np.datetime64]
    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    camera: Column
    format: Column
    folders: tuple[bytes, ...]
    file_rows: Ints
    file_folders: Ints

    def rows_of(self, slots: Ints) -> Ints:
        """The rows of `slots`; those that are not visible are left out."""
        places = np.searchsorted(self.slots, slots)
        places = np.minimum(places, max(0, len(self.slots) - 1))
        known = self.slots[places] == slots if len(self.slots) else np.zeros(len(slots), bool)
        rows: Ints = places[known]
        return rows

    def folder_counts(self, rows: Ints) -> dict[bytes, int]:
        """How many of `rows` lie in each folder or below it, by path; copies of a photo count once."""
        tree, parents = self._tree
        inside = np.zeros(len(self.slots), bool)
        inside[rows] = True
        files = np.flatnonzero(inside[self.file_rows])
        row, folder = self.file_rows[files], self.file_folders[files]
        copied = np.bincount(row, minlength=len(self.slots))[row] > 1
        found = np.zeros(len(tree), np.int64)
        met = []
        while len(row):
            found += np.bincount(folder[~copied], minlength=len(tree))
            met.append(row[copied] * len(tree) + folder[copied])
            folder = parents[folder]
            deeper = folder >= 0
            row, folder, copied = row[deeper], folder[deeper], copied[deeper]
        once = np.unique(np.concatenate([np.empty(0, np.int64), *met]))
        found += np.bincount(once % max(1, len(tree)), minlength=len(tree))
        return {path: int(count) for path, count in zip(tree, found, strict=True) if count}

    @cached_property
    def _tree(self) -> tuple[list[bytes], Ints]:
        """`folders` and all that they lie in, each with the number of the one right above it, else −1."""
        paths = list(self.folders)
        known = {path: number for number, path in enumerate(paths)}
        parents: list[int] = []
        for path in paths:  # which grows meanwhile
            above = path[: max(1, path.rfind(b"/"))]
            if above not in known and above != path:
                known[above] = len(paths)
                paths.append(above)
            parents.append(-1 if above == path else known[above])
        return paths, np.array(parents, np.int64)


def overview(connection: sqlite3.Connection, space_id: int) -> Overview:
    """Read it, in two queries; at 100,000 photos that takes about a second, so keep it for a generation."""
    query = (
        "SELECT slot, images.id, dated_at, latitude, longitude, camera, format"
        " FROM embeddings JOIN images ON images.id = image_id"
        " WHERE space_id = ? AND hidden = 0 ORDER BY slot"
    )
    found = connection.execute(query, (space_id,)).fetchall()
    slots, ids, dated, north, east, camera, kind = zip(*found, strict=True) if found else ((),) * 7
    image_ids = np.array(ids, np.int64)
    folders, file_rows, file_folders = _folders(connection, image_ids)
    return Overview(
        slots=np.array(slots, np.int64),
        image_ids=image_ids,
        dated=np.array([_moment(text) for text in dated], "datetime64[s]"),
        latitude=np.array([np.nan if value is None else value for value in north], np.float64),
        longitude=np.array([np.nan if value is None else value for value in east], np.float64),
        camera=_column(camera),
        format=_column(kind),
        folders=folders,
        file_rows=file_rows,
        file_folders=file_folders,
    )


def _folders(connection: sqlite3.Connection, image_ids: Ints) -> tuple[tuple[bytes, ...], Ints, Ints]:
    query = "SELECT image_id, path FROM files WHERE missing_since IS NULL ORDER BY path"
    order = np.argsort(image_ids, kind="stable")
    ordered = image_ids[order]
    owners: list[int] = []
    numbers: list[int] = []
    known: dict[bytes, int] = {}
    for image_id, path in connection.execute(query):
        owners.append(image_id)
        folder = path[: max(1, path.rfind(b"/"))]  # `os.path.dirname` would take half of the time of it all
        numbers.append(known.setdefault(folder, len(known)))
    owner = np.array(owners, np.int64)
    places = np.minimum(np.searchsorted(ordered, owner), max(0, len(ordered) - 1))
    found = ordered[places] == owner if len(ordered) else np.zeros(len(owner), bool)
    return tuple(known), order[places[found]], np.array(numbers, np.int64)[found]


def _column(values: tuple[str | None, ...]) -> Column:
    known: dict[str, int] = {}
    codes = [-1 if value is None else known.setdefault(value, len(known)) for value in values]
    return Column(tuple(known), np.array(codes, np.int64))


def _moment(text: str | None) -> np.datetime64:
    try:
        return np.datetime64(text[:19] if text else "NaT", "s")
    except ValueError:
        return np.datetime64("NaT", "s")
