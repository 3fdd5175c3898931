"""Queries about which slot of a space holds the embedding of which image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import ColumnElement, Connection, delete, insert, select, text, update

from clipsearch.errors import LibraryDamaged
from clipsearch.store.chunks import chunks
from clipsearch.store.models import Embedding, Space, Tombstone


class Embeddings:
    """The slots, within one transaction. A committed slot is either an embedding or a tombstone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, space_id: int, first_slot: int, embedded: Sequence[tuple[int, int]]) -> None:
        """Commit the slots from `first_slot` on, each with its (image id, CRC-32 of the row).

        An image that had an embedding in the space gets the new one, and the old slot becomes a tombstone; of
        two rows for one image the later counts. Raises LibraryDamaged when `first_slot` is not the next one.
        """
        current = select(Space.slots).where(Space.id == space_id)
        if self._connection.execute(current).scalar_one() != first_slot:
            raise LibraryDamaged(
                f"slot {first_slot:,} is not the next one of space {space_id}; nothing was kept"
            )
        self._bury_images(space_id, [image_id for image_id, _ in embedded])
        last = {image_id: slot for slot, (image_id, _) in enumerate(embedded, first_slot)}
        live, dead = [], []
        for slot, (image_id, crc32) in enumerate(embedded, first_slot):
            key = {"space_id": space_id, "slot": slot}
            if last[image_id] == slot:
                live.append(key | {"image_id": image_id, "crc32": crc32})
            else:
                dead.append(key)
        if live:
            self._connection.execute(insert(Embedding), live)
        if dead:
            self._connection.execute(insert(Tombstone), dead)
        grown = update(Space).where(Space.id == space_id).values(slots=first_slot + len(embedded))
        self._connection.execute(grown)

    def drop(self, space_id: int, slots: Sequence[int]) -> int:
        """Make `slots` tombstones, so that their images want an embedding again; return how many."""
        return sum(
            bury(self._connection, (Embedding.space_id == space_id) & Embedding.slot.in_(part))
            for part in chunks(slots)
        )

    def cut(self, space_id: int, slots: int) -> int:
        """Forget the slots from `slots` on, whose rows are lost; return how many embeddings that were."""
        lost = (Embedding.space_id == space_id) & (Embedding.slot >= slots)
        count = self._connection.execute(delete(Embedding).where(lost)).rowcount
        buried = (Tombstone.space_id == space_id) & (Tombstone.slot >= slots)
        self._connection.execute(delete(Tombstone).where(buried))
        self._connection.execute(update(Space).where(Space.id == space_id).values(slots=slots))
        return count

    def renumber(self, space_id: int, live: Sequence[int]) -> None:
        """Give the embeddings at slots `live` (ascending: all there are) the slots 0, 1, … of a new epoch."""
        statement = text("UPDATE embeddings SET slot = :new WHERE space_id = :space_id AND slot = :old")
        moved = [{"space_id": space_id, "old": old, "new": new} for new, old in enumerate(live) if new != old]
        if moved:
            # One after the other, ascending and never upwards: a slot that is given has been left before.
            self._connection.execute(statement, moved)
        self._connection.execute(delete(Tombstone).where(Tombstone.space_id == space_id))
        values = {"slots": len(live), "epoch": Space.epoch + 1}
        self._connection.execute(update(Space).where(Space.id == space_id).values(values))

    def checksums(self, space_id: int) -> Iterator[tuple[int, int]]:
        """Yield (slot, CRC-32 of the row) of each embedding, in order of slot."""
        query = select(Embedding.slot, Embedding.crc32).where(Embedding.space_id == space_id)
        for row in self._connection.execute(query.order_by(Embedding.slot)):
            yield row[0], row[1]

    def live_slots(self, space_id: int) -> list[int]:
        """Return the slots that hold an embedding, ascending."""
        query = select(Embedding.slot).where(Embedding.space_id == space_id).order_by(Embedding.slot)
        return list(self._connection.execute(query).scalars())

    def dead_slots(self, space_id: int) -> list[int]:
        """Return the slots that no image uses any more, ascending."""
        query = select(Tombstone.slot).where(Tombstone.space_id == space_id).order_by(Tombstone.slot)
        return list(self._connection.execute(query).scalars())

    def _bury_images(self, space_id: int, image_ids: Sequence[int]) -> None:
        for part in chunks(image_ids):
            bury(self._connection, (Embedding.space_id == space_id) & Embedding.image_id.in_(part))


def bury(connection: Connection, condition: ColumnElement[bool]) -> int:
    """Turn the embeddings that fit `condition` into tombstones and return how many there were."""
    dead = select(Embedding.space_id, Embedding.slot).where(condition)
    connection.execute(insert(Tombstone).from_select(["space_id", "slot"], dead))
    return connection.execute(delete(Embedding).where(condition)).rowcount
