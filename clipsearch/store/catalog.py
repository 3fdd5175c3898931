"""The catalog of a library: opens it, runs transactions in it, and hands out the queries.

    with store.reading() as catalog:
        space = catalog.active_space()

Everything that is asked within one `reading()` sees one state; everything done within one `writing()` is kept
whole or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, text

from clipsearch import durable
from clipsearch.store import migrations
from clipsearch.store.connect import BUSY_TIMEOUT_MS
from clipsearch.store.counts import Counts
from clipsearch.store.embeddings import Embeddings
from clipsearch.store.engine import Access, catalog_errors, open_engine
from clipsearch.store.files import Files
from clipsearch.store.images import Images
from clipsearch.store.journal import Failures, Runs
from clipsearch.store.reader import Reading
from clipsearch.store.roots import Roots
from clipsearch.store.spaces import Spaces

# What must hold between rows, as queries that count the exceptions.
_RULES = {
    "spaces do not account for every slot as an embedding or a tombstone": (
        "SELECT count(*) FROM spaces WHERE slots <>"
        " (SELECT count(*) FROM embeddings WHERE space_id = spaces.id)"
        " + (SELECT count(*) FROM tombstones WHERE space_id = spaces.id)"
    ),
    "slots are used that were never committed": (
        "SELECT count(*) FROM embeddings JOIN spaces ON spaces.id = space_id WHERE slot < 0 OR slot >= slots"
    ),
    "tombstones are embeddings at the same time": (
        "SELECT count(*) FROM tombstones JOIN embeddings USING (space_id, slot)"
    ),
    "images are hidden although a file is there, or shown although none is": (
        "SELECT count(*) FROM images WHERE hidden = EXISTS"
        " (SELECT 1 FROM files WHERE image_id = images.id AND missing_since IS NULL)"
    ),
}


class Catalog(Reading):
    """One transaction: the queries, by what they are about."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(_driver_of(connection))
        self._connection = connection
        self.roots = Roots(connection)
        self.images = Images(connection)
        self.files = Files(connection)
        self.failures = Failures(connection)
        self.runs = Runs(connection)
        self.spaces = Spaces(connection)
        self.embeddings = Embeddings(connection)
        self.counts = Counts(connection)

    def integrity(self) -> list[str]:
        """Return what is wrong with the file or between its rows, in sentences; empty when all is well."""
        found = self._connection.exec_driver_sql("PRAGMA integrity_check").scalars()
        problems = [str(problem) for problem in found if problem != "ok"]
        for table, _, parent, _ in self._connection.exec_driver_sql("PRAGMA foreign_key_check"):
            problems.append(f"a row of {table} names a row of {parent} that is not there")
        for sentence, query in _RULES.items():
            count = self._connection.exec_driver_sql(query).scalar_one()
            if count:
                problems.append(f"{count:,} {sentence}")
        return problems

    def copy_to(self, target: Path) -> None:
        """Copy the catalog, in the state that this transaction sees, to the new file `target`.

        By SQLite's own backup, the one way that is right beside a writer. Raises StorageError.
        """
        with catalog_errors(target), closing(sqlite3.connect(target)) as copy:
            self._driver.backup(copy)

    def _bump_generation(self) -> None:
        self._connection.execute(
            text("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'")
        )


def _driver_of(connection: Connection) -> sqlite3.Connection:
    """Return the driver's own connection, which is in the same transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


class Store:
    """The catalog file at `path`. A store opened for writing belongs to the holder of the library's lock."""

    def __init__(self, path: Path, access: Access = "read") -> None:
        """Open the file; raises LibraryVersion, LibraryDamaged, StorageError and leaves it untouched then.

        With "write" an older one is brought to the present schema; "create" makes it where there is none.
        """
        self.path = path
        self._engine = open_engine(path, access)
        try:
            with catalog_errors(path):
                self.version = migrations.version_of(self._engine)
                migrations.check_version(path, self.version)
                if access != "read":
                    self._keep_log()
                    migrations.migrate(self._engine, path)
                    self.version = migrations.CURRENT_VERSION
        except BaseException:
            self.close()
            raise

    @property
    def is_current(self) -> bool:
        """Whether the catalog has the schema that the queries are written for."""
        return self.version == migrations.CURRENT_VERSION

    @contextmanager
    def reading(self) -> Iterator[Catalog]:
        """Give a view of one state of the catalog. Raises LibraryDamaged, StorageError.

        As long as it is open the write-ahead log keeps growing behind it, so keep it for an answer, not for a
        session.
        """
        with catalog_errors(self.path), self._engine.begin() as connection:
            catalog = Catalog(connection)
            catalog.generation()  # the first read is what fixes the state
            yield catalog

    @contextmanager
    def writing(self) -> Iterator[Catalog]:
        """Give a transaction; it commits when the body ends well, with the next generation, else never was.

        Raises StorageError, LibraryLocked, LibraryDamaged. Once it has returned, the changes are on the disk.
        """
        with (
            durable.storage_errors(self.path),
            catalog_errors(self.path),
            self._engine.connect() as connection,
        ):
            durable.failpoint("catalog.begin")
            with connection.begin():
                catalog = Catalog(connection)
                yield catalog
                catalog._bump_generation()
                durable.failpoint("catalog.commit")
            durable.failpoint("catalog.committed")

    def checkpoint(self) -> bool:
        """Write the log back into the file, as far as no reader needs it, and say whether that was all of it.

        Raises StorageError.
        """
        with durable.storage_errors(self.path), self._driver() as driver:
            durable.failpoint("catalog.checkpoint")
            [(_, logged, written)] = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            # Emptying the log takes a moment without readers; do not wait for one.
            driver.execute("PRAGMA busy_timeout = 0")
            try:
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                driver.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            durable.failpoint("catalog.checkpointed")
            return bool(logged == written)

    def _keep_log(self) -> None:
        """Switch the file to a write-ahead log, once: it remembers. Comes after the look at the version."""
        with self._driver() as driver:
            driver.execute("PRAGMA journal_mode = WAL").fetchall()

    @contextmanager
    def _driver(self) -> Iterator[sqlite3.Connection]:
        """Give the driver's own connection, outside any transaction."""
        with catalog_errors(self.path), closing(self._engine.raw_connection()) as pooled:
            driver = pooled.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            yield driver

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
