"""The numbered steps that bring a catalog to the present schema, each in a transaction of its own.

The number of the last step done is SQLite's `PRAGMA user_version`, which lives in the file's header and
commits with the step. A step that was released is never edited: what changes gets a new module, ``m002_…``,
and a line in `STEPS`.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from clipsearch.errors import LibraryVersion
from clipsearch.store.link import Link
from clipsearch.store.migrations import m001_initial, m002_shards

Step = Sequence[str]

STEPS: tuple[Step, ...] = (m001_initial.STATEMENTS, m002_shards.STATEMENTS)
CURRENT_VERSION = len(STEPS)


def version_of(driver: sqlite3.Connection) -> int:
    """Return the number of the last step that the catalog has seen; 0 for an empty file."""
    return int(driver.execute("PRAGMA user_version").fetchone()[0])


def check_version(path: Path, version: int, newest: int = CURRENT_VERSION) -> None:
    """Raise LibraryVersion when a newer clipsearch wrote the catalog at `path`."""
    if version > newest:
        raise LibraryVersion(
            f"{path} was made by a newer clipsearch (format {version}; this one knows up to {newest}). "
            "It was left as it is; update clipsearch to open it."
        )


def migrate(link: Link, path: Path, steps: Sequence[Step] = STEPS) -> int:
    """Do the steps that the catalog has not seen and return how many; the caller holds the writer lock.

    A step that fails, or a process that dies in it, leaves the catalog at the step before. Raises
    LibraryVersion, with the file untouched, when the catalog is newer.
    """
    version = version_of(link.driver)
    check_version(path, version, len(steps))
    for number, statements in enumerate(steps[version:], start=version + 1):
        with link.transaction("BEGIN IMMEDIATE"):
            for statement in statements:
                link.driver.execute(statement)
            if number == 1:
                link.driver.execute(
                    "INSERT INTO meta (key, value) VALUES ('generation', '0'), ('library_id', ?)",
                    (secrets.token_hex(16),),
                )
            link.driver.execute(f"PRAGMA user_version = {number}")
    return len(steps) - version
