"""What a run has to do: the files of a folder as they are, against what the catalog knows of them.

A file is unchanged when size, times and inode are as they were, and its content was read at least two seconds
after its last change: a file written to within that time may look the same and hold something else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from clipsearch.store.rows import KnownFailure, KnownFile, RootRow
from clipsearch_indexer.scan import FileStat, Unscanned

RACY_NS = 2_000_000_000
# Kinds of failure that looking at the same bytes again cannot mend; see `clipsearch.files.FailureKind`.
LASTING = frozenset({"corrupt", "too-large", "memory", "crashed", "timeout"})


@dataclass
class Plan:
    """What one scan of one folder found.

    `work` are files to read; `returned` ids of files that were missing and are there as they were;
    `vanished` what the catalog knows under the folder and the scan did not meet (path → row);
    `unscanned` what could not be looked at; `quarantined` files that failed before and have not changed.
    """

    root: RootRow
    work: list[FileStat] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    vanished: dict[bytes, KnownFile] = field(default_factory=dict)
    unscanned: list[Unscanned] = field(default_factory=list)
    quarantined: int = 0
    unchanged: int = 0
    met: int = 0


def make_plan(
    root: RootRow,
    found: Iterable[FileStat | Unscanned],
    known: Mapping[bytes, KnownFile],
    failures: Mapping[bytes, KnownFailure],
    same_filesystem: bool,
    on_file: Callable[[int], None] = lambda met: None,
) -> Plan:
    """Compare a scan with the catalog.

    With `same_filesystem` a device number that changed means nothing: disks get another at each mount.
    """
    plan = Plan(root, vanished=dict(known))
    for entry in found:
        if isinstance(entry, Unscanned):
            plan.unscanned.append(entry)
            continue
        plan.met += 1
        on_file(plan.met)
        row = plan.vanished.pop(entry.path, None)
        if row is not None and _unchanged(entry, row, same_filesystem):
            plan.unchanged += 1
            if row.missing:
                plan.returned.append(row.file_id)
        elif _quarantined(entry, failures.get(entry.path)):
            plan.quarantined += 1
        else:
            plan.work.append(entry)
    _keep_unscanned(plan)
    return plan


def _unchanged(entry: FileStat, row: KnownFile, same_filesystem: bool) -> bool:
    return (
        (entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode)
        == (row.size, row.mtime_ns, row.ctime_ns, row.inode)
        and (same_filesystem or entry.device == row.device)
        and max(row.mtime_ns, row.ctime_ns) < row.verified_at_ns - RACY_NS
    )


def _quarantined(entry: FileStat, failure: KnownFailure | None) -> bool:
    return (
        failure is not None
        and failure.kind in LASTING
        and (entry.size, entry.mtime_ns) == (failure.size, failure.mtime_ns)
    )


def _keep_unscanned(plan: Plan) -> None:
    """What lies in a place that could not be looked at has not vanished."""
    blind = [entry.path for entry in plan.unscanned if entry.kind in ("directory", "file")]
    for place in blind:
        below = place.rstrip(b"/") + b"/"
        for path in [p for p in plan.vanished if p == place or p.startswith(below)]:
            del plan.vanished[path]


def covers(folder: bytes, path: bytes) -> bool:
    """Whether `path` is `folder` or lies below it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def absolute(path: str | bytes | os.PathLike[str]) -> bytes:
    """An absolute, normalised path of bytes; links are not resolved, so the user's own name is kept."""
    return os.path.abspath(os.path.expanduser(os.fsencode(path)))  # noqa: PTH100, PTH111 (bytes)
