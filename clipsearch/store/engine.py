"""SQLAlchemy over a connection that belongs to somebody else, who also runs its transactions."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool


def engine_over(driver: sqlite3.Connection) -> Engine:
    """Return an engine whose one connection is `driver`, in whatever transaction that is."""
    return create_engine(
        "sqlite://",
        creator=lambda: _Borrowed(driver),
        poolclass=StaticPool,
        # Keywords stay legible, and findable as text, in any script.
        json_serializer=lambda value: json.dumps(value, ensure_ascii=False),
    )


class _Borrowed:
    """A connection that SQLAlchemy can neither end the transaction of nor close, though it does ask."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def commit(self) -> None:
        pass

    def rollback(self) -> None:
        pass

    def close(self) -> None:
        pass
