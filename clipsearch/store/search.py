"""Queries of a search: which slots may be found, and what stands behind the slots that were.

Plain SQL on the driver's own connection: a query from the shell has no time to load SQLAlchemy.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.store.chunks import chunks
from clipsearch.store.rows import Hit, ImageRow, SlotFilter

Slots = npt.NDArray[np.int64]

# "+" keeps SQLite from walking the whole space in order of slot: the few hidden images come first.
HIDDEN_SLOTS = (
    "SELECT slot FROM embeddings JOIN images ON images.id = image_id WHERE hidden = 1 AND +space_id = ?"
)
_BURIED_SLOTS = "SELECT slot FROM tombstones WHERE space_id = ?"
_VISIBLE = "FROM embeddings JOIN images ON images.id = image_id WHERE space_id = ? AND hidden = 0"

_IMAGE = tuple(field.name for field in fields(ImageRow))
_HITS = (
    f"SELECT {', '.join(f'images.{name}' for name in _IMAGE)}, slot, path"  # noqa: S608 - names of columns
    " FROM embeddings JOIN images ON images.id = embeddings.image_id"
    " JOIN files ON files.image_id = images.id"
    " WHERE space_id = ? AND missing_since IS NULL AND slot IN ({}) ORDER BY path"
)


class Search:
    """What a search asks, within one transaction.

    Visible is an image of which at least one file is not missing. A root that is offline hides nothing.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def visible_slots(self, space_id: int) -> Slots:
        """Return the slots of visible images: int64, ascending.

        Costs what is *not* visible: all slots less tombstones and hidden images.
        """
        (count,) = self._connection.execute("SELECT slots FROM spaces WHERE id = ?", (space_id,)).fetchone()
        keep = np.ones(count, bool)
        for query in (HIDDEN_SLOTS, _BURIED_SLOTS):
            keep[self._slots(query, [space_id])] = False
        return np.flatnonzero(keep).astype(np.int64, copy=False)

    def slots_where(self, space_id: int, wanted: SlotFilter) -> Slots:
        """Return the slots of visible images that `wanted` admits: int64, ascending.

        Dates compare with `ImageRow.dated_at`: when the photo was taken, else the oldest time of its files.
        """
        if wanted.is_empty():
            return self.visible_slots(space_id)
        query, values = f"SELECT slot {_VISIBLE}", [space_id]
        for condition, compared in _conditions(wanted):
            query += f" AND {condition}"
            values += compared
        return np.sort(self._slots(query, values))

    def captions(self) -> list[str]:
        """Return the captions that visible images have, each once, in the order of their images."""
        query = (
            "SELECT caption FROM images WHERE hidden = 0 AND caption <> '' GROUP BY caption ORDER BY min(id)"
        )
        return [caption for (caption,) in self._connection.execute(query)]

    def hits(self, space_id: int, slots: Sequence[int]) -> list[Hit]:
        """Return a Hit for each of `slots` that is visible, in the order given; one query per 5,000 slots."""
        images: dict[int, ImageRow] = {}
        paths: dict[int, list[bytes]] = {}
        for part in chunks([int(slot) for slot in slots]):
            query = _HITS.format(", ".join("?" * len(part)))
            for *image, slot, path in self._connection.execute(query, (space_id, *part)):
                if slot not in images:
                    images[slot] = _image_row(image)
                paths.setdefault(slot, []).append(path)
        return [Hit(int(slot), images[slot], tuple(paths[slot])) for slot in slots if slot in images]

    def slot_of_path(self, space_id: int, path: bytes) -> int | None:
        """Return the slot of the image that was last seen at exactly `path`, missing or not."""
        query = (
            "SELECT slot FROM embeddings JOIN files ON files.image_id = embeddings.image_id"
            " WHERE space_id = ? AND path = ?"
        )
        return self._one(query, [space_id, path])

    def slot_of_image(self, space_id: int, image_id: int) -> int | None:
        """Return the slot of an image, None where it has no embedding in the space."""
        return self._one(
            "SELECT slot FROM embeddings WHERE space_id = ? AND image_id = ?", [space_id, image_id]
        )

    def places(self, space_id: int) -> list[tuple[int, float, float]]:
        """Return (slot, latitude, longitude) of each visible image that has a place."""
        query = f"SELECT slot, latitude, longitude {_VISIBLE}"
        rows = self._connection.execute(f"{query} AND latitude IS NOT NULL", (space_id,))
        return [(slot, north, east) for slot, north, east in rows if east is not None]

    def dates(self, space_id: int) -> list[tuple[int, str]]:
        """Return (slot, `dated_at`) of each visible image that has a date, oldest first."""
        query = f"SELECT slot, dated_at {_VISIBLE} AND dated_at IS NOT NULL"
        return list(self._connection.execute(f"{query} ORDER BY dated_at, slot", (space_id,)))

    def _slots(self, query: str, values: Sequence[Any]) -> Slots:
        return np.fromiter((slot for (slot,) in self._connection.execute(query, values)), np.int64)

    def _one(self, query: str, values: Sequence[Any]) -> int | None:
        row = self._connection.execute(query, values).fetchone()
        return None if row is None else int(row[0])


