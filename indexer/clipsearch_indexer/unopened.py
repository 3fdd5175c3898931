"""Tar shards that are as they were, and so need not be opened: a hundred million images lie in thousands.

A run that has listed a shard whole and is through with its images notes the stat of the shard. As long as
that stays the same, what is known of its images does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from clipsearch.files import SUFFIXES
from clipsearch.store.rows import KnownFailure, KnownShard
from clipsearch.tar_shards import shard_of
from clipsearch_indexer import plan as planning
from clipsearch_indexer.places import Place, covers
from clipsearch_indexer.scan import Listed

if TYPE_CHECKING:
    from clipsearch_indexer.contract import Options

_LARGEST = (1 << 63) - 1


def rule_of(place: Place, options: Options) -> str:
    """What says which files of a shard are taken; "" where a scan may come to one by another path."""
    if options.follow_symlinks:
        return ""
    import hashlib  # here, since most libraries have no shards

    by_path = any("/" in glob.strip("/") for glob in options.excludes)
    told = (sorted(SUFFIXES), list(options.excludes), place.path if by_path else b"")
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


def unopened(
    known: Sequence[KnownShard],
    place: Place,
    options: Options,
    failures: Mapping[bytes, KnownFailure],
    pending: Iterable[bytes],
) -> dict[bytes, int]:
    """Path → number of images, of the shards in a place that are as they were.

    Not of one with an image that is to be read in any case: one of the paths `pending`, or one that could
    not be read for a reason that may have passed.
    """
    rule = rule_of(place, options) if known else ""
    if not rule:
        return {}
    found = {shard.path: shard for shard in known if shard.rule == rule and _is_as_it_was(shard, place)}
    for path in pending if found else ():
        found.pop(shard_of(path) or b"", None)
    for path, failure in failures.items() if found else ():
        shard = found.get(shard_of(path) or b"")
        if shard and not (failure.kind in planning.LASTING and failure.mtime_ns == shard.mtime_ns):
            del found[shard.path]
    return {path: shard.files for path, shard in found.items()}


def worth_noting(
    listed: Iterable[Listed], place: Place, options: Options, started_ns: int
) -> list[KnownShard]:
    """Of the shards that a run has listed those whose stat will tell whether they changed.

    One that was written to just before the run began (`started_ns`) may have been since, at the same time.
    """
    rule = rule_of(place, options)
    return [
        KnownShard(*shard, rule, 0)
        for shard in dict.fromkeys(listed)
        if rule
        and max(shard.mtime_ns, shard.ctime_ns) < started_ns - planning.RACY_NS
        and max(shard[1:]) <= _LARGEST
        and not _around(shard.path, place)
    ]


def _is_as_it_was(shard: KnownShard, place: Place) -> bool:
    if not place.holds(shard.path) or _around(shard.path, place):
        return False
    try:
        status = os.lstat(shard.path)
    except OSError:
        return False
    found = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return stat.S_ISREG(status.st_mode) and found == shard[1:5]


def _around(shard: bytes, place: Place) -> bool:
    """Whether a part of the shard is looked over by itself."""
    return any(covers(shard, inner) for inner in place.inner)
