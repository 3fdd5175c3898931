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
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch import durable
from clipsearch.store import migrations
from clipsearch.store.connect import (
    BUSY_TIMEOUT_MS,
    Access,
    Immutable,
    catalog_errors,
    open_reader,
    open_writer,
)
from clipsearch.store.counts import Counts
from clipsearch.store.known import Known
from clipsearch.store.link import Link
from clipsearch.store.reader import Reading
from clipsearch.store.roots import Roots
from clipsearch.store.runs import Runs
from clipsearch.store.shards import Shards
from clipsearch.store.spaces import Spaces

if TYPE_CHECKING:
    from clipsearch.store.embeddings import Embeddings
    from clipsearch.store.failures import Failures
    from clipsearch.store.files import Files
    from clipsearch.store.images import Images

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
    """One transaction: the queries, by what they are about.

    Those about files, images, failures and embeddings are built with SQLAlchemy, which the first of
    them loads.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(link.driver)
        self._link = link
        self.roots = Roots(link.driver)
        self.runs = Runs(link.driver)
        self.shards = Shards(link.driver)
        self.spaces = Spaces(link.driver)
        self.counts = Counts(link.driver)
        self.known = Known(link.driver)

    @cached_property
    def images(self) -> Images:
        """The contents."""
        from clipsearch.store.images import Images

        return Images(self._link.built)

    @cached_property
    def files(self) -> Files:
        """The paths."""
        from clipsearch.store.files import Files

        return Files(self._link.built)

    @cached_property
    def failures(self) -> Failures:
        """The files that gave no image."""
        from clipsearch.store.failures import Failures

        return Failures(self._link.built)

    @cached_property
    def embeddings(self) -> Embeddings:
        """The slots."""
        from clipsearch.store.embeddings import Embeddings

        return Embeddings(self._link.built)

    def integrity(self) -> list[str]:
        """Return what is wrong with the file or between its rows, in sentences; empty when all is well."""
        found = self._driver.execute("PRAGMA integrity_check")
        problems = [str(problem) for (problem,) in found if problem != "ok"]
        for table, _, parent, _ in self._driver.execute("PRAGMA foreign_key_check"):
            problems.append(f"a row of {table} names a row of {parent} that is not there")
        for sentence, query in _RULES.items():
            (count,) = self._driver.execute(query).fetchone()
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
        self._driver.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'")


class Store:
    """The catalog file at `path`. A store opened for writing belongs to the holder of the library's lock."""

    def __init__(self, path: Path, access: Access = "read") -> None:
        """Open the file; raises LibraryVersion, LibraryDamaged, StorageError and leaves it untouched then.

        With "write" an older one is brought to the present schema; "create" makes it where there is none.
        """
        self.path = path
        self._access = access
        link = self._open()
        self._idle = [link]
        try:
            with catalog_errors(path):
                self.version = migrations.version_of(link.driver)
                migrations.check_version(path, self.version)
                if access != "read":
                    # It remembers. Comes after the look at the version.
                    link.driver.execute("PRAGMA journal_mode = WAL").fetchall()
                    migrations.migrate(link, path)
                    self.version = migrations.CURRENT_VERSION
        except BaseException:
            self.close()
            raise

    def _open(self) -> Link:
        if self._access == "read":
            return Link(open_reader(self.path))
        return Link(open_writer(self.path, self._access))

    @contextmanager
    def _link(self) -> Iterator[Link]:
        """Give a connection to the body alone: one that is idle, else a new one."""
        try:
            link = self._idle.pop()
        except IndexError:  # another thread was quicker
            link = self._open()
        try:
            yield link
        finally:
            if isinstance(link.driver, Immutable):
                link.close()
            else:
                self._idle.append(link)

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
        with catalog_errors(self.path), self._link() as link, link.transaction("BEGIN"):
            catalog = Catalog(link)
            catalog.generation()  # the first read is what fixes the state
            yield catalog

    @contextmanager
    def writing(self) -> Iterator[Catalog]:
        """Give a transaction; it commits when the body ends well, with the next generation, else never was.

        Raises StorageError, LibraryLocked, LibraryDamaged. Once it has returned, the changes are on the disk.
        """
        with durable.storage_errors(self.path), catalog_errors(self.path), self._link() as link:
            durable.failpoint("catalog.begin")
            with link.transaction("BEGIN IMMEDIATE"):
                catalog = Catalog(link)
                yield catalog
                catalog._bump_generation()
                durable.failpoint("catalog.commit")
            durable.failpoint("catalog.committed")

    def checkpoint(self) -> bool:
        """Write the log back into the file, as far as no reader needs it, and say whether that was all of it.

        Raises StorageError.
        """
        with durable.storage_errors(self.path), catalog_errors(self.path), self._link() as link:
            driver = link.driver
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

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
