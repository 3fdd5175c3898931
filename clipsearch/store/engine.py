"""How a connection to the catalog is opened, and what its failures mean.

The one module that is SQLite's own, beside the migrations. A writer runs with WAL, `synchronous=FULL` and
`BEGIN IMMEDIATE`. A reader opens the file read-only: it can neither checkpoint nor change anything, which
also keeps it clear of the WAL-reset bug of SQLite before 3.51.3 (two connections that checkpoint at once).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from clipsearch.errors import ClipsearchError, LibraryDamaged, LibraryLocked, StorageError

Access = Literal["read", "write", "create"]

BUSY_TIMEOUT_MS = 5000

_PRIMARY = 0xFF  # SQLite's extended result codes carry the primary one in the low byte
_READER_PRAGMAS = ("foreign_keys = ON", f"busy_timeout = {BUSY_TIMEOUT_MS}", "wal_autocheckpoint = 0")
_WRITER_PRAGMAS = ("foreign_keys = ON", f"busy_timeout = {BUSY_TIMEOUT_MS}", "synchronous = FULL")


def open_engine(path: Path, access: Access) -> Engine:
    """Return an engine for the catalog at `path`, tried once; "create" makes the file.

    A reader of a folder that cannot be written, where SQLite cannot make its shared-memory file, gets the
    database as an immutable file, which is right as long as no ``-wal`` with changes lies beside it. Raises
    LibraryDamaged, LibraryLocked, StorageError.
    """
    with catalog_errors(path):
        if access != "read":
            mode = "mode=rwc" if access == "create" else "mode=rw"
            return _tried(_engine(path, mode, "BEGIN IMMEDIATE", _WRITER_PRAGMAS))
        try:
            return _tried(_engine(path, "mode=ro", "BEGIN", _READER_PRAGMAS))
        except DBAPIError as error:
            if _code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or _has_wal(path):
                raise
        return _tried(_engine(path, "mode=ro&immutable=1", "BEGIN", _READER_PRAGMAS))


@contextmanager
def catalog_errors(path: Path) -> Iterator[None]:
    """Turn what SQLAlchemy raises in the body into the error a user can act on, for the catalog at `path`."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, json.JSONDecodeError) as error:
        raise _translated(error, path) from error


def _engine(path: Path, query: str, begin: str, pragmas: tuple[str, ...]) -> Engine:
    uri = f"file:{quote(os.fsencode(path.absolute()))}?{query}"
    engine = create_engine(
        "sqlite://",
        creator=lambda: _connect(uri),
        poolclass=QueuePool,
        # Keywords stay legible, and findable as text, in any script.
        json_serializer=lambda value: json.dumps(value, ensure_ascii=False),
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _connect(uri: str) -> sqlite3.Connection:
    # isolation_level=None: the driver starts no transactions of its own, `_begin` above does.
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def _tried(engine: Engine) -> Engine:
    """Return `engine` once it has read the header and the schema; a damaged file is noticed here."""
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
    except SQLAlchemyError:
        engine.dispose()
        raise
    return engine


def _has_wal(path: Path) -> bool:
    wal = path.with_name(f"{path.name}-wal")
    try:
        return wal.stat().st_size > 0
    except FileNotFoundError:
        return False


def _code(error: Exception) -> int:
    """Return SQLite's primary result code for an error of the driver or SQLAlchemy, 0 without one."""
    return int(getattr(getattr(error, "orig", error), "sqlite_errorcode", 0)) & _PRIMARY


def _translated(error: Exception, path: Path) -> ClipsearchError:
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
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StorageError(
                f"{path} cannot be opened or written ({reason}). Check the permissions of its folder; if the "
                "folder is read-only, a -wal file beside the catalog must first be written back by a command "
                "that may write there."
            )
        case sqlite3.SQLITE_IOERR:
            return StorageError(f"The disk failed at {path} ({reason}). Check the disk, then try again.")
        case _:
            return LibraryDamaged(
                f"{path} is not the catalog that clipsearch wrote ({reason}). It was left as it is; put a "
                "backup in its place, or move the library away and index again."
            )
