"""The note by which a client finds the server of a library: port and token, in the user's cache folder.

The server holds a lock of the kernel (`flock`) on its note for as long as it lives, however it ends. So a
note that nobody holds is stale, whoever has its process id or its port by now, and no token is sent there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from clipsearch import __version__
from clipsearch.config import cache_folder
from clipsearch.durable import make_directory, storage_errors
from clipsearch.errors import ServerError

_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW
_PATIENCE = 1.0
"""Seconds for which a server tries to get its lock: a client has it too while it looks who holds it."""


@dataclass(frozen=True)
class Entry:
    """A server that runs: what it serves, and how it is reached."""

    library: str
    port: int
    token: str
    pid: int
    version: str = __version__

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


def entry_path(library: Path) -> Path:
    """Where the note for the library at `library` is: a cache folder may be shared by several machines."""
    key = json.dumps([os.uname().nodename, _name(library)])
    return cache_folder() / "servers" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


@contextmanager
def published(library: Path, port: int, token: str) -> Iterator[Path]:
    """Let clients find this server within the block; gives the note's path.

    Raises ServerError where another server of the library runs, StorageError.
    """
    path = entry_path(library)
    with storage_errors(path):
        make_directory(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN, 0o600)
    try:
        _lock(descriptor, path)
        entry = Entry(_name(library), port, token, os.getpid())
        with storage_errors(path):
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(entry)).encode(), 0)
        try:
            yield path
        finally:
            with suppress(OSError):  # not removed: another server may have opened it already
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def find(library: Path) -> Entry | None:
    """The server of this version that serves the library at `library`; None if none does."""
    with suppress(OSError, ValueError, TypeError):
        descriptor = os.open(entry_path(library), os.O_RDONLY | _OPEN)
        try:
            entry = _read(descriptor) if _is_ours(descriptor) and _is_held(descriptor) else None
        finally:
            os.close(descriptor)
        if entry is not None and (entry.library, entry.version) == (_name(library), __version__):
            return entry
    return None


def _name(library: Path) -> str:
    return os.path.realpath(library)


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
        with storage_errors(path):
            held = os.pread(descriptor, 4096, 0)
        try:
            entry = Entry(**json.loads(held))
        except (ValueError, TypeError):  # it is just starting
            raise ServerError("A server for this library is starting already.") from None
        raise ServerError(
            f"A server for this library runs already: process {entry.pid}, at {entry.address}. "
            "Queries use it; to start another, end that one first."
        )


def _is_ours(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    return status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077


def _is_held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _read(descriptor: int) -> Entry:
    return Entry(**json.loads(os.pread(descriptor, 4096, 0)))
