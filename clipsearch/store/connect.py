"""How SQLite is spoken to, and what its failures mean; without SQLAlchemy, which a query has no time to load.

A reader opens the file read-only: it can neither checkpoint nor change anything, which also keeps it clear
of the WAL-reset bug of SQLite before 3.51.3 (two connections that checkpoint at once).
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from clipsearch.durable import storage_error
from clipsearch.errors import ClipsearchError, LibraryDamaged, LibraryLocked, StorageError

Access = Literal["read", "write", "create"]

BUSY_TIMEOUT_MS = 5000
READER_PRAGMAS = ("foreign_keys = ON", f"busy_timeout = {BUSY_TIMEOUT_MS}", "wal_autocheckpoint = 0")
WRITER_PRAGMAS = ("foreign_keys = ON", f"busy_timeout = {BUSY_TIMEOUT_MS}", "synchronous = FULL")
READ_MODES = ("mode=ro", "mode=ro&immutable=1")
"""How a reader opens the catalog. The second is for a folder that cannot be written, or a full disk, where
SQLite cannot make its shared-memory file: the database as an immutable file, which is right as long as no
``-wal`` with changes lies beside it (`needs_immutable`)."""

_NO_ROOM = frozenset({sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE})
"""What SQLite calls a full disk where it makes its shared memory, and a file above a limit."""

_PRIMARY = 0xFF  # SQLite's extended result codes carry the primary one in the low byte


def uri_of(path: Path, mode: str) -> str:
    """The SQLite URI of the file at `path`, to be opened in that mode."""
    return f"file:{quote(os.fsencode(path.absolute()))}?{mode}"


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Connect to the file at `path`; `mode` is that of an SQLite URI."""
    uri = uri_of(path, mode)
    kind = Immutable if "immutable=1" in mode else sqlite3.Connection
    # isolation_level=None: the driver starts no transactions of its own.
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, factory=kind)


class Immutable(sqlite3.Connection):
    """A connection that would not notice what is written: for one answer, not to be kept."""


def open_reader(path: Path) -> sqlite3.Connection:
    """Connect for reading, tried once: a damaged file is noticed here.

    Raises LibraryDamaged, LibraryLocked, StorageError.
    """
    with catalog_errors(path):
        try:
            return _tried(connect(path, READ_MODES[0]), READER_PRAGMAS)
        except sqlite3.Error as error:
            if not needs_immutable(error, path):
                raise
        return _tried(connect(path, READ_MODES[1]), READER_PRAGMAS)


def open_writer(path: Path, access: Access = "write") -> sqlite3.Connection:
    """Connect for writing, tried once; "create" makes the file.

    Raises LibraryDamaged, LibraryLocked, StorageError.
    """
    with catalog_errors(path):
        return _tried(connect(path, "mode=rwc" if access == "create" else "mode=rw"), WRITER_PRAGMAS)


def _tried(connection: sqlite3.Connection, pragmas: Sequence[str]) -> sqlite3.Connection:
    """Return `connection` once it has read the header and the schema."""
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except (sqlite3.Error, UnicodeDecodeError):
        connection.close()
        raise
    return connection


@contextmanager
def catalog_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite, or SQLAlchemy over it, raises in the body into the error a user can act on.

    `path` is the catalog's.
    """
    try:
        yield
    except (sqlite3.Error, json.JSONDecodeError, UnicodeDecodeError) as error:  # the last of a damaged schema
        raise translated(error, path) from error
    except Exception as error:
        if _is_sqlalchemys(error):
            raise translated(error, path) from error
        raise


def _is_sqlalchemys(error: Exception) -> bool:
    """Whether SQLAlchemy raised it, which it has not while it is not loaded."""
    module = sys.modules.get("sqlalchemy.exc")
    return module is not None and isinstance(error, module.SQLAlchemyError)


def needs_immutable(error: Exception, path: Path) -> bool:
    """Whether opening failed for want of a place for SQLite's shared memory, and the log holds nothing."""
    wal = path.with_name(f"{path.name}-wal")
    try:
        has_wal = wal.stat().st_size > 0
    except FileNotFoundError:
        has_wal = False
    refused = _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
    return (refused or _extended(error) in _NO_ROOM) and not has_wal


def _code(error: Exception) -> int:
    """Return SQLite's primary result code for an error of the driver or SQLAlchemy, 0 without one."""
    return _extended(error) & _PRIMARY


def _extended(error: Exception) -> int:
    return int(getattr(getattr(error, "orig", error), "sqlite_errorcode", 0))


def _too_many_are_open() -> bool:
    """Whether this process can open no more files than SQLite needs, which does not tell why it could not."""
    with ExitStack() as opened:
        try:
            for _ in ("database", "log", "shared memory", "folder"):
                opened.enter_context(Path(os.devnull).open("rb"))
        except OSError:
            return True
    return False


def translated(error: Exception, path: Path) -> ClipsearchError:
    """Return the sentence for an error of the driver, or of SQLAlchemy around one."""
    reason = str(getattr(error, "orig", None) or error)
    match _code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return LibraryLocked(
                f"{path} is in use by another program ({reason}); try again when it is done."
            )
        case sqlite3.SQLITE_FULL:
            return StorageError(
                f"The disk is full: {path} could not take the last batch. Free some space and run the "
                "command again; what was committed before is safe."
            )
        case sqlite3.SQLITE_CANTOPEN if _too_many_are_open():
            return storage_error(OSError(errno.EMFILE, reason), path)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StorageError(
                f"{path} cannot be opened or written ({reason}). Check the permissions of its folder; if the "
                "folder is read-only, a -wal file beside the catalog must first be written back by a command "
                "that may write there."
            )
        case sqlite3.SQLITE_IOERR if _extended(error) in _NO_ROOM:
            return StorageError(
                f"{path} takes no more bytes ({reason}): the disk may be full or failing, or a limit reached "
                "(`ulimit -f`). Make room, then run the command again; what was committed before is safe."
            )
        case sqlite3.SQLITE_IOERR:
            return StorageError(f"The disk failed at {path} ({reason}). Check the disk, then try again.")
        case _:
            return LibraryDamaged(
                f"{path} is not the catalog that clipsearch wrote ({reason}). It was left as it is; put a "
                "backup in its place, or move the library away and index again."
            )
