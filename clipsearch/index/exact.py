"""Exact search: every admitted row is compared.

Two ways to the same answer (`benchmarks/exact_search.py`: 100,000 × 512, one query, 2 busy cores):

===================================  =========  =========================================
way                                  a query    before the first query
===================================  =========  =========================================
FAISS fp16 scan over the memory map  24 ms      `import faiss`: 50–320 ms; no copy of rows
NumPy, 512 rows widened at a time    31 ms      nothing
a float32 copy, one product          9 ms       530 ms and a copy of 200 MB
FAISS float32 index                  46 ms      470 ms and a copy of 200 MB
===================================  =========  =========================================

On idle cores the first two take 4 and 15 ms. So a one-shot query over a small library never imports FAISS; a
process that goes on asking has paid the import's worth in NumPy time after about 200,000 × 512 numbers and
changes over (rent until the rent has reached the price: at most twice the cost of knowing the future).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.halves import WIDENED, widen
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
from clipsearch.index.engine import faiss
from clipsearch.index.many import TOGETHER, search_together
from clipsearch.index.ordering import (
    ROWS_AT_A_TIME,
    SCORE_TOLERANCE,
    at_least_kth,
    rerank,
)

NUMPY_BUDGET = 200_000 * 512
"""Numbers widened by NumPy before FAISS is imported: 30 ms of work or more, about what the import costs."""

GATHER_SHARE = 256
"""A selection of fewer than n / 256 slots is gathered: less work than asking a bitmap n times."""

MAX_HEAP = 4096
"""Most results taken from FAISS' heap; beyond it, sorting all scores is quicker."""

SCORES_AT_A_TIME = 1 << 22
"""Scores held at once (16 MiB) when many queries are answered together by NumPy."""


