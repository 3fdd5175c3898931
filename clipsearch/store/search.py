"""Queries of a search: which slots may be found, and what stands behind the slots that were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, Select, Text, and_, cast, or_, select

from clipsearch.store.chunks import chunks
from clipsearch.store.images import IMAGE_COLUMNS, image_row
from clipsearch.store.models import Embedding, File, Image, Space, Tombstone
from clipsearch.store.rows import Hit, ImageRow, SlotFilter

Slots = npt.NDArray[np.int64]

_HIDDEN = Image.hidden == True  # noqa: E712 - an SQL expression
_VISIBLE = Image.hidden == False  # noqa: E712 - an SQL expression


class Search:
    """What a search asks, within one transaction.

    Visible is an image of which at least one file is not missing. A root that is offline hides nothing.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def visible_slots(self, space_id: int) -> Slots:
        """Return the slots of visible images: int64, ascending.

        Costs what is *not* visible: all slots less tombstones and hidden images.
        """
        count = self._connection.execute(select(Space.slots).where(Space.id == space_id)).scalar_one()
        buried = select(Tombstone.slot).where(Tombstone.space_id == space_id)
        keep = np.ones(count, bool)
        for query in (hidden_slots(space_id), buried):
            keep[self._slots(query)] = False
        return np.flatnonzero(keep).astype(np.int64, copy=False)

    def slots_where(self, space_id: int, wanted: SlotFilter) -> Slots:
        """Return the slots of visible images that `wanted` admits: int64, ascending.

        Dates compare with `ImageRow.dated_at`: when the photo was taken, else the oldest time of its files.
        """
        if wanted.is_empty():
            return self.visible_slots(space_id)
        query = select(Embedding.slot).join(Image, Image.id == Embedding.image_id)
        query = query.where(Embedding.space_id == space_id, _VISIBLE, *_conditions(wanted))
        return np.sort(self._slots(query))

    def hits(self, space_id: int, slots: Sequence[int]) -> list[Hit]:
        """Return a Hit for each of `slots` that is visible, in the order given; one query per 5,000 slots."""
        images: dict[int, ImageRow] = {}
        paths: dict[int, list[bytes]] = {}
        for part in chunks([int(slot) for slot in slots]):
            query = (
                select(*IMAGE_COLUMNS, Embedding.slot, File.path)
                .join(Embedding, Embedding.image_id == Image.id)
                .join(File, File.image_id == Image.id)
                .where(Embedding.space_id == space_id, Embedding.slot.in_(part))
                .where(File.missing_since.is_(None))
                .order_by(File.path)
            )
            for row in self._connection.execute(query):
                slot, path = row.slot, row.path
                if slot not in images:
                    images[slot] = image_row(row)
                paths.setdefault(slot, []).append(path)
        return [Hit(int(slot), images[slot], tuple(paths[slot])) for slot in slots if slot in images]

    def slot_of_path(self, space_id: int, path: bytes) -> int | None:
        """Return the slot of the image that was last seen at exactly `path`, missing or not."""
        query = select(Embedding.slot).join(File, File.image_id == Embedding.image_id)
        query = query.where(Embedding.space_id == space_id, File.path == path)
        return self._connection.execute(query).scalar_one_or_none()

    def slot_of_image(self, space_id: int, image_id: int) -> int | None:
        """Return the slot of an image, None where it has no embedding in the space."""
        query = select(Embedding.slot).where(Embedding.space_id == space_id, Embedding.image_id == image_id)
        return self._connection.execute(query).scalar_one_or_none()

    def places(self, space_id: int) -> list[tuple[int, float, float]]:
        """Return (slot, latitude, longitude) of each visible image that has a place."""
        query = select(Embedding.slot, Image.latitude, Image.longitude)
        query = query.join(Image, Image.id == Embedding.image_id)
        query = query.where(Embedding.space_id == space_id, _VISIBLE, Image.latitude.is_not(None))
        rows = self._connection.execute(query)
        return [(slot, north, east) for slot, north, east in rows if north is not None and east is not None]

    def dates(self, space_id: int) -> list[tuple[int, str]]:
        """Return (slot, `dated_at`) of each visible image that has a date, oldest first."""
        query = select(Embedding.slot, Image.dated_at).join(Image, Image.id == Embedding.image_id)
        query = query.where(Embedding.space_id == space_id, _VISIBLE, Image.dated_at.is_not(None))
        rows = self._connection.execute(query.order_by(Image.dated_at, Embedding.slot))
        return [(slot, str(date)) for slot, date in rows]

    def _slots(self, query: object) -> Slots:
        rows = self._connection.execute(query)  # type: ignore[call-overload]
        return np.fromiter(rows.scalars(), np.int64)


def hidden_slots(space_id: int) -> Select[int]:
    """Return the query for the slots of images that are hidden."""
    query = select(Embedding.slot).join(Image, Image.id == Embedding.image_id)
    # "+ 0" keeps SQLite from walking the whole space in order of slot: the few hidden images come first.
    return query.where(_HIDDEN, Embedding.space_id + 0 == space_id)


def _conditions(wanted: SlotFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.under:
        conditions.append(_has_file(or_(*(_under(folder) for folder in wanted.under))))
    if wanted.after is not None:
        conditions.append(Image.dated_at >= wanted.after)
    if wanted.before is not None:
        conditions.append(Image.dated_at < wanted.before)
    if wanted.has_gps is not None:
        conditions.append(Image.latitude.is_not(None) if wanted.has_gps else Image.latitude.is_(None))
    if wanted.box is not None:
        conditions.append(_inside(wanted.box))
    if wanted.camera is not None:
        conditions.append(Image.camera.icontains(wanted.camera, autoescape=True))
    if wanted.formats:
        conditions.append(Image.format.in_([name.upper() for name in wanted.formats]))
    if wanted.text is not None:
        conditions.append(_mentions(wanted.text))
    return conditions


def _under(folder: bytes) -> ColumnElement[bool]:
    """Return "the path is `folder` or lies in it"; in a range of bytes `%` and `_` mean themselves."""
    stem = folder.rstrip(b"/")
    inside = (File.path >= stem + b"/") & (File.path < stem + b"0")  # "0" is the byte after "/"
    return or_(File.path == stem, inside)


def _has_file(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return Image.id.in_(select(File.image_id).where(File.missing_since.is_(None), condition))


def _inside(box: tuple[float, float, float, float]) -> ColumnElement[bool]:
    south, west, north, east = box
    past_west, before_east = Image.longitude >= west, Image.longitude <= east
    # A box with west > east crosses the date line.
    across = and_(past_west, before_east) if west <= east else or_(past_west, before_east)
    return and_(Image.latitude.between(south, north), across)


def _mentions(words: str) -> ColumnElement[bool]:
    return or_(
        Image.caption.icontains(words, autoescape=True),
        cast(Image.keywords, Text).icontains(words, autoescape=True),
        _has_file(cast(File.path, Text).icontains(words, autoescape=True)),
    )
