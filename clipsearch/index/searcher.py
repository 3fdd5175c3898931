"""One search over a library's vectors: exact, or through the index with the rows it lacks added exactly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UsageError
from clipsearch.index.checks import (
    Floats,
    Slots,
    Vectors,
    allowed_slots,
    no_results,
    positive_k,
    slot_matrix,
    unit_queries,
)
from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import KINDS, IvfPq, Kind, known_effort
from clipsearch.index.ordering import best
from clipsearch.index.planning import EXACT_LIMIT

FIRST_WITHIN = 64
"""Results first asked for by a search within a cosine; then eight times as many, and so on."""


class Searcher:
    """Search over `vectors` (n, d) float16, through `index` where that pays. Safe to call from threads.

    Args:
        vectors: unit rows, row = slot; must not change meanwhile.
        index: built over the first rows of the same matrix; `None` for exact search throughout.
        exact_limit: admitted rows up to which every one is compared.
    """

    def __init__(
        self, vectors: Vectors, index: IvfPq | None = None, *, exact_limit: int = EXACT_LIMIT
    ) -> None:
        self.vectors = slot_matrix(vectors)
        if index is not None and (index.dim != vectors.shape[1] or index.covered > len(vectors)):
            raise ValueError(
                f"an index of {index.covered} × {index.dim} does not belong to vectors {vectors.shape}"
            )
        self.index = index
        self.exact_limit = exact_limit
        self._exact = ExactSearch(vectors)
        covered = index.covered if index else 0
        self._tail = ExactSearch(self.vectors[covered:])

    def search(
        self, queries: npt.ArrayLike, k: int, *, kind: Kind, allowed: npt.ArrayLike | None = None
    ) -> tuple[Floats, Slots]:
        """The `k` nearest admitted rows of each query; arguments and errors as `ExactSearch.search`.

        `kind` says what the queries were made from: text and image queries need different effort. Scores are
        exact in every case, there are always min(k, admitted) columns, and rows added after the index was
        built are found at once. Many queries at once share the work (and BLAS' and FAISS' threads).
        """
        if kind not in KINDS:
            raise UsageError(f"a query is of kind text or image, not {kind!r}")
        k = positive_k(k)
        n, dim = self.vectors.shape
        rows = unit_queries(queries, dim)
        admitted = allowed_slots(allowed, n)
        count = n if admitted is None else admitted.size
        k = min(k, count)
        if k == 0:
            return no_results(len(rows))
        if (
            self.index is None
            or count <= self.exact_limit
            or not self._worth_it(self.index, k, kind, admitted)
        ):
            return self._exact.search(rows, k, admitted)
        return self._through(self.index, rows, k, kind, admitted)

    def within(
        self, query: npt.ArrayLike, least: float, *, kind: Kind, allowed: npt.ArrayLike | None = None
    ) -> tuple[Floats, Slots]:
        """Every admitted row whose cosine with one query (d,) is at least `least`, best first: scores, slots.

        Found by asking for more and more results until one falls short, so recall is that of `search`.
        Raises as `search`, and UsageError for a `least` that is no number or more than one query.
        """
        if not np.isfinite(least):
            raise UsageError(f"the lowest cosine must be a number, not {least}")
        wanted = FIRST_WITHIN
        while True:
            scores, slots = self.search(query, wanted, kind=kind, allowed=allowed)
            if len(scores) != 1:
                raise UsageError("a search within a cosine takes one query at a time")
            end = int((scores[0] >= least).sum())
            if end < scores.shape[1] or scores.shape[1] < wanted:
                return scores[0, :end], slots[0, :end]
            wanted *= 8

    def reconstruct(self, slots: npt.ArrayLike) -> Floats:
        """The stored rows of (m,) `slots`, in that order: (m, d) float32. UsageError for one that is not."""
        wanted = np.atleast_1d(np.asarray(slots))
        if wanted.size == 0:
            return np.empty((0, self.vectors.shape[1]), np.float32)
        allowed_slots(wanted, len(self.vectors))
        return np.asarray(self.vectors[wanted], np.float32)

    def _worth_it(self, index: IvfPq, k: int, kind: Kind, admitted: Slots | None) -> bool:
        """Whether the index leaves out most of the rows that it covers."""
        effort = known_effort(index.effort, kind, index.lists)
        covered = index.covered if admitted is None else int(np.searchsorted(admitted, index.covered))
        return k * effort.spread * 4 <= covered

    def _through(
        self, index: IvfPq, rows: Floats, k: int, kind: Kind, admitted: Slots | None
    ) -> tuple[Floats, Slots]:
        split = None if admitted is None else int(np.searchsorted(admitted, index.covered))
        inside = admitted if admitted is None else admitted[:split]
        outside = admitted if admitted is None else admitted[split:] - index.covered
        if inside is not None and inside.size == index.covered:
            inside = None
        effort = known_effort(index.effort, kind, index.lists)
        old = index.search(self.vectors, rows, k, effort, inside)
        new_scores, new_slots = self._tail.search(rows, k, outside)
        scores = np.empty((len(rows), k), np.float32)
        slots = np.empty((len(rows), k), np.int64)
        for i, (old_scores, old_slots) in enumerate(old):
            both = np.concatenate([old_slots, new_slots[i] + index.covered])
            if both.size < k:  # the lists read held too few admitted rows
                scores[i : i + 1], slots[i : i + 1] = self._exact.search(rows[i], k, admitted)
            else:
                scores[i], slots[i] = best(np.concatenate([old_scores, new_scores[i]]), both, k)
        return scores, slots
