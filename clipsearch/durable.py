"""Every byte that clipsearch itself writes to a library goes through here.

Three ways to write, each wholly there after a power loss or not at all:

* `append` – bytes at the end of an append-only file, then fdatasync;
* `replacing` and `replace` – a temporary file, fsync, rename over the old one, fsync of the directory;
* `truncate` – cut a file, then fsync.

A failure of the disk becomes a `StorageError` that says what to do. A descriptor whose fsync failed is
closed and never asked again: the kernel may have dropped the pages and would answer "all is well".

Failpoints. ``CLIPSEARCH_FAILPOINT="name:action[:nth]"`` makes the nth arrival (the first, unless told) at the
named step fail, so that every step of a protocol can be visited. Actions: ``kill`` (SIGKILL to this process),
``eio``, ``enospc`` and ``short`` (a write that stops half-way). A file written under the name ``x`` passes
``x.open``, ``x.write`` (half of the bytes are in the file), ``x.sync``, ``x.synced`` and, where the file is
replaced, ``x.rename``, ``x.renamed`` and ``x.dirsync``.
"""

from __future__ import annotations

import errno
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from clipsearch.errors import StorageError

if sys.platform == "darwin":
    import fcntl

FAILPOINT_VARIABLE = "CLIPSEARCH_FAILPOINT"
TEMPORARY_SUFFIX = ".tmp"

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of the errors of a disk, or of a limit, that has no room."""
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_TOO_MANY = {errno.EMFILE, errno.ENFILE}
_OBSTRUCTED = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}
_ERRNO_OF_ACTION = {"eio": errno.EIO, "enospc": errno.ENOSPC, "short": errno.EIO}
_arrivals: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Fail here if `CLIPSEARCH_FAILPOINT` says so: raises OSError or kills the process. Else nothing."""
    action = _ordered_action(name)
    if action is not None:
        _fail(action, name)


def too_many_files(error: BaseException) -> bool:
    """Whether it was the limit on open files; of a C or Rust library's errors only the words tell."""
    number = error.errno if isinstance(error, OSError) else None
    return number in _TOO_MANY or os.strerror(errno.EMFILE) in str(error)


def storage_error(error: OSError, path: Path, needed: int | None = None) -> StorageError:
    """Return the sentence for a failed operation on `path`; `needed` bytes were still to be written."""
    if error.errno in FULL:
        more = f" needs {needed:,} bytes more" if needed else " needs more space"
        return StorageError(
            f"The disk is full: {path}{more}. Free some space and run the command again; "
            "what was committed before is safe."
        )
    if error.errno in _READ_ONLY:
        return StorageError(
            f"{path} cannot be opened or written ({error.strerror}). Searching still works in a library that "
            "can be read; for the rest, give this user the permission or name another folder."
        )
    if error.errno in _TOO_MANY:
        return StorageError(f"{path} cannot be opened: too many files are open (`ulimit -n` allows more).")
    if error.errno in _OBSTRUCTED:
        return StorageError(
            f"{path} cannot be opened or written ({error.strerror}). Give another name, or move what is in "
            "the way."
        )
    return StorageError(
        f"The disk failed at {path} ({error.strerror or error}). Nothing more was written; check the disk, "
        "then run the command again."
    )


def raise_for_too_many_files(error: BaseException, path: Path) -> None:
    """Raise StorageError if `error` comes of the limit on open files: then nothing is wrong with the file."""
    if too_many_files(error):
        raise storage_error(OSError(errno.EMFILE, str(error)), path) from error


@contextmanager
def storage_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn an OSError of the body into the StorageError for `path` (`needed` in bytes)."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path, needed) from error


def append(path: Path, data: bytes, *, at: int, name: str) -> None:
    """Put `data` at offset `at` of `path` in place of whatever stood there, and wait until it is on the disk.

    The file is made if it is not there. Raises StorageError (also where the file ends before `at`); the bytes
    before `at` are untouched in any case.
    """
    created = not path.exists()
    with storage_errors(path, len(data)):
        failpoint(f"{name}.open")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with storage_errors(path, len(data)):
            if os.fstat(descriptor).st_size < at:  # ftruncate would fill the gap with zeros
                raise OSError(errno.EIO, f"the file ends before byte {at:,}")
            os.ftruncate(descriptor, at)
        try:
            _write_all(descriptor, path, data, at, name)
        except StorageError:
            # Give the space back. A failure here changes nothing: the next writer cuts the tail as well.
            with suppress(OSError):
                os.ftruncate(descriptor, at)
            raise
        with storage_errors(path):
            _sync(descriptor, name)
    finally:
        os.close(descriptor)
    if created:
        sync_directory(path.parent, name=name)


