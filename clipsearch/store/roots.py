"""Queries about the folders that are indexed."""

from __future__ import annotations

import sqlite3

from clipsearch.store.rows import RootRow

_ROOTS = "SELECT id, path, filesystem_id, online, last_scanned FROM roots"


class Roots:
    """The roots, within one transaction."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def add(self, path: bytes, filesystem_id: str | None) -> int:
        """Return the id of the root at `path` (absolute), which is made when it is new.

        The file system of a root that is there already is left as it was first seen; `set_online` changes it.
        """
        self._driver.execute(
            "INSERT INTO roots (path, filesystem_id, online) VALUES (?, ?, 1) ON CONFLICT (path) DO NOTHING",
            (path, filesystem_id),
        )
        row = self._driver.execute("SELECT id FROM roots WHERE path = ?", (path,)).fetchone()
        return int(row[0])

    def get(self, path: bytes) -> RootRow | None:
        """Return the root at exactly `path`."""
        row = self._driver.execute(f"{_ROOTS} WHERE path = ?", (path,)).fetchone()
        return None if row is None else _root(*row)

    def all(self) -> list[RootRow]:
        """Return every root in order of path."""
        return [_root(*row) for row in self._driver.execute(f"{_ROOTS} ORDER BY path")]

    def set_online(self, root_id: int, online: bool, *, filesystem_id: str | None = None) -> None:
        """Say whether the root can be reached; `filesystem_id`, where given, replaces the stored one."""
        self._driver.execute(
            "UPDATE roots SET online = ?, filesystem_id = coalesce(?, filesystem_id) WHERE id = ?",
            (online, filesystem_id, root_id),
        )

    def set_scanned(self, root_id: int, when: str) -> None:
        """Note that the whole root was scanned at `when` (ISO 8601, UTC)."""
        self._driver.execute("UPDATE roots SET last_scanned = ? WHERE id = ?", (when, root_id))


def _root(
    root_id: int, path: bytes, filesystem_id: str | None, online: int, last_scanned: str | None
) -> RootRow:
    return RootRow(root_id, path, filesystem_id, bool(online), last_scanned)
