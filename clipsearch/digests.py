"""The SHA-256 of large files, remembered as long as the file is the same.

Hashing the weights of a ViT-B/32 takes half a second, more than the query that wants to know whether they are
the ones that made the library. What is remembered is named by the file's path and stat (device, inode, size,
both times), as git's index and this project's own scanner tell changed files from unchanged ones; writing to
a file changes its ctime, which no program can set back. A file that changed within the last two seconds is
not remembered: it may change again within the resolution of its times.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from clipsearch.config import cache_folder
from clipsearch.durable import make_directory, replace
from clipsearch.errors import StorageError

LEAST = 4 << 20
"""Bytes from which remembering pays: less is hashed in a few milliseconds."""
RACY_NS = 2_000_000_000

_HEX = re.compile(rb"[0-9a-f]{64}")


def sha256_of(file: BufferedReader) -> bytes:
    """The SHA-256 of a file that was opened by its path, from its start to its end."""
    status = os.fstat(file.fileno())
    if status.st_size < LEAST:
        return _hashed(file)
    note = _note(file, status)
    with suppress(OSError):
        known = note.read_bytes()
        if _HEX.fullmatch(known):
            return bytes.fromhex(known.decode())
    digest = _hashed(file)
    settled = max(status.st_mtime_ns, status.st_ctime_ns) < time.time_ns() - RACY_NS
    if settled and _identity(os.fstat(file.fileno())) == _identity(status):
        with suppress(StorageError):  # a cache that cannot be kept costs time only
            make_directory(note.parent)
            replace(note, digest.hex().encode(), name="digest")
    return digest


def _hashed(file: BufferedReader) -> bytes:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").digest()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _note(file: BufferedReader, status: os.stat_result) -> Path:
    """Where the digest of this file, as it is now, is remembered."""
    key = json.dumps([os.path.realpath(file.name), *_identity(status)])
    return cache_folder() / "digests" / hashlib.sha256(key.encode()).hexdigest()[:32]
