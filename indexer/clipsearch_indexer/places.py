"""Where to look: the folders of a run, which root each belongs to, and whether they can be reached.

Roots may lie within each other (`/photos` and `/photos/2024`): a file belongs to the innermost one, and
each is scanned without the others that lie in it, so no file is met twice and an inner disk may be offline
by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from clipsearch.reachable import root_state
from clipsearch.store.rows import KnownFile, RootRow
from clipsearch.tar_shards import shard_of
from clipsearch_indexer.scan import Found, filesystem_id, is_shard_name

Row = TypeVar("Row")
State = Literal["online", "missing", "empty"]
# Known photos that are looked for before a folder is taken for another disk.
_SAMPLE = 100


@dataclass(frozen=True)
class Place:
    """A folder, or a single file, to be scanned without the places in it that are scanned by themselves."""

    path: bytes
    inner: frozenset[bytes]

    def holds(self, path: bytes) -> bool:
        """Whether `path` is to be looked for here."""
        return covers(self.path, path) and not self._is_inner(path)

    def without_inner(self, found: Iterable[Found]) -> Iterator[Found]:
        """What a scan of this place found, less what lies in another place."""
        if not self.inner:
            return iter(found)
        return (entry for entry in found if not self._is_inner(entry.path))

    def rows(self, known: dict[bytes, Row], home: RootRow) -> dict[bytes, Row]:
        """The part of what is known of its root (path → row) that lies here."""
        if self.path == home.path and not self.inner:
            return known
        return {path: row for path, row in known.items() if self.holds(path)}

    def _is_inner(self, path: bytes) -> bool:
        return bool(self.inner) and (path in self.inner or path.startswith(self._below_inner))

    @cached_property
    def _below_inner(self) -> tuple[bytes, ...]:
        return tuple(folder.rstrip(b"/") + b"/" for folder in self.inner)


def places(wanted: Sequence[bytes], roots: Sequence[RootRow]) -> list[Place]:
    """The places to scan for `wanted`, outer ones first: themselves and every known root in them."""
    inside = [root.path for root in roots if any(covers(path, root.path) for path in wanted)]
    paths = sorted({*wanted, *inside})
    return [
        Place(path, frozenset(other for other in paths if other != path and covers(path, other)))
        for path in paths
    ]


def home_of(path: bytes, roots: Iterable[RootRow]) -> RootRow | None:
    """The innermost root that covers `path`."""
    around = [root for root in roots if covers(root.path, path)]
    return max(around, key=lambda root: len(root.path), default=None)


def look_at(path: bytes) -> tuple[State, str]:
    """Whether a place can be scanned, and the identity of its file system ("" when it cannot be reached)."""
    state = root_state(path)
    if state != "missing":
        try:
            return state, filesystem_id(path)
        except OSError:  # it has just gone
            pass
    return "missing", ""


def is_doubtful(place: Place, home: RootRow, state: State, filesystem: str) -> bool:
    """Whether it takes a look at what is known here to say that it is online."""
    elsewhere = place.path == home.path and home.filesystem_id not in (None, filesystem)
    return state != "online" or elsewhere


def is_offline(
    place: Place, home: RootRow, known: Mapping[bytes, KnownFile], state: State, filesystem: str
) -> bool:
    """Whether what is known here has to be kept although it is not seen.

    An unmounted disk reads as a missing or empty folder, or as one of another file system. The identity of
    a file system may also change by itself, so any known photo in its place says that it is the same.
    """
    if not is_doubtful(place, home, state, filesystem):
        return False
    if state == "missing":
        # A root that is a single file, or a shard, has vanished when its folder is there and holds others.
        single = bool(known) and (set(known) <= {place.path} or is_shard_name(place.path))
        return not (single and root_state(os.path.dirname(place.path)) == "online")  # noqa: PTH120 (bytes)
    photos = [path for path, row in known.items() if not row.missing]
    sample = photos[:: max(1, len(photos) // _SAMPLE)]
    return bool(photos) and not any(os.path.lexists(shard_of(path) or path) for path in sample)


def covers(folder: bytes, path: bytes) -> bool:
    """Whether `path` is `folder` or lies below it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def absolute(path: str | bytes | os.PathLike[str]) -> bytes:
    """An absolute, normalised path of bytes; links are not resolved, so the user's own name is kept."""
    return os.path.abspath(os.path.expanduser(os.fsencode(path)))  # noqa: PTH100, PTH111 (bytes)
