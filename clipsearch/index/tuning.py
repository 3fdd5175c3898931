"""Choosing how hard to look, by comparing with exact search on the kind of query that will be asked.

Text and image queries are tuned apart. On data with CLIP's cosines (100,000 × 512, 1,264 lists) 8 lists find
82% of an image query's true neighbours and 65% of a text query's: an index tuned with its own vectors
promises a recall that people who type words never see.

Image queries are mostly photos of the library. Each finds itself, at any effort, which says nothing about the
photo that someone brings: a photo's own row counts neither among what is to be found nor among what is.

A recall on some queries is an estimate. The effort taken is one whose recall, less one standard error of it,
reaches the target, on the queries that chose it and on those held out: the cheapest of many that just reach
it is more often one that was lucky.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UsageError
from clipsearch.index.checks import Floats, Vectors, unit_queries
from clipsearch.index.ivfpq import KINDS, TUNED_K, Effort, IvfPq, Kind
from clipsearch.index.ordering import SCORE_TOLERANCE, near_scores, rerank
from clipsearch.index.truth import Truth, own_slots, without

Shares = npt.NDArray[np.float64]

SPREADS = (4, 8, 16, 32, 64, 128, 256, 512)
SPREAD_ALWAYS = 128
ROWS_A_CANDIDATE = 1_500
"""A larger spread than `SPREAD_ALWAYS` is tried where it scores at most one row of so many exactly: codes of
64 bytes rank a neighbour behind more rows the more there are. Of ten million rows, 1,280 candidates of 3,072
lists hold 93.9% of a text query's neighbours, 1,280 of 12,288 lists 95.5%, 2,560 of 3,072 lists 96.0%."""
RETRIES = 5
LEAST_STEP = 1e-4
RERANK_COST = {4: 200, 8: 30}
"""Codes of 64 bytes that are compared in the time that a row is scored exactly (0.9 µs), by their bits."""


def tune(
    index: IvfPq,
    vectors: Vectors,
    queries: npt.ArrayLike,
    kind: Kind,
    *,
    own: npt.ArrayLike | None = None,
    target_recall: float = 0.95,
    k: int = 10,
) -> Effort:
    """Set and return the cheapest `Effort` of `index` that reaches `target_recall` on `queries`.

    Recall is the share of the exact `k` best rows found, a row that ties with the k-th being as good. It is
    reached where it is by a standard error more than the target. Where no setting does, the one with the
    highest recall is taken, and its recall says so.

    Args:
        index: built over the first rows of `vectors`; its `effort[kind]` is replaced.
        vectors: (n, d) float16, n ≥ `index.covered`.
        queries: (q, d), of the kind that will be asked: embedded captions or prompts for "text". A hundred
            give a recall to within about two points.
        kind: "text" or "image".
        own: (q,) the slot of the row that each query is, −1 for none: it is left out of what is to be found
            and of what is. None where no query is a row.
        target_recall: in (0, 1].
        k: results a search.

    Raises:
        UsageError: no or unusable queries, an unknown kind, a target outside (0, 1], other than one `own`
            for each query.
        ModelMismatch: queries of another width.
    """
    _check(kind, target_recall)
    rows = unit_queries(queries, index.dim)
    if len(rows) == 0:
        raise UsageError("tuning needs at least one query")
    truth = Truth.of(vectors[: index.covered], rows, k, own)
    chosen = _Trials(index, vectors, truth).cheapest(target_recall).effort
    index.effort[kind] = chosen
    return chosen


def tune_and_measure(
    index: IvfPq,
    vectors: Vectors,
    queries: npt.ArrayLike,
    kind: Kind,
    *,
    own: npt.ArrayLike | None = None,
    target_recall: float = 0.95,
    k: int = 10,
) -> Effort:
    """`tune` on every second query; recall and latency of the effort chosen are those of the others.

    What is measured on the queries that chose it looks better than it is. Where the recall of the held-out
    queries is not a standard error above the target, the next costlier efforts are tried. Arguments and
    errors as `tune`; fewer than two queries are an error too.
    """
    _check(kind, target_recall)
    rows = unit_queries(queries, index.dim)
    if len(rows) < 2:
        raise UsageError("tuning and measuring need two queries at least")
    covered, slots = vectors[: index.covered], own_slots(own, len(rows))
    trials = _Trials(index, vectors, Truth.of(covered, rows[::2], k, slots[::2]))
    held = Truth.of(covered, rows[1::2], k, slots[1::2])
    wanted = target_recall
    for _ in range(RETRIES + 1):
        tried = trials.cheapest(min(1.0, wanted))
        chosen = tried.effort
        shares, times = asked(index, vectors, held, chosen)
        recall, latency = float(shares.mean()), float(np.median(times))
        index.effort[kind] = replace(chosen, recall=round(recall, 4), latency_ms=round(latency, 3))
        short = target_recall - (recall - standard_error(shares))
        if short <= 0 or chosen.probes == index.lists:
            break
        wanted = max(wanted + short, tried.sure + LEAST_STEP)  # never the same effort again
    return index.effort[kind]


