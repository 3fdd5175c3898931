"""Queries about the folders that are indexed."""

from __future__ import annotations

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.sqlite import insert

from clipsearch.store.models import Root
from clipsearch.store.rows import RootRow

_COLUMNS = (Root.id, Root.path, Root.filesystem_id, Root.online, Root.last_scanned)


class Roots:
    """The roots, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, path: bytes, filesystem_id: str | None) -> int:
        """Return the id of the root at `path` (absolute), which is made when it is new.

        The file system of a root that is there already is left as it was first seen; `set_online` changes it.
        """
        statement = insert(Root).values(path=path, filesystem_id=filesystem_id, online=True)
        self._connection.execute(statement.on_conflict_do_nothing(index_elements=[Root.path]))
        return self._connection.execute(select(Root.id).where(Root.path == path)).scalar_one()

    def get(self, path: bytes) -> RootRow | None:
        """Return the root at exactly `path`."""
        row = self._connection.execute(select(*_COLUMNS).where(Root.path == path)).one_or_none()
        return None if row is None else RootRow(*row)

    def all(self) -> list[RootRow]:
        """Return every root in order of path."""
        return [RootRow(*row) for row in self._connection.execute(select(*_COLUMNS).order_by(Root.path))]

    def set_online(self, root_id: int, online: bool, *, filesystem_id: str | None = None) -> None:
        """Say whether the root can be reached; `filesystem_id`, where given, replaces the stored one."""
        values: dict[str, object] = {"online": online}
        if filesystem_id is not None:
            values["filesystem_id"] = filesystem_id
        self._connection.execute(update(Root).where(Root.id == root_id).values(values))

    def set_scanned(self, root_id: int, when: str) -> None:
        """Note that the whole root was scanned at `when` (ISO 8601, UTC)."""
        self._connection.execute(update(Root).where(Root.id == root_id).values(last_scanned=when))
