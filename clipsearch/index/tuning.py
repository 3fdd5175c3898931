"""Choosing how hard to look, by comparing with exact search on the kind of query that will be asked.

Text and image queries are tuned apart. On data with CLIP's cosines (100,000 × 512, 1,264 lists) 8 lists find
82% of an image query's true neighbours and 65% of a text query's: an index tuned with its own vectors
promises a recall that people who type words never see.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UsageError
from clipsearch.index.checks import Floats, Vectors, positive_k, unit_queries
from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import KINDS, Effort, IvfPq, Kind
from clipsearch.index.ordering import SCORE_TOLERANCE, near_scores

SPREADS = (4, 8, 16, 32, 64, 128)
RETRIES = 2
MARGIN = 0.01
"""How far below the target the recall of held-out queries may be: 150 queries tell it to about that much."""
RERANK_COST = {4: 200, 8: 30}
"""Codes of 64 bytes that are compared in the time that a row is scored exactly (0.9 µs), by their bits."""


def tune(
    index: IvfPq,
    vectors: Vectors,
    queries: npt.ArrayLike,
    kind: Kind,
    *,
    target_recall: float = 0.95,
    k: int = 10,
) -> Effort:
    """Set and return the cheapest `Effort` of `index` that reaches `target_recall` on `queries`.

    Recall is the share of the exact `k` best rows found, a row that ties with the k-th being as good. Where
    no setting reaches the target, the one with the highest recall is taken, and its recall says so.

    Args:
        index: built over the first rows of `vectors`; its `effort[kind]` is replaced.
        vectors: (n, d) float16, n ≥ `index.covered`.
        queries: (q, d), of the kind that will be asked: embedded captions or prompts for "text". A hundred
            give a recall to within about two points.
        kind: "text" or "image".
        target_recall: in (0, 1].
        k: results a search.

    Raises:
        UsageError: no or unusable queries, an unknown kind, a target outside (0, 1].
        ModelMismatch: queries of another width.
    """
    _check(kind, target_recall)
    rows = unit_queries(queries, index.dim)
    if len(rows) == 0:
        raise UsageError("tuning needs at least one query")
    chosen = _Trials(index, vectors, rows, k).cheapest(target_recall)
    index.effort[kind] = chosen
    return chosen


def tune_and_measure(
    index: IvfPq,
    vectors: Vectors,
    queries: npt.ArrayLike,
    kind: Kind,
    *,
    target_recall: float = 0.95,
    k: int = 10,
) -> Effort:
    """`tune` on every second query; recall and latency of the effort chosen are those of the others.

    What is measured on the queries that chose it looks better than it is. Where the held-out queries fall
    short of the target by more than chance would have them, the next costlier efforts are tried. Arguments
    and errors as `tune`; fewer than two queries are an error too.
    """
    _check(kind, target_recall)
    rows = unit_queries(queries, index.dim)
    if len(rows) < 2:
        raise UsageError("tuning and measuring need two queries at least")
    trials, held = _Trials(index, vectors, rows[::2], k), rows[1::2]
    exact = ExactSearch(vectors[: index.covered]).search(held, min(positive_k(k), index.covered))
    wanted = target_recall
    for _ in range(RETRIES + 1):
        chosen = trials.cheapest(min(1.0, wanted))
        recall, times = asked(index, vectors, held, exact[0][:, -1], exact[0].shape[1], chosen)
        measured = replace(chosen, recall=recall, latency_ms=round(float(np.median(times)), 3))
        index.effort[kind] = measured
        if recall >= target_recall - MARGIN or chosen.probes == index.lists:
            break
        wanted += target_recall - recall
    return measured


def asked(
    index: IvfPq, vectors: Vectors, rows: Floats, kth: Floats, k: int, effort: Effort
) -> tuple[float, list[float]]:
    """Recall@k of the index at this effort, and the milliseconds of each query, asked one by one.

    `rows` (q, d) are unit queries, `kth` (q,) the exact scores of their k-th best rows.
    """
    hits, times = 0, []
    for row, least in zip(rows, kth, strict=True):
        started = time.perf_counter()
        scores = index.search(vectors, row[None], k, effort)[0][0]
        times.append((time.perf_counter() - started) * 1e3)
        hits += int((scores >= least - SCORE_TOLERANCE).sum())
    return round(hits / (len(rows) * k), 4), times


def probe_grid(lists: int) -> list[int]:
    """Numbers of lists to try: 1, 2, 3, 4, 6, 8, 12, 16, … and `lists` itself."""
    steps = [step for power in range(31) for step in (1 << power, 3 << power >> 1)]
    return sorted({step for step in steps if 1 <= step < lists} | {lists})


def _check(kind: Kind, target_recall: float) -> None:
    if kind not in KINDS:
        raise UsageError(f"a query is of kind text or image, not {kind!r}")
    if not 0 < target_recall <= 1:
        raise UsageError(f"the recall to reach must lie in (0, 1], not {target_recall}")


class _Trials:
    """Efforts of `index` and the recall@k of each on unit `rows` (q, d), tried when they are needed."""

    def __init__(self, index: IvfPq, vectors: Vectors, rows: Floats, k: int) -> None:
        self.index, self.vectors, self.rows = index, vectors[: index.covered], rows
        self.k = min(positive_k(k), index.covered)
        self.kth = ExactSearch(self.vectors).search(rows, self.k)[0][:, -1]
        self._tried: dict[int, list[Effort]] = {}

    def cheapest(self, target: float) -> Effort:
        """The effort of least cost that reaches `target`; where none does, the one of highest recall."""
        found: Effort | None = None
        for probes in probe_grid(self.index.lists):
            if found is not None and self._cost(Effort(probes, SPREADS[0])) >= self._cost(found):
                return found  # more lists only cost more
            good = [each for each in self._at(probes) if each.recall is not None and each.recall >= target]
            found = min([*good, *([found] if found else [])], key=self._cost, default=None)
        everything = [each for tried in self._tried.values() for each in tried]
        return found or max(everything, key=lambda each: each.recall or 0.0)

    def _cost(self, effort: Effort) -> float:
        """In codes that are compared."""
        per_list = self.index.covered / self.index.lists
        return effort.probes * per_list + RERANK_COST[self.index.params.bits or 8] * self.k * effort.spread

    def _at(self, probes: int) -> list[Effort]:
        """Each spread at `probes`: candidates come best first, so a smaller spread is a prefix."""
        if probes not in self._tried:
            proposed = self.index.candidates(self.rows, self.k * SPREADS[-1], probes)
            hits = np.zeros(proposed.shape, dtype=bool)
            for i, slots in enumerate(proposed):
                there = np.flatnonzero(slots >= 0)
                scores = near_scores(self.vectors, slots[there], self.rows[i])
                hits[i, there] = scores >= self.kth[i] - 2 * SCORE_TOLERANCE
            efforts = []
            for spread in SPREADS:
                recall = np.minimum(hits[:, : self.k * spread].sum(axis=1), self.k).mean() / self.k
                efforts.append(Effort(probes, spread, round(float(recall), 4)))
            self._tried[probes] = efforts
        return self._tried[probes]
