"""What a run has to do: the files of a folder as they are, against what the catalog knows of them.

A file is unchanged when size, times and inode are as they were, and its content was read at least two seconds
after its last change: a file written to within that time may look the same and hold something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from clipsearch.store.rows import KnownFailure, KnownFile, RootRow
from clipsearch.tar_shards import shard_of
from clipsearch_indexer.places import Place
from clipsearch_indexer.scan import FileStat, Found, Listed, Settled, Unopened, Unscanned

Row = TypeVar("Row")

RACY_NS = 2_000_000_000
# Kinds of failure that looking at the same bytes again cannot mend; see `clipsearch.files.FailureKind`.
LASTING = frozenset({"corrupt", "too-large", "memory", "crashed", "timeout"})


@dataclass(frozen=True, slots=True)
class Work:
    """A file to read, and what the catalog knows of its path."""

    root_id: int
    file: FileStat
    row: KnownFile | None


@dataclass
class Plan:
    """What one scan of one folder found.

    `place` was scanned, which is the root or lies below it. `work` are files to read; `returned` ids of
    files that were missing and are there as they were; `vanished` what the catalog knows under the folder
    and the scan did not meet (path → row); `unscanned` what could not be looked at, and `spared` what the
    catalog knows there; `quarantined` counts files that failed before and have not changed; `solved` are
    paths whose failure is out of date. `listed` are tar shards of which every image was met, `unopened` the
    paths of those that did not have to be, and `outdated` those of all others that were known.
    """

    root: RootRow
    place: Place
    work: list[Work] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    vanished: dict[bytes, KnownFile] = field(default_factory=dict)
    unscanned: list[Unscanned] = field(default_factory=list)
    spared: dict[bytes, KnownFile] = field(default_factory=dict)
    solved: list[bytes] = field(default_factory=list)
    listed: list[Listed] = field(default_factory=list)
    unopened: set[bytes] = field(default_factory=set)
    outdated: list[bytes] = field(default_factory=list)
    quarantined: int = 0
    unchanged: int = 0


def make_plan(
    root: RootRow,
    place: Place,
    found: Iterable[Found],
    known: Mapping[bytes, KnownFile],
    failures: Mapping[bytes, KnownFailure],
    lacks_embedding: Callable[[KnownFile], bool] = lambda row: False,
) -> Plan:
    """Compare a scan of `place` with what the catalog knows there, but for the files that the scan settled.

    `lacks_embedding` says of an unchanged file whether it must be read nonetheless, for a model that has not
    embedded it. Device numbers are not compared: a disk gets another one at each mount.
    """
    plan = Plan(root, place, vanished=dict(known))
    forgotten = dict(failures)
    for entry in found:
        if isinstance(entry, Unscanned):
            plan.unscanned.append(entry)
            continue
        if isinstance(entry, Listed):
            plan.listed.append(entry)
            continue
        if isinstance(entry, Settled | Unopened):
            plan.unchanged += entry.files
            if isinstance(entry, Unopened):
                plan.unopened.add(entry.path)
            continue
        row = plan.vanished.pop(entry.path, None)
        failure = forgotten.pop(entry.path, None)
        if row is not None and _unchanged(entry, row):
            if failure is not None:
                plan.solved.append(entry.path)
            if lacks_embedding(row):
                plan.work.append(Work(root.id, entry, row))
            elif row.missing:
                plan.returned.append(row.file_id)
            else:
                plan.unchanged += 1
        elif failure is not None and _quarantined(entry, failure):
            plan.quarantined += 1
        else:
            plan.work.append(Work(root.id, entry, row))
    for path in [path for path in forgotten if shard_of(path) in plan.unopened]:
        del forgotten[path]
        plan.quarantined += 1
    plan.spared = _spare(plan.vanished, plan.unscanned)
    _spare(forgotten, plan.unscanned)
    plan.solved += forgotten
    return plan


def _unchanged(entry: FileStat, row: KnownFile) -> bool:
    racy_from = row.verified_at_ns - RACY_NS
    return (
        entry.mtime_ns == row.mtime_ns < racy_from
        and entry.ctime_ns == row.ctime_ns < racy_from
        and entry.size == row.size
        and entry.inode == row.inode
    )


def _quarantined(entry: FileStat, failure: KnownFailure) -> bool:
    same = (entry.size, entry.mtime_ns) == (failure.size, failure.mtime_ns)
    return same and failure.kind in LASTING


def _spare(not_met: dict[bytes, Row], unscanned: list[Unscanned]) -> dict[bytes, Row]:
    """What lies in a place that could not be looked at has not vanished: take it out and return it."""
    blind = [entry.path for entry in unscanned if entry.kind in ("directory", "file")]
    if not blind:
        return {}
    exactly, below = frozenset(blind), tuple(place.rstrip(b"/") + b"/" for place in blind)
    spared = [path for path in not_met if path in exactly or path.startswith(below)]
    return {path: not_met.pop(path) for path in spared}
