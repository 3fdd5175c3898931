"""Queries about the models of the library and how far each has got."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from clipsearch.store.rows import SpaceRow

_SPACES = f"SELECT {', '.join(field.name for field in fields(SpaceRow))} FROM spaces"  # noqa: S608 - columns
_TABLES = ("embeddings", "tombstones")


class Spaces:
    """The spaces, within one transaction."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def all(self) -> list[SpaceRow]:
        """Return every space, oldest first."""
        return [_space(row) for row in self._driver.execute(f"{_SPACES} ORDER BY id")]

    def get(self, space_id: int) -> SpaceRow | None:
        """Return the space with that id."""
        return self._one("id = ?", space_id)

    def by_fingerprint(self, fingerprint: str) -> SpaceRow | None:
        """Return the space of that model."""
        return self._one("fingerprint = ?", fingerprint)

    def active(self) -> SpaceRow | None:
        """Return the space that answers queries; None before anything was indexed."""
        return self._one("active = ?", 1)

    def add(self, fingerprint: str, model_name: str, model_source: str, dim: int) -> int:
        """Make a space and return its id; the first one of a library is active from the start."""
        made = self._driver.execute(
            "INSERT INTO spaces (fingerprint, model_name, model_source, dim, created_at, active)"
            " VALUES (?, ?, ?, ?, ?, NOT EXISTS (SELECT 1 FROM spaces WHERE active = 1))",
            (fingerprint, model_name, model_source, dim, datetime.now(UTC).isoformat(timespec="seconds")),
        )
        assert made.lastrowid is not None
        return made.lastrowid

    def activate(self, space_id: int) -> None:
        """Let this space answer queries, and no other."""
        self._driver.execute("UPDATE spaces SET active = 0 WHERE id <> ?", (space_id,))
        self._driver.execute("UPDATE spaces SET active = 1 WHERE id = ?", (space_id,))

    def delete(self, space_id: int) -> None:
        """Forget a space with its embeddings."""
        for table in _TABLES:
            self._driver.execute(f"DELETE FROM {table} WHERE space_id = ?", (space_id,))  # noqa: S608
        self._driver.execute("DELETE FROM spaces WHERE id = ?", (space_id,))

    def _one(self, condition: str, value: object) -> SpaceRow | None:
        row = self._driver.execute(f"{_SPACES} WHERE {condition}", (value,)).fetchone()
        return None if row is None else _space(row)


def _space(row: Sequence[Any]) -> SpaceRow:
    values = dict(zip((field.name for field in fields(SpaceRow)), row, strict=True))
    return SpaceRow(**values | {"active": bool(values["active"])})
