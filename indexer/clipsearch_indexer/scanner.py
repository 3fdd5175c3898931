"""Looking over a place: what is there against what is known of it; several processes where that is much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from clipsearch.devices import processors
from clipsearch.store import LastStat, RootRow
from clipsearch.tar_shards import shard_of
from clipsearch_indexer import plan as planning
from clipsearch_indexer.contract import Options, Progress
from clipsearch_indexer.places import Place
from clipsearch_indexer.scan import EVERYWHERE, Bounds, Found, Unopened, Unscanned, scan
from clipsearch_indexer.scan_helper import ScanHelpers, divided
from clipsearch_indexer.scan_part import Outcome, ScanJob, count, unsettle

if TYPE_CHECKING:
    from clipsearch.store.known import Known

_REPORT_EVERY = 200
_DOUBTFUL = 100_000  # each process would be told of them, and there is much to do in any case
_SAMPLE = 256  # known files that tell where to divide a place


class Scanner:
    """Looks over places; `report` hears how many files were met.

    `catalog_uri` is where other processes read the catalog.
    """

    def __init__(self, options: Options, catalog_uri: str, report: Callable[[Progress], None]) -> None:
        self._options = options
        self._catalog_uri = catalog_uri
        self._report = report
        self._met = self._reported = 0
        self._helpers = ScanHelpers()
        self._unopened: Mapping[bytes, int] = {}

    def look_over(
        self,
        known: Known,
        place: Place,
        home: RootRow,
        doubtful: Iterable[bytes],
        unopened: Mapping[bytes, int],
    ) -> Outcome:
        """What is met at a place but for files that are as they were, and the known paths of no such file.

        `doubtful` are paths of files that there is something to do about even where they are as they were,
        `unopened` shards that are not to be opened, and how many images are in each.
        """
        paths, self._unopened = tuple(doubtful), unopened

        def here(bounds: Bounds) -> Outcome:
            rows = None if bounds == EVERYWHERE else bounds.below(place.path)
            stats = place.rows(known.stats(home.id, planning.RACY_NS, rows, unopened), home)
            unsettle(stats, paths)
            return list(self._scan(place, stats, bounds)), list(stats)

        own, *others = self._parts(known, place, home) if len(paths) <= _DOUBTFUL else [EVERYWHERE]
        with ScanHelpers([self._job(place, home, bounds, paths) for bounds in others]) as self._helpers:
            outcomes = [here(own)]
            for bounds, outcome in zip(others, self._helpers.outcomes(self._tell), strict=True):
                outcomes.append(outcome or here(bounds))
        self._met, self._helpers = self._met + self._helpers.met, ScanHelpers()
        met = _once([entry for met, _ in outcomes for entry in met])
        left = [path for _, left in outcomes for path in left]
        passed = {entry.path for entry in met if isinstance(entry, Unopened)}
        for shard in unopened.keys() - passed:  # it went just now, or lies behind what is not entered now
            left += known.stats(home.id, planning.RACY_NS, EVERYWHERE.below(shard))
        return met, left

    def _parts(self, known: Known, place: Place, home: RootRow) -> list[Bounds]:
        """The parts of a place that are looked over at once: several where much is known of it."""
        most = processors()
        if most == 1 or self._options.follow_symlinks or place.inner:
            return [EVERYWHERE]
        paths, each = known.sample(home.id, _SAMPLE)
        there = [path for path in paths if place.holds(path) and shard_of(path) not in self._unopened]
        return divided(there, each, most)

    def _job(self, place: Place, home: RootRow, bounds: Bounds, doubtful: tuple[bytes, ...]) -> ScanJob:
        part, excludes = (bounds.first, bounds.end), tuple(self._options.excludes)
        shards = tuple(self._unopened.items())
        return ScanJob(
            self._catalog_uri, home.id, place.path, part, excludes, planning.RACY_NS, doubtful, shards
        )

    def _scan(self, place: Place, stats: dict[bytes, LastStat], bounds: Bounds) -> Iterator[Found]:
        """Scan a place, and take out of `stats` what is as it was."""
        options = self._options
        found = scan(
            place.path,
            excludes=options.excludes,
            follow_symlinks=options.follow_symlinks,
            known=stats,
            bounds=bounds,
            unopened=self._unopened,
        )
        for entry in place.without_inner(found):
            self._met += count(entry)
            self._tell()
            yield entry

    def _tell(self) -> None:
        met = self._met + self._helpers.met
        if met - self._reported >= _REPORT_EVERY:
            self._reported = met
            self._report(Progress("scanning", met, 0))


def _once(met: list[Found]) -> list[Found]:
    """Each word on a folder that could not be listed once; every part of it has told."""
    told = dict.fromkeys(entry for entry in met if isinstance(entry, Unscanned))
    return [*(entry for entry in met if not isinstance(entry, Unscanned)), *told]
