"""What the files of a library were when the last writer left: sums by which damage shows before it is used.

``SEAL`` names the generation it belongs to, and for the catalog and each vector file its length and the sum
of its 64-bit words, modulo 2^64. A changed bit, and a zeroed or torn page, change the sum; it costs what
reading costs, so a query can afford it where the CRCs of all rows would cost more than the query. It is
additive: a run that appended rows adds theirs, and what was damaged before stays
damaged in the sum.

Only a state that is wholly in the catalog file, nothing of it in the log, can be sealed. Of another
generation the seal says nothing: then a writer is at work, or died.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch import durable

ALWAYS = 256 << 20
"""Bytes up to which a reader sums a file whenever it opens a library; a larger one only where its
stat says that it was written to since, for a cold query must not read gigabytes."""

_CHUNK = 256 << 10
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Sealed:
    """The first `bytes` of a file, and its stat when it was sealed."""

    bytes: int
    sum: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Seal:
    """The state `generation`: path relative to the library's folder → what stood there."""

    generation: int
    files: Mapping[str, Sealed]


def read_seal(path: Path) -> Seal | None:
    """Return the seal at `path`; None where there is none, or none that is legible."""
    try:
        text = json.loads(path.read_bytes())
        files, generation = text["files"], text["generation"]
        if text["check"] != _check(generation, files):
            return None
        return Seal(generation, {name: Sealed(**entry) for name, entry in files.items()})
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return None


def write_seal(path: Path, seal: Seal) -> None:
    """Put the seal in its place, durably. Raises StorageError."""
    files = {name: asdict(entry) for name, entry in sorted(seal.files.items())}
    text = {"generation": seal.generation, "files": files, "check": _check(seal.generation, files)}
    durable.replace(path, json.dumps(text, indent=1).encode(), name="seal")


def seal_of(path: Path, size: int, before: Sealed | None = None) -> Sealed:
    """Return the seal of the first `size` bytes of `path`; those that `before` covers are not read again.

    Raises StorageError, also for a file that is shorter.
    """
    done = before if before is not None and before.bytes <= size else Sealed(0, 0, 0, 0)
    with durable.storage_errors(path):
        total = (done.sum + word_sum(path, done.bytes, size)) & _MASK
        status = path.stat()
    return Sealed(size, total, status.st_mtime_ns, status.st_ino)


def differs(path: Path, sealed: Sealed, *, whole: bool, trust_stat: bool = True) -> bool:
    """Whether `path` is not what was sealed; `whole`: nor may anything stand behind it.

    With `trust_stat`, a file above `ALWAYS` whose stat is the sealed one is believed unread. Raises
    StorageError.
    """
    with durable.storage_errors(path):
        try:
            status = path.stat()
        except FileNotFoundError:
            return sealed.bytes > 0
        if status.st_size < sealed.bytes or (whole and status.st_size != sealed.bytes):
            return True
        if trust_stat and is_believed(path, sealed):
            return False
        return word_sum(path, 0, sealed.bytes) != sealed.sum


def is_believed(path: Path, sealed: Sealed) -> bool:
    """Whether a file is too large to be summed by every reader and was not written to since it was sealed."""
    status = path.stat()
    return sealed.bytes > ALWAYS and (status.st_mtime_ns, status.st_ino) == (sealed.mtime_ns, sealed.inode)


def sum_in_memory(data: npt.NDArray[np.uint8]) -> int:
    """Sum contiguous bytes, of a file's start, as `word_sum` does: without the copy where they are mapped."""
    whole = len(data) // 8 * 8
    total = int(data[:whole].view("<u8").sum(dtype=np.uint64))
    return (total + int.from_bytes(data[whole:].tobytes(), "little")) & _MASK


def word_sum(path: Path, start: int, stop: int) -> int:
    """Sum the bytes `start` to `stop` of a file as little-endian 64-bit words, modulo 2^64.

    Words lie at multiples of 8 of the file, so sums of adjoining parts add up. Raises OSError, also for a
    file that ends before `stop`.
    """
    total, at = 0, start
    buffer = bytearray(_CHUNK)  # one, small enough to stay in the processor's cache
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while at < stop:
            lead = at % 8
            count = file.readinto(memoryview(buffer)[lead : lead + min(_CHUNK - 16, stop - at)])
            if not count:
                raise OSError(f"the file ends before byte {stop:,}")
            at += count
            end = lead + count
            buffer[:lead], buffer[end : end + -end % 8] = bytes(lead), bytes(-end % 8)
            total += int(np.frombuffer(buffer, "<u8", count=(end + 7) // 8).sum(dtype=np.uint64))
    return total & _MASK


def _check(generation: int, files: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps([generation, files], sort_keys=True).encode())