def _image_row(values: list[Any]) -> ImageRow:
    """Return the image of a row of `_IMAGE` columns."""
    keywords = _IMAGE.index("keywords")
    values[keywords] = tuple(json.loads(values[keywords]))
    return ImageRow(*values)


Condition = tuple[str, Sequence[Any]]
"""A piece of SQL, and the values for its question marks."""


def _conditions(wanted: SlotFilter) -> list[Condition]:
    conditions: list[Condition] = []
    if wanted.under:
        conditions.append(_has_file(_any_of([_under(folder) for folder in wanted.under])))
    if wanted.after is not None:
        conditions.append(("dated_at >= ?", [wanted.after]))
    if wanted.before is not None:
        conditions.append(("dated_at < ?", [wanted.before]))
    if wanted.has_gps is not None:
        conditions.append((f"latitude IS {'NOT NULL' if wanted.has_gps else 'NULL'}", []))
    if wanted.box is not None:
        conditions.append(_inside(wanted.box))
    if wanted.camera is not None:
        conditions.append(_mentioned("camera", wanted.camera))
    if wanted.formats:
        names = [name.upper() for name in wanted.formats]
        conditions.append((f"format IN ({', '.join('?' * len(names))})", names))
    if wanted.text is not None:
        path = _has_file(_mentioned("CAST(path AS TEXT)", wanted.text))
        conditions.append(
            _any_of([_mentioned("caption", wanted.text), _mentioned("keywords", wanted.text), path])
        )
    return conditions


def _any_of(conditions: Sequence[Condition]) -> Condition:
    written = " OR ".join(f"({condition})" for condition, _ in conditions)
    return f"({written})", [value for _, values in conditions for value in values]


def _under(folder: bytes) -> Condition:
    """Return "the path is `folder` or lies in it"; in a range of bytes `%` and `_` mean themselves."""
    stem = folder.rstrip(b"/")
    # "0" is the byte after "/".
    return "path = ? OR (path >= ? AND path < ?)", [stem, stem + b"/", stem + b"0"]


def _has_file(condition: Condition) -> Condition:
    written, values = condition
    inner = f"SELECT image_id FROM files WHERE missing_since IS NULL AND ({written})"  # noqa: S608
    return f"images.id IN ({inner})", values


def _inside(box: tuple[float, float, float, float]) -> Condition:
    south, west, north, east = box
    # A box with west > east crosses the date line.
    across = "AND" if west <= east else "OR"
    return (
        f"latitude BETWEEN ? AND ? AND (longitude >= ? {across} longitude <= ?)",
        [south, north, west, east],
    )


def _mentioned(column: str, words: str) -> Condition:
    """Return "`words` are part of the column", without regard to (ASCII) case; `%` and `_` are letters."""
    return f"instr(lower({column}), lower(?)) > 0", [words]
