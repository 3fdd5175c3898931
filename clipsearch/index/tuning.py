"""Choosing how hard to look, by comparing with exact search on the kind of query that will be asked.

Text and image queries are tuned apart: text vectors lie outside the cloud of image vectors, and an index
tuned with its own vectors promises a recall that people who type words never see. What is chosen on half of the
queries is reported on the other half.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UsageError
from clipsearch.index.checks import Floats, Vectors, positive_k, unit_queries
from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import KINDS, Effort, IvfPq, Kind
from clipsearch.index.ordering import SCORE_TOLERANCE, score_rows

TARGET_RECALL = 0.95
SPREADS = (4, 8, 16, 32, 64, 128)
RERANK_COST = {4: 300, 8: 50}
"""Codes compared in the time that one row is scored exactly (0.9 µs), for codes of 4 bits and of 8."""
TIMED = 32
"""Queries from which the time of one is taken."""


@dataclass(frozen=True)
class Measured:
    """What one setting found: `recall` over queries, and its `error`, the standard error of that mean."""

    effort: Effort
    recall: float
    error: float


def tune(
    index: IvfPq,
    vectors: Vectors,
    queries: npt.ArrayLike,
    kind: Kind,
    *,
    target_recall: float = TARGET_RECALL,
    k: int = 10,
) -> Effort:
    """Set and return the cheapest `Effort` of `index` that reaches `target_recall` for queries like these.

    Recall is the share of the exact `k` best rows found, a row that ties with the k-th being as good. Every
    second query chooses: the cheapest setting whose recall is above the target by one standard error, so
    that chance does not choose. The others, which it was not tuned on, say what it reaches. Where no setting
    reaches the target, the one with the highest recall is taken, and its recall says so.

    Args:
        index: built over the first rows of `vectors`; its `effort[kind]` is replaced.
        vectors: (n, d) float16, n ≥ `index.covered`.
        queries: (q, d), of the kind that will be asked: embedded captions or prompts for "text". Two hundred
            give a recall to within about a point.
        kind: "text" or "image".
        target_recall: in (0, 1].
        k: results a search.

    Raises:
        UsageError: no or unusable queries, an unknown kind, a target outside (0, 1].
        ModelMismatch: queries of another width.
    """
    if not 0 < target_recall <= 1:
        raise UsageError(f"the recall to reach must lie in (0, 1], not {target_recall}")
    rows = _checked(index, queries, kind)
    k = min(positive_k(k), index.covered)
    covered = vectors[: index.covered]
    choosing, held_out = (rows[::2], rows[1::2]) if len(rows) > 1 else (rows, rows)
    options = _measure(index, covered, choosing, k, probe_grid(index.lists))
    good = [each for each in options if min(1.0, each.recall - each.error) >= target_recall]
    per_list = index.covered / index.lists
    rerank_cost = RERANK_COST[index.params.bits or 8]
    if good:
        chosen = min(
            good, key=lambda each: each.effort.probes * per_list + rerank_cost * k * each.effort.spread
        ).effort
    else:
        chosen = max(options, key=lambda each: each.recall).effort
    index.effort[kind] = _reported(index, covered, held_out, k, chosen)
    return index.effort[kind]


def curve(index: IvfPq, vectors: Vectors, queries: npt.ArrayLike, kind: Kind, *, k: int = 10) -> list[Effort]:
    """Recall and time of one query for growing numbers of lists read, at the re-ranking depth in use.

    Arguments and errors as `tune`; all of `queries` are measured. The setting in use is one of the points.
    """
    rows = _checked(index, queries, kind)
    k = min(positive_k(k), index.covered)
    used = index.effort[kind]
    points = sorted({*(step for step in probe_grid(index.lists) if step.bit_count() == 1), used.probes})
    covered = vectors[: index.covered]
    return [_reported(index, covered, rows, k, Effort(probes, used.spread)) for probes in points]


def _checked(index: IvfPq, queries: npt.ArrayLike, kind: Kind) -> Floats:
    if kind not in KINDS:
        raise UsageError(f"a query is of kind text or image, not {kind!r}")
    rows = unit_queries(queries, index.dim)
    if len(rows) == 0:
        raise UsageError("tuning needs at least one query")
    return rows


def _reported(index: IvfPq, vectors: Vectors, rows: Floats, k: int, effort: Effort) -> Effort:
    """`effort` with its recall and its median time on `rows`."""
    recall = next(
        each.recall
        for each in _measure(index, vectors, rows, k, [effort.probes], (effort.spread,))
        if each.effort.spread == effort.spread
    )
    times = []
    for row in rows[:TIMED]:
        started = time.perf_counter()
        index.search(vectors, row[None], k, effort)
        times.append((time.perf_counter() - started) * 1e3)
    return replace(effort, recall=round(recall, 4), milliseconds=round(float(np.median(times)), 3))


def probe_grid(lists: int) -> list[int]:
    """Numbers of lists to try: 1, 2, 3, 4, 6, 8, 12, 16, … and `lists` itself."""
    steps = [step for power in range(31) for step in (1 << power, 3 << power >> 1)]
    return sorted({step for step in steps if 1 <= step < lists} | {lists})


def _measure(
    index: IvfPq,
    vectors: Vectors,
    rows: Floats,
    k: int,
    probes: list[int],
    spreads: tuple[int, ...] = SPREADS,
) -> list[Measured]:
    """Recall of (q, d) `rows` for each number of lists and each spread."""
    kth = ExactSearch(vectors).search(rows, k)[0][:, -1]
    return [each for step in probes for each in _recalls(index, vectors, rows, k, kth, step, spreads)]


def _recalls(
    index: IvfPq,
    vectors: Vectors,
    rows: Floats,
    k: int,
    kth: Floats,
    probes: int,
    spreads: tuple[int, ...],
) -> list[Measured]:
    """One for each spread at `probes`: candidates come best first, so a smaller spread is a prefix."""
    proposed = index.candidates(rows, k * spreads[-1], probes)
    hits = np.zeros(proposed.shape, dtype=bool)
    for i, slots in enumerate(proposed):
        there = np.flatnonzero(slots >= 0)
        hits[i, there] = score_rows(vectors, slots[there], rows[i]) >= kth[i] - SCORE_TOLERANCE
    found = []
    for spread in spreads:
        shares = np.minimum(hits[:, : k * spread].sum(axis=1), k) / k
        error = float(shares.std() / math.sqrt(len(shares)))
        found.append(Measured(Effort(probes, spread), float(shares.mean()), error))
    return found
