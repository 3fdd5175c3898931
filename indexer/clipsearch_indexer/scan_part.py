"""A part of a scan, in a process of its own: one alone takes as long to compare as the system takes to tell.

The process is to start in a few hundredths of a second, so this imports little; jobs and results travel as
`marshal`, between processes of one interpreter. It reads the catalog through a connection of its own, while
the process that asked keeps all others from writing.
"""

from __future__ import annotations

import gc
import marshal
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from clipsearch.store.last_stats import last_stats
from clipsearch_indexer.scan import Bounds, FileStat, Found, Listed, Settled, Unopened, Unscanned, scan

if TYPE_CHECKING:
    from clipsearch.store.rows import LastStat

_KINDS: tuple[Callable[..., Found], ...] = (FileStat, Unscanned, Settled, Listed, Unopened)
_TELL_SECONDS = 0.1


class ScanJob(NamedTuple):
    """What to look over."""

    catalog: str
    """SQLite's URI."""
    root_id: int
    place: bytes
    """A folder: the root, or one below it."""
    bounds: tuple[bytes, bytes]
    """`Bounds`: of all that is below the folder, what this job is about."""
    excludes: tuple[str, ...]
    racy_ns: int
    doubtful: tuple[bytes, ...]
    """Paths that are to be found even where they are as they were."""
    unopened: tuple[tuple[bytes, int], ...] = ()
    """Shards that are not to be opened, and how many images are in each."""


Outcome = tuple[list[Found], list[bytes]]
"""What was found, and the known paths that were not settled."""


def unsettle(stats: dict[bytes, LastStat], paths: Iterable[bytes]) -> None:
    """Forget the stat of files that there is something to do about even where it is the same."""
    for path in paths:
        if path in stats:
            stats[path] = path, None, 0, 0, 0


def look_over(job: ScanJob, report: Callable[[int], None]) -> Outcome:
    """Do a job; `report` hears how many files were met so far."""
    bounds, unopened = Bounds(*job.bounds), dict(job.unopened)
    connection = sqlite3.connect(job.catalog, uri=True)
    try:
        stats = last_stats(connection, job.root_id, job.racy_ns, bounds.below(job.place), unopened)
    finally:
        connection.close()
    unsettle(stats, job.doubtful)
    found: list[Found] = []
    met = 0
    for entry in scan(job.place, excludes=job.excludes, known=stats, bounds=bounds, unopened=unopened):
        found.append(entry)
        met += count(entry)
        report(met)
    return found, list(stats)


def count(entry: Found) -> int:
    """For how many files it stands."""
    if isinstance(entry, Settled | Unopened):
        return entry.files
    return 0 if isinstance(entry, Listed) else 1


def encoded(outcome: Outcome) -> Any:
    """An outcome as `marshal` takes it."""
    found, left = outcome
    return [(_KINDS.index(type(entry)), *entry) for entry in found], left


def decoded(message: Any) -> Outcome:
    """The outcome that was encoded."""
    found, left = message
    return [_KINDS[kind](*rest) for kind, *rest in found], left


def main(parent: int, job: ScanJob) -> None:
    """Do a job; counts and the outcome go to standard output."""
    gc.disable()  # rows by the hundred thousand, and no cycles
    told = 0.0

    def report(met: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < _TELL_SECONDS:
            return
        told = now
        if os.getppid() != parent:  # nobody waits for it any more
            os._exit(1)
        _send(met)

    _send(encoded(look_over(job, report)))  # an error ends the process: the parent then does the job itself


def _send(message: Any) -> None:
    marshal.dump(message, sys.stdout.buffer)
    sys.stdout.buffer.flush()
