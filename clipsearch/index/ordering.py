"""Turning candidate slots into the answer: one definition of score and order for every kind of search."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.halves import WIDENED, widen
from clipsearch.index.checks import Floats, Slots, Vectors

ROWS_AT_A_TIME = 512
"""Rows widened at once: 1 MiB of float32 at 512 dimensions, which stays in the second-level cache."""

SCORE_TOLERANCE = 4e-6
"""Largest distance between a float32 dot product of unit vectors (any order of summing) and `score_rows`.

(d/16 + 4)·2^-24 bounds blocked sums of 16 lanes for Σ|x·q| ≤ 1: 2.2e-6 at d = 512, 4e-6 at d = 1024.
"""

WORTH_NARROWING = 4
"""Candidates for each result from which two looks, a quick one and one at what it leaves, beat one."""


def score_rows(vectors: Vectors, slots: Slots, query: Floats) -> Floats:
    """The cosine of `query` (d,) with each row of `slots` (m,) ascending, summed in float64: (m,) float32.

    Each row is reduced on its own, so equal rows score equal wherever they lie; a matrix product does not
    promise that, and ties could then not be ordered by slot.
    """
    wide = query.astype(np.float64)
    scores = np.empty(slots.size, np.float32)
    for start in range(0, slots.size, ROWS_AT_A_TIME):
        part = slots[start : start + ROWS_AT_A_TIME]
        scores[start : start + part.size] = (vectors[part] * wide).sum(axis=1)
    return scores


def near_scores(vectors: Vectors, slots: Slots, query: Floats) -> Floats:
    """`score_rows` to within `SCORE_TOLERANCE`, in a third of its time: products in single precision."""
    scaled = query / WIDENED
    scores = np.empty(slots.size, np.float32)
    room: npt.NDArray[np.int32] = np.empty((min(ROWS_AT_A_TIME, slots.size), query.size), np.int32)
    for start in range(0, slots.size, ROWS_AT_A_TIME):
        part = slots[start : start + ROWS_AT_A_TIME]
        np.dot(widen(vectors[part], room[: part.size]), scaled, out=scores[start : start + part.size])
    return scores


def best(scores: Floats, slots: Slots, k: int) -> tuple[Floats, Slots]:
    """The `k` highest of (m,) `scores`, descending, ties by ascending slot."""
    order = np.lexsort((slots, -scores))[:k]
    return scores[order], slots[order]


def rerank(vectors: Vectors, candidates: Slots, query: Floats, k: int) -> tuple[Floats, Slots]:
    """Score `candidates` (m,), each named once, exactly and return the best `k` of them."""
    ascending = np.sort(candidates)  # rows are read in the order in which they lie on disk
    if ascending.size > WORTH_NARROWING * k:
        ascending = ascending[at_least_kth(near_scores(vectors, ascending, query), k)]
    return best(score_rows(vectors, ascending, query), ascending, k)


def at_least_kth(approximate: Floats, k: int) -> Slots:
    """Positions in (m,) `approximate` scores that could be among the best `k`, ties at the edge included."""
    if k >= approximate.size:
        return np.arange(approximate.size, dtype=np.int64)
    kth = np.partition(approximate, approximate.size - k)[approximate.size - k]
    return np.flatnonzero(approximate >= kth - 2 * SCORE_TOLERANCE).astype(np.int64, copy=False)
