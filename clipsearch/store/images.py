"""Queries about contents: which are known, how a new one is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.sqlite import insert

from clipsearch.store.chunks import chunks
from clipsearch.store.files import Files, file_date
from clipsearch.store.models import Image
from clipsearch.store.rows import ImageRow, NewImage

_IMAGE_COLUMNS = (
    Image.id,
    Image.hash,
    Image.size,
    Image.width,
    Image.height,
    Image.format,
    Image.taken_at,
    Image.taken_offset,
    Image.dated_at,
    Image.latitude,
    Image.longitude,
    Image.camera,
    Image.lens,
    Image.caption,
    Image.keywords,
    Image.added_at,
)


class Images:
    """The contents, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, image_id: int) -> ImageRow | None:
        """Return the image with that id."""
        row = self._connection.execute(select(*_IMAGE_COLUMNS).where(Image.id == image_id)).one_or_none()
        return None if row is None else _image_row(row)

    def ids_by_hash(self, hashes: Sequence[bytes]) -> dict[bytes, int]:
        """Return hash → image id for those of `hashes` (16 bytes each) that are known."""
        found: dict[bytes, int] = {}
        for part in chunks(hashes):
            query = select(Image.hash, Image.id).where(Image.hash.in_(part))
            found.update((content, image) for content, image in self._connection.execute(query))
        return found

    def record(self, images: Sequence[NewImage]) -> list[int]:
        """Insert images with the files they were found at and return their ids, in the order given.

        A hash that is known keeps its id and takes the new metadata; the same hash twice is one image.
        """
        if not images:
            return []
        now = datetime.now(UTC).isoformat(timespec="seconds")
        statement = insert(Image)
        kept = {"id", "hash", "added_at", "hidden", "dated_at"}
        values = [_values(image, now) for image in images]
        columns: dict[str, Any] = {name: statement.excluded[name] for name in values[0] if name not in kept}
        columns["dated_at"] = func.coalesce(
            statement.excluded.taken_at,
            func.min(Image.dated_at, statement.excluded.dated_at),
            statement.excluded.dated_at,
        )
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=[Image.hash], set_=columns), values
        )
        ids = self.ids_by_hash([image.hash for image in images])
        ordered = [ids[image.hash] for image in images]
        placed = [
            (image_id, file) for image_id, image in zip(ordered, images, strict=True) for file in image.files
        ]
        if placed:
            Files(self._connection).place(placed)
        return ordered


def _image_row(row: Sequence[Any]) -> ImageRow:
    """Return the image of a row of `_IMAGE_COLUMNS`."""
    values = list(row)
    values[-2] = tuple(values[-2])
    return ImageRow(*values)


def _values(image: NewImage, now: str) -> dict[str, object]:
    metadata = image.metadata
    dates = sorted(date for file in image.files if (date := file_date(file)) is not None)
    return {
        "hash": image.hash,
        "size": image.size,
        "width": metadata.width,
        "height": metadata.height,
        "format": metadata.format,
        "taken_at": metadata.taken_at,
        "taken_offset": metadata.taken_offset,
        "dated_at": metadata.taken_at or (dates[0] if dates else None),
        "latitude": metadata.latitude,
        "longitude": metadata.longitude,
        "camera": _legible(metadata.camera),
        "lens": _legible(metadata.lens),
        "caption": _legible(metadata.caption),
        "keywords": [_legible(word) for word in metadata.keywords],
        "added_at": now,
        "hidden": True,
    }


def _legible(words: str | None) -> str | None:
    """Return text as SQLite can store it: a lone surrogate becomes a question mark."""
    return None if words is None else words.encode("utf-8", "replace").decode("utf-8")