class ExactSearch:
    """Exact cosine search over `vectors` (n, d) float16, unit rows, row = slot. Safe to call from threads.

    The rows are used where they lie: nothing is copied, and `vectors` must not change while this exists.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = slot_matrix(vectors)
        self._widened = 0
        self._scan: Any = None

    def search(
        self, queries: npt.ArrayLike, k: int, allowed: npt.ArrayLike | None = None
    ) -> tuple[Floats, Slots]:
        """The `k` nearest admitted rows of each query.

        Args:
            queries: (q, d) or (d,), any length but zero; they are brought to unit length.
            k: results wanted.
            allowed: slots that may be returned; `None` admits all.

        Returns:
            scores (q, k') float32 and slots (q, k') int64, k' = min(k, admitted rows): there is no padding.
            A score is the dot product of the half-precision row and the float32 query. Rows descend by
            score, equal scores ascend by slot.

        Raises:
            UsageError: k < 1, a zero, NaN or infinite query, or a slot outside the matrix.
            ModelMismatch: queries of another width.
        """
        k = positive_k(k)
        n, dim = self.vectors.shape
        rows = unit_queries(queries, dim)
        admitted = allowed_slots(allowed, n)
        count = n if admitted is None else admitted.size
        k = min(k, count)
        if k == 0:
            return no_results(len(rows))
        if len(rows) >= TOGETHER and k <= MAX_HEAP:
            return search_together(self.vectors, rows, k, admitted)
        if self._by_faiss(count, len(rows)):
            return self._search_faiss(rows, k, admitted)
        return self._search_numpy(rows, k, admitted)

    def _by_faiss(self, count: int, queries: int) -> bool:
        if count * GATHER_SHARE <= len(self.vectors):
            return False
        work = count * self.vectors.shape[1]
        if "faiss" in sys.modules or self._widened + work * (1 + queries // 16) > NUMPY_BUDGET:
            return True
        self._widened += work
        return False

    def _search_numpy(self, rows: Floats, k: int, admitted: Slots | None) -> tuple[Floats, Slots]:
        count = len(self.vectors) if admitted is None else admitted.size
        scores = np.empty((len(rows), k), np.float32)
        slots = np.empty((len(rows), k), np.int64)
        together = max(1, SCORES_AT_A_TIME // count)
        for start in range(0, len(rows), together):
            group = rows[start : start + together]
            for i, approximate in enumerate(self._approximate(group, admitted), start):
                near = at_least_kth(approximate, k)
                candidates = near if admitted is None else admitted[near]
                scores[i], slots[i] = rerank(self.vectors, candidates, rows[i], k)
        return scores, slots

    def _approximate(self, rows: Floats, admitted: Slots | None) -> Floats:
        """Dot products (q, admitted) in float32, in the order of `admitted`."""
        count = len(self.vectors) if admitted is None else admitted.size
        scores = np.empty((count, len(rows)), np.float32)
        scaled = (rows / WIDENED).T
        room = np.empty((min(ROWS_AT_A_TIME, count), rows.shape[1]), np.int32)
        for start in range(0, count, ROWS_AT_A_TIME):
            stop = min(start + ROWS_AT_A_TIME, count)
            part = self.vectors[start:stop] if admitted is None else self.vectors[admitted[start:stop]]
            np.dot(widen(part, room[: stop - start]), scaled, out=scores[start:stop])
        return scores.T

    def _search_faiss(self, rows: Floats, k: int, admitted: Slots | None) -> tuple[Floats, Slots]:
        count = len(self.vectors) if admitted is None else admitted.size
        # FAISS keeps an arbitrary one of several equal scores: a margin shows whether the edge is clear.
        wanted = min(count, k + 16 + k // 16)
        if wanted > MAX_HEAP:
            return self._search_numpy(rows, k, admitted)
        if self._scan is None:
            self._scan = scan_over(self.vectors)
        near, found = self._scan.search(rows, wanted, params=_only(admitted, len(self.vectors)))
        clear = (near[:, -1] < near[:, k - 1] - 2 * SCORE_TOLERANCE) | (wanted == count)
        scores = np.empty((len(rows), k), np.float32)
        slots = np.empty((len(rows), k), np.int64)
        for i in range(len(rows)):
            if clear[i]:
                scores[i], slots[i] = rerank(self.vectors, found[i], rows[i], k)
            else:
                scores[i : i + 1], slots[i : i + 1] = self._search_numpy(rows[i : i + 1], k, admitted)
        return scores, slots


def _only(admitted: Slots | None, n: int) -> Any:
    """FAISS search parameters that admit those of `n` slots, `None` for all."""
    if admitted is None:
        return None
    return faiss().SearchParameters(sel=selector(admitted, n))


def selector(admitted: Slots, n: int) -> Any:
    """A FAISS bitmap selector of `admitted` among `n` slots."""
    mask = np.zeros(n, dtype=bool)
    mask[admitted] = True
    return faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def scan_over(vectors: Vectors) -> Any:
    """A FAISS fp16 flat index whose codes *are* the rows of `vectors`: no copy, no load time.

    FAISS keeps codes in a vector that is either its own or a view of memory that another owns (so that it
    can map its files); the view's fields are set here. Where a FAISS build lacks them the rows are copied.
    """
    lib = faiss()
    n, dim = vectors.shape
    scan = lib.IndexScalarQuantizer(dim, lib.ScalarQuantizer.QT_fp16, lib.METRIC_INNER_PRODUCT)
    scan.is_trained = True  # half precision has nothing to learn
    codes = np.asarray(vectors).view(np.uint8)
    store = scan.codes
    if all(hasattr(store, name) for name in ("is_owned", "view_data", "view_size", "c_ptr", "c_size")):
        address = lib.swig_ptr(codes.reshape(-1))
        store.is_owned = False
        store.view_data = store.c_ptr = address
        store.view_size = store.c_size = codes.size
        scan.ntotal = n
        scan.referenced_objects = (vectors, codes)  # the view must not outlive the memory
    else:
        scan.add_sa_codes(codes)
    return scan
