"""One writer at a time, by a lock of the kernel on the file ``LOCK``.

The lock (`flock`) belongs to the open file, so it ends with the process however that dies; a number left in
the file locks nothing. What is in the file only serves the sentence that the second writer gets to read.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from clipsearch import durable
from clipsearch.errors import LibraryLocked, StorageError


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, never waiting for it. Raises LibraryLocked with the holder, StorageError."""
    with durable.storage_errors(path):
        # Not inherited by programs that are started, so a worker that outlives us does not hold the lock.
        # It is written to, so never through a link that lies in its place.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LibraryLocked(_sentence(path, descriptor)) from None
        except OSError as error:
            raise durable.storage_error(error, path) from error
        with suppress(StorageError):  # a full disk must not keep anyone from pruning
            durable.overwrite(descriptor, path, _holder())
        with durable.storage_errors(path):
            durable.failpoint("lock.taken")
        try:
            yield
        finally:
            with suppress(OSError):  # our name is no answer to who holds the lock next
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _holder() -> bytes:
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode()


def _sentence(path: Path, descriptor: int) -> str:
    library = path.parent
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        if holder["host"] == socket.gethostname():
            os.kill(holder["pid"], 0)  # a killed one may have left its name
    except PermissionError:  # of another user, and alive
        pass
    except (OSError, ValueError, KeyError, TypeError, OverflowError):  # the holder is just writing its name
        who = "another process"
    if not who.isprintable():
        who = "another process"
    return f"{library} is being written by {who}. Searching works meanwhile; try again when it is done."
