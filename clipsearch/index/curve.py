"""What looking harder gains: recall against time, for more and more lists read."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.index.checks import Vectors, positive_k, unit_queries
from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import Effort, IvfPq, Kind, known_effort
from clipsearch.index.truth import Truth
from clipsearch.index.tuning import asked, probe_grid


@dataclass(frozen=True)
class Point:
    """One way to search: recall@k as a share, milliseconds a query (asked one by one) and how it was done.

    `probes` and `spread` are None for exact search; `tuned` is the effort that searches use.
    """

    recall: float
    median_ms: float
    p95_ms: float
    probes: int | None = None
    spread: int | None = None
    tuned: bool = False


def curve(
    index: IvfPq,
    vectors: Vectors,
    queries: npt.ArrayLike,
    kind: Kind,
    k: int = 10,
    *,
    own: npt.ArrayLike | None = None,
) -> list[Point]:
    """Recall and time of exact search, and of the index from one list up to twice what is tuned.

    `queries` (q, d) are best not those that the index was tuned on; `own` (q,) are the slots of those that
    are rows themselves (see `tune`). The spread is the tuned one. Over the rows that the index covers. Raises
    as `ExactSearch.search`.
    """
    rows = unit_queries(queries, index.dim)
    covered = vectors[: index.covered]
    truth = Truth.of(covered, rows, positive_k(k), own)
    points = [Point(1.0, *_middle_and_tail(_exact_times(covered, truth)))]
    tuned = known_effort(index.effort, kind, index.lists)
    most = min(index.lists, 2 * tuned.probes)
    for probes in sorted({p for p in probe_grid(index.lists) if p <= most} | {tuned.probes}):
        points.append(_point(index, covered, truth, Effort(probes, tuned.spread), tuned))
    return points


def _exact_times(vectors: Vectors, truth: Truth) -> list[float]:
    exact, times = ExactSearch(vectors), []
    exact.search(truth.rows[:1], truth.k)  # what a first search loads is not its time
    for row in truth.rows:
        started = time.perf_counter()
        exact.search(row, truth.k)
        times.append((time.perf_counter() - started) * 1e3)
    return times


def _point(index: IvfPq, vectors: Vectors, truth: Truth, effort: Effort, tuned: Effort) -> Point:
    shares, times = asked(index, vectors, truth, effort)
    recall = round(float(shares.mean()), 4)
    used = effort.probes == tuned.probes
    return Point(recall, *_middle_and_tail(times), effort.probes, effort.spread, used)


def _middle_and_tail(times: list[float]) -> tuple[float, float]:
    return round(float(np.median(times)), 3), round(float(np.quantile(times, 0.95)), 3)
