"""The catalog as a search reads it: no SQLAlchemy, so that a query from the shell is over before that loads.

`clipsearch.store.catalog` has everything else, over the same file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch.errors import LibraryDamaged
from clipsearch.store import migrations
from clipsearch.store.connect import Immutable, catalog_errors, open_reader
from clipsearch.store.rows import SpaceRow
from clipsearch.store.search import Search
from clipsearch.store.spaces import Spaces

if TYPE_CHECKING:
    from clipsearch.store.overview import Overview


class Reading:
    """One state of the catalog, within one transaction."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver
        self.search = Search(driver)

    def generation(self) -> int:
        """Return the number of committed transactions: two states of the catalog never share one."""
        written = self._meta("generation")
        if not written.isascii() or not written.isdigit():
            raise LibraryDamaged(
                f"the catalog's generation is {written[:40]!r}, not a number; put a backup in its place"
            )
        return int(written)

    def library_id(self) -> str:
        """Return the random id that the library was given when it was made (32 hex digits)."""
        return self._meta("library_id")

    def active_space(self) -> SpaceRow | None:
        """Return the space that answers queries; None before anything was indexed."""
        return Spaces(self._driver).active()

    def count_images(self) -> int:
        """Return the number of photos that can be found."""
        visible = "SELECT (SELECT count(*) FROM images) - (SELECT count(*) FROM images WHERE hidden = 1)"
        return int(self._driver.execute(visible).fetchone()[0])

    def overview(self, space_id: int) -> Overview:
        """Return the columns of all visible photos; see `clipsearch.store.overview`."""
        from clipsearch.store.overview import overview

        return overview(self._driver, space_id)

    def _meta(self, key: str) -> str:
        row = self._driver.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise LibraryDamaged(f"the catalog has lost its {key}; put a backup in its place")
        return str(row[0])


class Reader:
    """The catalog file at `path`, for reading. Safe to use from threads: each gets its own connection."""

    def __init__(self, path: Path) -> None:
        """Open the file; raises LibraryVersion (a newer one), LibraryDamaged, StorageError."""
        self.path = path
        self._idle = [open_reader(path)]
        try:
            with catalog_errors(path):
                self.version = migrations.version_of(self._idle[0])
            migrations.check_version(path, self.version)
        except BaseException:
            self.close()
            raise

    @property
    def is_current(self) -> bool:
        """Whether the catalog has the schema that the queries are written for."""
        return self.version == migrations.CURRENT_VERSION

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Give a view of one state of the catalog. Raises LibraryDamaged, StorageError.

        As long as it is open the write-ahead log keeps growing behind it, so keep it for an answer, not for a
        session.
        """
        try:
            connection = self._idle.pop()
        except IndexError:  # none, or another thread was quicker
            connection = open_reader(self.path)
        try:
            with catalog_errors(self.path):
                connection.execute("BEGIN")
                reading = Reading(connection)
                reading.generation()  # the first read is what fixes the state
                yield reading
                connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        if isinstance(connection, Immutable):
            connection.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()