def asked(index: IvfPq, vectors: Vectors, truth: Truth, effort: Effort) -> tuple[Shares, list[float]]:
    """Of each query, asked one by one: the share found of what it seeks (q,), and the milliseconds."""
    hits, times = [], []
    for row, own, least in zip(truth.rows, truth.own.tolist(), truth.kth, strict=True):
        started = time.perf_counter()
        scores = index.search(vectors, row[None], truth.k, effort)[0][0]
        times.append((time.perf_counter() - started) * 1e3)
        if own >= 0:
            scores = _beside(index, vectors, row, own, truth.k, effort)
        hits.append(int((scores >= least - SCORE_TOLERANCE).sum()))
    return np.array(hits) / truth.k, times


def standard_error(shares: Shares) -> float:
    """Of the mean of (q,) shares. Those of one query's neighbours are found or missed together, so it is
    taken from query to query and not from neighbour to neighbour."""
    return float(shares.std(ddof=1)) / len(shares) ** 0.5 if len(shares) > 1 else 0.0


def _beside(index: IvfPq, vectors: Vectors, row: Floats, own: int, k: int, effort: Effort) -> Floats:
    """Scores (k,) of what a search that is not for a row of the library, but just like it, would find."""
    wanted = max(k, TUNED_K) * effort.spread
    proposed = index.candidates(row[None], wanted + 1, effort.probes)[0]
    return rerank(vectors, without(proposed, own, wanted), row, k)[0]


def probe_grid(lists: int) -> list[int]:
    """Numbers of lists to try: 1, 2, 3, 4, 6, 8, 12, 16, … and `lists` itself."""
    steps = [step for power in range(31) for step in (1 << power, 3 << power >> 1)]
    return sorted({step for step in steps if 1 <= step < lists} | {lists})


def spreads(rows: int, k: int) -> list[int]:
    """Candidates for each of `k` results to try in an index of so many rows."""
    return [s for s in SPREADS if s <= SPREAD_ALWAYS or k * s * ROWS_A_CANDIDATE <= rows]


def _check(kind: Kind, target_recall: float) -> None:
    if kind not in KINDS:
        raise UsageError(f"a query is of kind text or image, not {kind!r}")
    if not 0 < target_recall <= 1:
        raise UsageError(f"the recall to reach must lie in (0, 1], not {target_recall}")


@dataclass(frozen=True)
class _Tried:
    """An effort with its recall, and what that recall is at least if it is not a lucky one."""

    effort: Effort
    sure: float


class _Trials:
    """Efforts of `index` and the recall of each on the queries of `truth`, tried when they are needed."""

    def __init__(self, index: IvfPq, vectors: Vectors, truth: Truth) -> None:
        self.index, self.vectors, self.truth = index, vectors[: index.covered], truth
        self.spreads = spreads(index.covered, truth.k)
        self._tried: dict[int, list[_Tried]] = {}

    def cheapest(self, target: float) -> _Tried:
        """The effort of least cost that reaches `target`; where none does, the one of highest recall."""
        found: _Tried | None = None
        for probes in probe_grid(self.index.lists):
            if found is not None and self._cost(probes, SPREADS[0]) >= self._cost_of(found):
                return found  # more lists only cost more
            good = [each for each in self._at(probes) if each.sure >= target]
            found = min([*good, *([found] if found else [])], key=self._cost_of, default=None)
        everything = [each for tried in self._tried.values() for each in tried]
        return found or max(everything, key=lambda each: each.effort.recall or 0.0)

    def _cost_of(self, tried: _Tried) -> float:
        return self._cost(tried.effort.probes, tried.effort.spread)

    def _cost(self, probes: int, spread: int) -> float:
        """In codes that are compared."""
        per_list = self.index.covered / self.index.lists
        bits = self.index.params.bits or 8
        return probes * per_list + RERANK_COST[bits] * self.truth.k * spread

    def _at(self, probes: int) -> list[_Tried]:
        """Each spread at `probes`: candidates come best first, so a smaller spread is a prefix."""
        if probes not in self._tried:
            hits, k = self._hits(probes), self.truth.k
            tried = []
            for spread in self.spreads:
                shares = np.minimum(hits[:, : k * spread].sum(axis=1), k) / k
                recall = float(shares.mean())
                sure = recall - standard_error(shares)
                tried.append(_Tried(Effort(probes, spread, round(recall, 4)), sure))
            self._tried[probes] = tried
        return self._tried[probes]

    def _hits(self, probes: int) -> npt.NDArray[np.bool_]:
        """Which of the most candidates of each query are among what it seeks: (q, k · largest spread)."""
        truth, wanted = self.truth, self.truth.k * self.spreads[-1]
        proposed = self.index.candidates(truth.rows, wanted + 1, probes)
        hits = np.zeros((len(proposed), wanted), dtype=bool)
        for i, slots in enumerate(proposed):
            there = without(slots, int(truth.own[i]), wanted)
            scores = near_scores(self.vectors, there, truth.rows[i])
            hits[i, : there.size] = scores >= truth.kth[i] - 2 * SCORE_TOLERANCE
        return hits
