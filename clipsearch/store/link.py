"""A connection to the catalog, with SQLAlchemy over it only where a query is built with that.

Loading SQLAlchemy takes longer than finding out that nothing has changed, so transactions are the driver's
own, and what SQLAlchemy builds runs within them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


class Link:
    """One connection to the file, for one thread at a time."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self.driver = driver
        self._engine: Engine | None = None
        self._built: Connection | None = None
        self._transaction = ExitStack()

    @contextmanager
    def transaction(self, begin: str) -> Iterator[None]:
        """Run the body within one transaction; it counts if the body ends well, else never was."""
        self.driver.execute(begin)
        try:
            with self._transaction:
                yield
            self.driver.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # it may be over already: SQLite ends it where the disk is full
                self.driver.rollback()
            raise

    @property
    def built(self) -> Connection:
        """SQLAlchemy's connection within the transaction."""
        if self._built is None:
            from clipsearch.store.engine import engine_over

            if self._engine is None:
                self._engine = engine_over(self.driver)
            self._built = self._transaction.enter_context(self._engine.connect())
            self._transaction.callback(self._forget)
        return self._built

    def _forget(self) -> None:
        self._built = None

    def close(self) -> None:
        """Close the connection."""
        if self._engine is not None:
            self._engine.dispose()
        self.driver.close()
