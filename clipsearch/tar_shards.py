"""Images in tar shards, as webdataset has them, read where they lie.

A shard is to a library what a folder is: ``shard.tar/0001.jpg`` is the path of a file in it. It is one file
to the system, though, so its members have its times, and where they begin in it for an inode. Compressed
archives are not read: nothing in them can be reached without unpacking all before it.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from clipsearch.files import open_file

_BLOCK = 512
_END = bytes(_BLOCK)
_SHARD = re.compile(rb"\.tar/", re.IGNORECASE)
_WINDOW = 1 << 16  # bytes that the headers of one file may take
_READ = 1 << 12  # bytes read at once: headers of small files lie together
_RECORDS = ord("x")  # the kind of a header of PAX records
_KEPT = 2  # shards whose members a process remembers
_recent: dict[tuple[int, ...], dict[bytes, tuple[int, int]]] = {}


class MemberStat(NamedTuple):
    """What `os.stat` would say of a member, were it a file."""

    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_ino: int
    """Where its bytes begin in the shard."""
    st_dev: int

    @property
    def st_mode(self) -> int:
        """That of a regular file."""
        return stat.S_IFREG


class Member:
    """A file in a shard, with the part of `os.DirEntry` that a scan asks for."""

    __slots__ = ("_status", "name", "path")

    def __init__(self, path: bytes, status: MemberStat) -> None:
        self.path = path
        self.name = path[path.rindex(b"/") + 1 :]
        self._status = status

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """It is one."""
        return True

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """It is none."""
        return False

    def is_symlink(self) -> bool:
        """It is none."""
        return False

    def stat(self, *, follow_symlinks: bool = True) -> MemberStat:
        """Its size, and the times of the shard."""
        return self._status


class ShardError(OSError):
    """A shard is not what a tar archive is, from some place on."""


def shard_of(path: bytes) -> bytes | None:
    """The path of the shard that a path would lie in; None where no part of it is named like one."""
    found = _SHARD.search(path)
    return None if found is None else path[: found.end() - 1]


def caption_path(path: bytes) -> bytes | None:
    """Where webdataset has the words about an image in a shard: ``key.txt`` beside ``key.jpg``."""
    shard = shard_of(path)
    if shard is None:
        return None
    folder, _, name = path.rpartition(b"/")
    return b"%b/%b.txt" % (folder, name.partition(b".")[0])


def members(shard: bytes, wanted: Callable[[bytes], bool] = bool) -> Iterator[Member]:
    """The regular files of a shard with a wanted name, in order; of several of one path the last.

    Raises ShardError where the archive is damaged, once it has given what stands before, and OSError.
    """
    with open_file(shard, follow_symlinks=True) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), shard)
        found: dict[bytes, Member] = {}
        damage: ShardError | None = None
        try:
            for name, start, size in _walk(file.fileno(), status.st_size):
                if not wanted(name[name.rfind(b"/") + 1 :]):
                    continue
                path = b"%b/%b" % (shard, name)
                one = MemberStat(size, status.st_mtime_ns, status.st_ctime_ns, start, status.st_dev)
                found.pop(path, None)
                found[path] = Member(path, one)
        except ShardError as error:
            damage = error
    yield from found.values()
    if damage is not None:
        raise damage


def find(descriptor: int, status: os.stat_result, name: bytes) -> tuple[int, int] | None:
    """Where a member of the open shard begins, and its size; None where there is none of that name."""
    version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    places = _recent.pop(version, None)
    if places is None:
        for oldest in list(_recent)[: len(_recent) + 1 - _KEPT]:  # several threads may be at it
            _recent.pop(oldest, None)
        places = {}
        with suppress(ShardError):  # what stands before the damage can be read
            for member, start, size in _walk(descriptor, status.st_size):
                places[member] = start, size
    _recent[version] = places
    return places.get(name)


def _walk(descriptor: int, length: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and size of each regular file. Raises ShardError where the archive is damaged.

    Headers of the plain kinds, nearly all there are, are read here, in a fifth of the time that `tarfile`
    takes; it reads the others.
    """
    position = base = 0
    window = b""
    while True:
        at = position - base
        if at + _BLOCK > len(window):
            window, base, at = os.pread(descriptor, _READ, position), position, 0
        header = window[at : at + _BLOCK]
        if header == _END or (position and not header):
            return
        size = _plain_size(header)
        if size is not None and header[156] == _RECORDS:
            begin, end = at + _BLOCK, at + _BLOCK + size
            records = window[begin:end] if end <= len(window) else os.pread(descriptor, size, base + begin)
            if not _says_more(records):
                position += _BLOCK + _padded(size)
                continue
            size = None
        if size is not None:
            name, start = _plain_name(header), position + _BLOCK
            position = start + _padded(size)
        else:
            info, begin = _special(os.pread(descriptor, _WINDOW, position)), position
            position += info.next
            if info.name is None:
                continue
            name, start, size = info.name, begin + info.start, info.size
        if start + size > length:
            raise ShardError(0, "the archive ends in the middle of a file")
        inner = _inner(name)
        if inner is not None:
            yield inner, start, size


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _plain_size(header: bytes) -> int | None:
    """The size that a header of the plain kinds tells, of a file or of PAX records; None for any other."""
    if len(header) < _BLOCK or header[156] not in b"0\0x":
        return None
    try:
        total, size = int(header[148:156].strip(b" \0"), 8), int(header[124:136].strip(b" \0"), 8)
    except ValueError:
        return None
    # The sum of all bytes, those of the sum itself taken for blanks: Adler-32 has it, modulo 65,521, in a
    # tenth of the time.
    there = total - 256 + sum(header[148:156])
    if size < 0 or (zlib.adler32(header) & 0xFFFF) != (1 + there) % 65_521:
        return None
    if header[156] == _RECORDS:
        return size if size <= _WINDOW else None
    return None if _plain_name(header).endswith(b"/") else size  # an old way to write a folder


def _plain_name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return b"%b/%b" % (prefix, name) if prefix else name


def _says_more(records: bytes) -> bool:
    """Whether PAX records change what the next header says of a file's name, place or size."""
    return b"path=" in records or b"size=" in records or b"GNU." in records or b"hdrcharset=" in records


class _Special(NamedTuple):
    """What `tarfile` makes of headers; positions from their beginning on. The name is None of no file."""

    name: bytes | None
    start: int
    size: int
    next: int


def _special(window: bytes) -> _Special:
    """Read the headers at the beginning of `window`. Raises ShardError."""
    import tarfile  # here, because few shards need it

    try:
        with tarfile.TarFile(fileobj=io.BytesIO(window), encoding="utf-8") as archive:
            info, behind = archive.next(), archive.offset
    except Exception as error:  # of what strangers write tarfile raises more than TarError
        raise ShardError(0, "not a tar archive, or damaged") from error
    if info is None or behind <= 0:
        raise ShardError(0, "the archive is damaged")
    is_file = info.isreg() and not info.issparse() and info.size >= 0
    name = info.name.encode("utf-8", "surrogateescape") if is_file else None
    return _Special(name, info.offset_data, info.size, behind)


def _inner(name: bytes) -> bytes | None:
    """A member's name as the end of a path; None for one that would lead out of the shard."""
    if b"/" not in name and name not in (b"", b".", b".."):
        return name if b"\0" not in name else None
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    return b"/".join(parts) if parts and b".." not in parts and b"\0" not in name else None