def truncate(path: Path, size: int, *, name: str) -> None:
    """Cut `path` to `size` bytes and wait until that is on the disk. Raises StorageError."""
    with storage_errors(path):
        failpoint(f"{name}.open")
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            _sync(descriptor, name)
        finally:
            os.close(descriptor)


def overwrite(descriptor: int, path: Path, data: bytes) -> None:
    """Make `data` the whole content of an open file without waiting for the disk: for notes, not for truth.

    Raises StorageError, which names `path`.
    """
    with storage_errors(path, len(data)):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)


@contextmanager
def replacing(path: Path, *, name: str) -> Iterator[BinaryIO]:
    """Give a binary file to write; when the body ends well it becomes `path` in one step, durably.

    When the body raises, or the disk fails, the old file stays as it was and the temporary one is removed.
    Raises StorageError for the disk's failures, also for those that happen while the body writes.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with storage_errors(path):
            failpoint(f"{name}.open")
            with temporary.open("xb") as file:
                yield file
                file.flush()
                _pass_half_written(file, f"{name}.write")
                _sync(file.fileno(), name)
            failpoint(f"{name}.rename")
            temporary.replace(path)
            failpoint(f"{name}.renamed")
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent, name=name)


def replace(path: Path, data: bytes, *, name: str) -> None:
    """Make `data` the content of `path`: afterwards the old content is there or the new, never a mixture."""
    with replacing(path, name=name) as file:
        file.write(data)


def rename(path: Path, target: Path, *, name: str) -> None:
    """Give a file or folder another name in the same folder, durably. Raises StorageError."""
    with storage_errors(target):
        failpoint(f"{name}.rename")
        path.rename(target)
        failpoint(f"{name}.renamed")
    sync_directory(target.parent, name=name)


def make_directory(path: Path) -> None:
    """Make `path` and its parents, each durably. Raises StorageError."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent)
    with storage_errors(path):
        path.mkdir(exist_ok=True)
    sync_directory(path.parent, name="mkdir")


def remove(path: Path) -> None:
    """Remove a file if it is there. Raises StorageError."""
    with storage_errors(path):
        path.unlink(missing_ok=True)


def sync_directory(path: Path, *, name: str) -> None:
    """Wait until the entries of a directory are on the disk. Raises StorageError."""
    with storage_errors(path):
        failpoint(f"{name}.dirsync")
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, path: Path, data: bytes, at: int, name: str) -> None:
    """Write all of `data`: the kernel may take less than it was given, and says why at the next call."""
    view, done = memoryview(data), 0
    for end in (len(data) // 2, len(data)):
        while done < end:
            with storage_errors(path, len(data) - done):
                taken = os.pwrite(descriptor, view[done:end], at + done)
                if taken == 0:
                    raise OSError(errno.EIO, "the disk takes no more bytes")
            done += taken
        if end < len(data):
            with storage_errors(path, len(data) - done):
                failpoint(f"{name}.write")


def _pass_half_written(file: BinaryIO, name: str) -> None:
    """Pass the failpoint of a write, where it fires with only half of the bytes in the file."""
    action = _ordered_action(name)
    if action is not None:
        file.truncate(file.tell() // 2)
        _fail(action, name)


def _ordered_action(name: str) -> str | None:
    """Return the action that this arrival at `name` is ordered to take, if any."""
    order = os.environ.get(FAILPOINT_VARIABLE)
    if order is None:
        return None
    wanted, action, *nth = order.split(":")
    if wanted != name:
        return None
    _arrivals[order] = _arrivals.get(order, 0) + 1
    return action if _arrivals[order] == int(nth[0] if nth else 1) else None


def _fail(action: str, name: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    code = _ERRNO_OF_ACTION[action]
    raise OSError(code, f"{os.strerror(code)} (failpoint {name})")


def _sync(descriptor: int, name: str) -> None:
    failpoint(f"{name}.sync")
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync there stops at the drive's cache
    elif hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)  # includes the size, which is all of the metadata that reading needs
    else:
        os.fsync(descriptor)
    failpoint(f"{name}.synced")
