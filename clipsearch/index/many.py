"""Exact search for many queries at once: matrix products of blocks of rows with all queries.

One query reads each row once and is bound by memory; a block that is in the cache serves every query there
is, and BLAS' threads share the work.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.halves import WIDENED, widen
from clipsearch.index.checks import Floats, Slots, Vectors
from clipsearch.index.ordering import SCORE_TOLERANCE, rerank

TOGETHER = 16
"""Queries from which a product of matrices is quicker than a scan for each."""
BLOCK_ROWS = 4_096
SCORES = 1 << 22
"""Scores of one block held at once (16 MiB)."""


class _Best:
    """The rows that may still be among the `k` best of one query, with ties at the edge."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.least = np.float32(-np.inf)
        self.scores: list[Floats] = []
        self.slots: list[Slots] = []
        self.held = 0

    def add(self, scores: Floats, slots: Slots) -> None:
        """Take in candidates, and drop those that can no longer be among the best."""
        self.scores.append(scores)
        self.slots.append(slots)
        self.held += scores.size
        if self.held > 4 * self.k + 64:
            self.shrink()

    def shrink(self) -> None:
        """Keep what is within the tolerance of the k-th best so far."""
        scores, slots = np.concatenate(self.scores), np.concatenate(self.slots)
        if scores.size > self.k:
            kth = np.partition(scores, scores.size - self.k)[scores.size - self.k]
            self.least = kth - np.float32(2 * SCORE_TOLERANCE)
            kept = scores >= self.least
            scores, slots = scores[kept], slots[kept]
        self.scores, self.slots = [scores], [slots]
        self.held = max(0, scores.size - self.k)  # ties beyond k do not count twice


def search_together(vectors: Vectors, rows: Floats, k: int, admitted: Slots | None) -> tuple[Floats, Slots]:
    """The `k` best admitted of `vectors` (n, d) for each of (q, d) unit `rows`: (q, k) scores and slots.

    `k` is at most the number admitted. Answers are those of `ExactSearch.search`.
    """
    group = max(TOGETHER, SCORES // BLOCK_ROWS)
    scores = np.empty((len(rows), k), np.float32)
    slots = np.empty((len(rows), k), np.int64)
    for start in range(0, len(rows), group):
        part = rows[start : start + group]
        for i, best in enumerate(_scanned(vectors, part, k, admitted), start):
            best.shrink()
            scores[i], slots[i] = rerank(vectors, best.slots[0], rows[i], k)
    return scores, slots


def _scanned(vectors: Vectors, rows: Floats, k: int, admitted: Slots | None) -> list[_Best]:
    count = len(vectors) if admitted is None else admitted.size
    best = [_Best(k) for _ in rows]
    scaled = np.ascontiguousarray((rows / WIDENED).T)
    room: npt.NDArray[np.int32] = np.empty((min(BLOCK_ROWS, count), rows.shape[1]), np.int32)
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        chosen = np.arange(start, stop) if admitted is None else admitted[start:stop]
        block = vectors[start:stop] if admitted is None else vectors[chosen]
        near = np.dot(widen(block, room[: stop - start]), scaled)
        least = np.array([each.least for each in best], np.float32)
        which, query = np.nonzero(near >= least)
        order = np.argsort(query, kind="stable")
        bounds = np.searchsorted(query[order], np.arange(len(rows) + 1))
        for number, each in enumerate(best):
            mine = which[order[bounds[number] : bounds[number + 1]]]
            if mine.size:
                each.add(near[mine, number], chosen[mine])
    return best
