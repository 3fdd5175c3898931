"""One training in a run's folder at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipsearch.durable import make_directory, storage_errors
from clipsearch.errors import UsageError

LOCK = "LOCK"


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Hold the folder as long as the block lasts; it ends with the process, however that dies.

    Raises UsageError where another process holds it, StorageError.
    """
    make_directory(out)
    path = out / LOCK
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another training is at work in {out}; wait for its end, or give another --out."
            ) from None
        yield
    finally:
        os.close(descriptor)
