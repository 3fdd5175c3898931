"""Reading the files of strangers: whole, regular, unchanged, and never blocking."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import TYPE_CHECKING, Literal

from clipsearch.errors import ImageError

if TYPE_CHECKING:
    from clipsearch.tar_shards import MemberStat

FILE_LIMIT = 256 << 20
"""Bytes of the largest file that is read."""

# fmt: off
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib",
    ".tif", ".tiff", ".avif", ".avifs", ".heic", ".heif", ".hif",
})
# fmt: on
"""Suffixes, in lower case, of the files that a scan takes for images."""

FailureKind = Literal["unreadable", "corrupt", "too-large", "memory", "missing", "permission", "changed"]


class ImageFileError(ImageError):
    """`ImageError` that also says what kind of trouble it was, for the records of an indexing run."""

    def __init__(self, reason: str, kind: FailureKind) -> None:
        super().__init__(reason)
        self.kind: FailureKind = kind


def read_file(
    path: bytes | str | os.PathLike[str], *, follow_symlinks: bool = False
) -> tuple[bytes, os.stat_result | MemberStat]:
    """Read the whole of a regular file, or of one in a tar shard, and its stat, both from the same moment.

    Never blocks on a FIFO or a device, and follows no symbolic link in the last component unless asked to.

    Raises `ImageFileError`: kind "missing", "permission", "unreadable" (not a regular file, or an I/O error),
    "too-large" (over `FILE_LIMIT`) or "changed" (written to meanwhile; trying again may help).
    """
    try:
        with open_file(path, follow_symlinks=follow_symlinks) as file:
            before = os.fstat(file.fileno())
            _check_regular(before)
            data = _read_all(file, before.st_size)
            after = os.fstat(file.fileno())
    except NotADirectoryError as error:
        return _read_member(os.fsencode(path), error, follow_symlinks)
    except OSError as error:
        raise _refused_by_system(error) from error
    except ValueError as error:  # a NUL in the path
        raise ImageFileError("no such file", "missing") from error
    if len(data) != after.st_size or _version(before) != _version(after):
        raise ImageFileError("the file changed while it was read", "changed")
    return data, after


def open_file(path: bytes | str | os.PathLike[str], *, follow_symlinks: bool) -> io.FileIO:
    """Open a file for reading, unbuffered, without waiting for a FIFO or a device. Raises OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_symlinks else os.O_NOFOLLOW)
    return io.FileIO(os.open(path, flags), "rb")


def _read_member(path: bytes, error: OSError, follow_symlinks: bool) -> tuple[bytes, MemberStat]:
    """Read a file in a tar shard: `error` is what the system says of its path."""
    from clipsearch.tar_shards import MemberStat, find, shard_of

    shard = shard_of(path)
    if shard is None:
        raise _refused_by_system(error) from error
    try:
        with open_file(shard, follow_symlinks=follow_symlinks) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise ImageFileError("not a regular file", "unreadable")
            place = find(file.fileno(), before, path[len(shard) + 1 :])
            if place is None:
                raise ImageFileError("no such file", "missing")
            start, size = place
            _check_size(size)
            data = os.pread(file.fileno(), size, start)
            after = os.fstat(file.fileno())
    except OSError as found:
        raise _refused_by_system(found) from found
    if len(data) != size or _version(before) != _version(after):
        raise ImageFileError("the file changed while it was read", "changed")
    return data, MemberStat(size, after.st_mtime_ns, after.st_ctime_ns, start, after.st_dev)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageFileError("not a regular file", "unreadable")
    _check_size(status.st_size)


def _check_size(size: int) -> None:
    if size > FILE_LIMIT:
        found, limit = size >> 20, FILE_LIMIT >> 20
        raise ImageFileError(f"too large ({found} MiB; the limit is {limit} MiB)", "too-large")


def _read_all(file: io.FileIO, size: int) -> bytes:
    parts = []
    left = size + 1  # one more byte shows that the file has grown
    while left > 0 and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _refused_by_system(error: OSError) -> ImageFileError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        return ImageFileError("no such file", "missing")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ImageFileError("permission denied", "permission")
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return ImageFileError("a symbolic link, which is not followed", "unreadable")
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return ImageFileError("not a regular file", "unreadable")
    return ImageFileError(f"cannot be read: {error.strerror or error}", "unreadable")
