"""Queries about the models of the library and how far each has got."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, Select, delete, insert, select, update

from clipsearch.store.models import Embedding, Space, Tombstone
from clipsearch.store.rows import SpaceRow

_COLUMNS = (
    Space.id,
    Space.fingerprint,
    Space.model_name,
    Space.model_source,
    Space.dim,
    Space.active,
    Space.created_at,
    Space.slots,
    Space.epoch,
)


class Spaces:
    """The spaces, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self) -> list[SpaceRow]:
        """Return every space, oldest first."""
        return [SpaceRow(*row) for row in self._connection.execute(select(*_COLUMNS).order_by(Space.id))]

    def get(self, space_id: int) -> SpaceRow | None:
        """Return the space with that id."""
        return self._one(select(*_COLUMNS).where(Space.id == space_id))

    def by_fingerprint(self, fingerprint: str) -> SpaceRow | None:
        """Return the space of that model."""
        return self._one(select(*_COLUMNS).where(Space.fingerprint == fingerprint))

    def add(self, fingerprint: str, model_name: str, model_source: str, dim: int) -> int:
        """Make a space and return its id; the first one of a library is active from the start."""
        active = select(Space.id).where(Space.active == True)  # noqa: E712 - an SQL expression
        values = {
            "fingerprint": fingerprint,
            "model_name": model_name,
            "model_source": model_source,
            "dim": dim,
            "active": self._connection.execute(active).first() is None,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "slots": 0,
            "epoch": 0,
        }
        key = self._connection.execute(insert(Space).values(values)).inserted_primary_key
        assert key is not None
        return int(key[0])

    def activate(self, space_id: int) -> None:
        """Let this space answer queries, and no other."""
        self._connection.execute(update(Space).where(Space.id != space_id).values(active=False))
        self._connection.execute(update(Space).where(Space.id == space_id).values(active=True))

    def delete(self, space_id: int) -> None:
        """Forget a space with its embeddings."""
        for table in (Embedding, Tombstone):
            self._connection.execute(delete(table).where(table.space_id == space_id))
        self._connection.execute(delete(Space).where(Space.id == space_id))

    def _one(self, query: Select[int, str, str, str, int, bool, str, int, int]) -> SpaceRow | None:
        row = self._connection.execute(query).one_or_none()
        return None if row is None else SpaceRow(*row)
