"""How SQLAlchemy is connected to the catalog.

The one module that is SQLite's own, beside `clipsearch.store.connect` and the migrations. A writer runs with
WAL, `synchronous=FULL` and `BEGIN IMMEDIATE`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from clipsearch.store import connect
from clipsearch.store.connect import BUSY_TIMEOUT_MS, READ_MODES, READER_PRAGMAS

Access = Literal["read", "write", "create"]

_WRITER_PRAGMAS = ("foreign_keys = ON", f"busy_timeout = {BUSY_TIMEOUT_MS}", "synchronous = FULL")


def open_engine(path: Path, access: Access) -> Engine:
    """Return an engine for the catalog at `path`, tried once; "create" makes the file.

    Raises LibraryDamaged, LibraryLocked, StorageError.
    """
    with catalog_errors(path):
        if access != "read":
            mode = "mode=rwc" if access == "create" else "mode=rw"
            return _tried(_engine(path, mode, "BEGIN IMMEDIATE", _WRITER_PRAGMAS))
        try:
            return _tried(_engine(path, READ_MODES[0], "BEGIN", READER_PRAGMAS))
        except DBAPIError as error:
            if not connect.needs_immutable(error, path):
                raise
        return _tried(_engine(path, READ_MODES[1], "BEGIN", READER_PRAGMAS))


@contextmanager
def catalog_errors(path: Path) -> Iterator[None]:
    """Turn what SQLAlchemy raises in the body into the error a user can act on, for the catalog at `path`."""
    try:
        with connect.catalog_errors(path):
            yield
    except SQLAlchemyError as error:
        raise connect.translated(error, path) from error


def _engine(path: Path, mode: str, begin: str, pragmas: tuple[str, ...]) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=lambda: connect.connect(path, mode),
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


def _tried(engine: Engine) -> Engine:
    """Return `engine` once it has read the header and the schema; a damaged file is noticed here."""
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
    except SQLAlchemyError:
        engine.dispose()
        raise
    return engine
