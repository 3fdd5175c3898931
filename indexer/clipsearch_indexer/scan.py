# ruff: noqa: PTH100, PTH116
# pathlib cannot hold a path of bytes, and a name here need not be text.
"""Walking a folder of photos: what is there, without opening any of it.

Nothing is dropped in silence: what cannot be listed or looked at is reported as `Unscanned`, so that the
rows of files below it are kept, never taken for deleted.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from clipsearch.files import SUFFIXES

if TYPE_CHECKING:
    from clipsearch.store.rows import LastStat
    from clipsearch.tar_shards import Member, MemberStat

    Entry: TypeAlias = os.DirEntry[bytes] | Member

DEFAULT_EXCLUDES = (
    ".[!.]*",  # hidden: .git, .thumbnails, .Trash-1000, AppleDouble's ._IMG_1.jpg (but not "...jpg")
    "@eaDir",  # Synology's previews
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "__MACOSX",
    "node_modules",
)
"""Names of files and folders that a scan leaves out; see `scan` for what a pattern means."""

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
_SUFFIXES = frozenset(suffix[1:].encode() for suffix in SUFFIXES)
_COMMON = frozenset(case for suffix in SUFFIXES for case in (suffix.encode(), suffix.upper().encode()))
_UUIDS = "/dev/disk/by-uuid"
_UNSIGNED = (1 << 64) - 1


class FileStat(NamedTuple):
    """A regular file as `stat` saw it; any difference means that it has to be looked at again."""

    path: bytes
    """Absolute."""
    size: int
    """Bytes."""
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, path: bytes, status: os.stat_result | MemberStat) -> FileStat:
        """Give the stat of `path` in this form."""
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


class Unscanned(NamedTuple):
    """Something that was met and not scanned, and why."""

    path: bytes
    """Absolute."""
    reason: str
    kind: Literal["directory", "file", "symlink", "special"]
    """A "directory" or a "file" that could not be looked at may still hold what the library knows of it;
    a "symlink" (to a folder, or with the name of an image) and a "special" file with the name of an image
    are left alone on purpose."""


class Settled(NamedTuple):
    """Image files of one folder that are as they were, and so are not yielded one by one."""

    path: bytes
    """Of the folder, absolute."""
    files: int
    """How many there are."""


class Listed(NamedTuple):
    """A tar shard of which every image was met, as it was before that."""

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class Unopened(NamedTuple):
    """A tar shard that need not be opened: what is known of its images holds."""

    path: bytes
    files: int
    """How many images are in it."""


class Bounds(NamedTuple):
    """A part of all paths: those from `first` on and before `end`, in the order of bytes."""

    first: bytes = b""
    end: bytes = b""
    """Empty for no end."""

    def hold(self, path: bytes) -> bool:
        """Whether the path is within."""
        return self.first <= path and (not self.end or path < self.end)

    def cover(self, folder: bytes) -> bool:
        """Whether all paths below the folder are within."""
        below = folder.rstrip(b"/")
        return self.first <= below + b"/" and (not self.end or below + _BEHIND <= self.end)

    def meet(self, folder: bytes) -> bool:
        """Whether paths below the folder may be within."""
        below = folder.rstrip(b"/")
        return self.first < below + _BEHIND and (not self.end or below + b"/" < self.end)

    def below(self, folder: bytes) -> tuple[bytes, bytes]:
        """First and end of what is within and below the folder."""
        prefix = folder.rstrip(b"/")
        first, end = prefix + b"/", prefix + _BEHIND
        return max(first, self.first), min(end, self.end or end)


EVERYWHERE = Bounds()
_BEHIND = bytes([ord("/") + 1])  # behind a folder's name: greater than all paths below the folder

Found: TypeAlias = FileStat | Unscanned | Settled | Listed | Unopened
_WORDS = (Unscanned, Settled, Listed)  # what is said of folders as they are entered


def scan(
    root: bytes,
    *,
    excludes: Sequence[str] = DEFAULT_EXCLUDES,
    follow_symlinks: bool = False,
    known: dict[bytes, LastStat] | None = None,
    bounds: Bounds = EVERYWHERE,
    unopened: Mapping[bytes, int] = MappingProxyType({}),
) -> Iterator[Found]:
    """Walk `root`, depth first and sorted by name within a folder, and yield every image file.

    A file counts as an image by its suffix (`clipsearch.files.SUFFIXES`, any case). A tar archive
    (`clipsearch.tar_shards`) counts as a folder of what is in it. Any other root that is itself a file is
    yielded whatever its name.

    excludes: glob patterns (`*`, `?`, `[seq]`, `[!seq]`; case matters). One without a slash is compared
        with the name of every file and folder below the root; one with a slash with the path relative to
        the root, where `*` also matches slashes. A folder that matches is not entered.
    follow_symlinks: enter linked folders (each real folder once) and take linked files. A link outside
        the root then brings in what lies there.
    known: path → stat of files that need not be yielded where they are as they were. Those are taken out
        of it, and counted in a `Settled` for each folder.
    bounds: files at other paths are passed over. What keeps a folder from being listed is told for every
        part of it. Not together with `follow_symlinks`: two parts may lead to one folder.
    unopened: path → number of images, of shards that are not to be opened.
    """
    root = os.path.abspath(root)
    try:
        status = os.stat(root)
    except OSError as error:
        yield Unscanned(root, _why(error), "directory")
        return
    if stat.S_ISREG(status.st_mode) and not is_shard_name(root):
        yield FileStat.of(root, status)
    elif stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
        if root in unopened:
            if bounds.hold(root + b"/"):
                yield Unopened(root, unopened[root])
            return
        known = {} if known is None else known
        yield from _Walk(root, status, excludes, follow_symlinks, known, bounds, unopened)
    else:
        yield Unscanned(root, "neither a folder nor a regular file", "special")


class _Walk:
    """One walk below a folder; iterating over it walks."""

    def __init__(
        self,
        root: bytes,
        status: os.stat_result,
        excludes: Sequence[str],
        follow_symlinks: bool,
        known: dict[bytes, LastStat],
        bounds: Bounds,
        unopened: Mapping[bytes, int],
    ) -> None:
        globs = [glob.strip("/") for glob in excludes if glob.strip("/")]
        by_name = [glob for glob in globs if "/" not in glob]
        self._names = _any_of(by_name)
        self._initials = _initials(by_name)
        self._paths = _any_of([glob for glob in globs if "/" in glob])
        self._root = root
        self._follow = follow_symlinks
        self._known = known
        self._bounds = bounds
        self._unopened = unopened
        self._entered = {(status.st_dev, status.st_ino)}  # kept up with links only: else nothing leads back

    def __iter__(self) -> Iterator[Found]:
        stack = [iter(self._entries(self._root))]  # one iterator a level, not one Python frame
        look = self._look
        while stack:
            for entry in stack[-1]:  # on from where it was left
                found = entry if isinstance(entry, _WORDS) else look(entry)
                if isinstance(found, bytes):
                    stack.append(iter(self._entries(found)))
                    break
                if found is not None:
                    yield found
            else:
                stack.pop()

    def _entries(self, folder: bytes) -> list[Entry | Unscanned | Settled | Listed]:
        """How much of a folder is settled, the rest by name, and what kept it from being read whole."""
        rest: list[Entry] = []
        told: list[Unscanned | Listed] = []
        before = len(self._known)
        try:
            with self._listing(folder) as (listing, shard):
                mine = listing if self._bounds.cover(folder) else filter(self._is_mine, listing)
                if self._known:
                    self._settle(mine, rest)
                else:
                    rest.extend(mine)
            told += shard
        except OSError as error:
            told.append(Unscanned(folder, _why(error), "directory"))
        if not rest or isinstance(rest[0], os.DirEntry):  # the files of a shard stay in its order
            rest.sort(key=attrgetter("name"))
        settled = before - len(self._known)
        return [*([Settled(folder, settled)] if settled else []), *rest, *told]

    @contextmanager
    def _listing(self, folder: bytes) -> Iterator[tuple[Iterable[Entry], list[Listed]]]:
        """What a folder holds, or a tar shard; of a shard also how it was before."""
        try:
            entries = os.scandir(folder)
        except NotADirectoryError:
            from clipsearch.tar_shards import members

            shard = Listed(*FileStat.of(folder, os.stat(folder))[:-1])
            inside = members(folder, is_image_name)
            yield (member for member in inside if not self._is_inside_excluded(folder, member)), [shard]
            return
        with entries as listing:
            yield listing, []

    def _settle(self, listing: Iterable[Entry], rest: list[Entry]) -> None:
        """Forget the files that are as they were; the other entries go to `rest`.

        Written out in one piece: this is what every file of a library costs where nothing has changed.
        """
        known, initials, paths = self._known, self._initials, self._paths
        for entry in listing:
            last = known.pop(entry.path, None)
            if last is not None:
                name = entry.name
                _, size, mtime_ns, ctime_ns, inode = last
                try:
                    if (
                        ((name[0] not in initials and paths is None) or not self._is_excluded(entry))
                        and (name[-4:] in _COMMON or is_image_name(name))
                        and entry.is_file(follow_symlinks=False)
                        and (status := entry.stat(follow_symlinks=False)).st_size == size
                        and status.st_mtime_ns == mtime_ns
                        and status.st_ctime_ns == ctime_ns
                        and status.st_ino == (inode if inode >= 0 else inode & _UNSIGNED)
                    ):
                        continue
                except OSError:  # met once more, and told, as the walk gets to it
                    pass
                known[entry.path] = last
            rest.append(entry)

    def _is_mine(self, entry: Entry) -> bool:
        if self._bounds.hold(entry.path) or entry.is_dir(follow_symlinks=False):
            return True
        return is_shard_name(entry.name)

    def _is_excluded(self, entry: Entry) -> bool:
        """Whether any pattern matches the name or the path."""
        if self._names is not None and self._names(entry.name.decode(_ENCODING, _ERRORS)):
            return True
        return self._paths is not None and bool(
            self._paths(os.fsdecode(os.path.relpath(entry.path, self._root)))
        )

    def _is_inside_excluded(self, shard: bytes, member: Member) -> bool:
        """Whether a folder that a member lies in has a name that any pattern matches."""
        names, folders = self._names, member.path[len(shard) + 1 : -len(member.name) - 1]
        return names is not None and any(
            names(folder.decode(_ENCODING, _ERRORS)) for folder in folders.split(b"/")
        )

    def _look(self, entry: Entry) -> FileStat | Unscanned | Unopened | bytes | None:
        """What to yield for `entry`, or the folder to enter, or None for what is of no interest."""
        name = entry.name
        if self._is_excluded(entry):
            return None
        is_image, is_shard = is_image_name(name), is_shard_name(name)
        try:
            if entry.is_symlink() and not self._follow:
                return _skipped_link(entry, is_image or is_shard)
            if entry.is_dir():
                return entry.path if self._bounds.meet(entry.path) and self._is_new(entry) else None
            if is_shard and entry.is_file():
                return self._look_at_shard(entry.path)
            if not is_image:
                return None
            status = entry.stat()
        except OSError as error:
            return Unscanned(entry.path, _why(error), "file" if is_image else "directory")
        if not stat.S_ISREG(status.st_mode):
            return Unscanned(entry.path, "not a regular file", "special")
        return FileStat.of(entry.path, status)

    def _look_at_shard(self, path: bytes) -> Unopened | bytes | None:
        """The shard to enter; of one that is not opened, the part that its name belongs to tells."""
        if path in self._unopened:
            return Unopened(path, self._unopened[path]) if self._bounds.hold(path + b"/") else None
        return path if self._bounds.meet(path) else None

    def _is_new(self, entry: Entry) -> bool:
        if not self._follow:
            return True
        status = entry.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in self._entered:
            return False
        self._entered.add(identity)
        return True


def _any_of(globs: list[str]) -> Callable[[str], object] | None:
    """Give what is true of a name or path that any of the patterns matches; None for no patterns."""
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs)).match if globs else None


def _initials(globs: list[str]) -> frozenset[int]:
    """The bytes that a name which any of the patterns matches may begin with."""
    if any(glob[0] in "*?[" for glob in globs):
        return frozenset(range(256))
    return frozenset(glob[0].encode(_ENCODING, _ERRORS)[0] for glob in globs)


def _skipped_link(entry: Entry, is_image: bool) -> Unscanned | None:
    try:
        to_folder = entry.is_dir()
    except OSError:  # a loop of links
        to_folder = False
    if to_folder or is_image:
        return Unscanned(entry.path, "a symbolic link, which is not followed", "symlink")
    return None


def is_image_name(name: bytes) -> bool:
    """Whether a file of that name is taken for an image; blanks and dots behind the suffix do not count."""
    _, dot, suffix = name.rstrip(b" .").rpartition(b".")
    return bool(dot) and suffix.lower() in _SUFFIXES


def is_shard_name(name: bytes) -> bool:
    """Whether a file of that name, or path, is taken for a tar shard, a folder of its own."""
    return name[-4:].lower() == b".tar"


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__


def filesystem_id(path: bytes) -> str:
    """Tell the file system that holds `path` from any other that may be mounted at the same place.

    The UUID of the disk's file system where Linux knows it ("uuid:…"); it survives reboots and other
    sockets. Else the id that statvfs gives ("fsid:…"), else the device number ("dev:…"), which may change
    when the disk is mounted again. Raises OSError where there is no such path.
    """
    device = os.stat(path).st_dev
    try:
        with os.scandir(_UUIDS) as links:
            for link in links:
                if os.stat(link.path).st_rdev == device:
                    return f"uuid:{link.name}"
    except OSError:  # no udev here (macOS, containers), or a disk pulled meanwhile
        pass
    fsid = os.statvfs(path).f_fsid
    return f"fsid:{fsid:x}" if fsid else f"dev:{device:x}"
