"""Which index a library gets: from the number of vectors, their width and how much memory it may take.

Up to `EXACT_LIMIT` vectors every one is compared. Beyond, inverted lists of codes: 8·√n lists, 4 bits a part,
codes as long as the budget carries. Where not even the shortest fits, codes of 8 bits a part, which can be
mapped, stay on the disk, so there is an index at every size; what its codes cannot tell apart, the exact
scores of the candidates do.

Two other kinds that FAISS has are not chosen: lists of uncoded vectors take sixteen times the memory, and
RaBitQ, turned at random first, finds 75% of a text query's neighbours with all lists read (docs/index.md).
`benchmarks/index_peers.py` measures both beside it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from clipsearch.errors import UsageError
from clipsearch.index.ivfpq import MIN_ROWS
from clipsearch.index.learning import SAMPLE
from clipsearch.index.params import (
    GRAPH_FROM,
    ROWS_A_LIST,
    IvfPqParams,
    factory_key,
    kept_width,
    usual_lists,
)

EXACT_LIMIT = 100_000
"""Vectors up to which every one is compared: an index begins to be worth building beyond it.

Warm, comparing is quick far beyond (4 ms per 100,000 × 512), but it must have all rows in memory: 1 GB per
million where the index has 72 MB and then reads some hundred rows."""

ID_BYTES = 8
"""Of a vector's number in its list."""
GRAPH_BYTES = 2 * 32 * 4 + 8
"""Of a centroid's neighbours in the graph of centroids (HNSW with 32 neighbours: 64 on the lowest level)."""
BLOCK = 32
"""Vectors whose codes are compared at once, and lie together."""
HALVINGS = 2
"""How often the longest code is halved for a budget's sake: 64, 32, 16 bytes at 512 dimensions."""
BUILDING = 10**9
"""Bytes that learning and a run of lists on their way to the disk may take, however small the budget is."""


@dataclass(frozen=True)
class IndexPlan:
    """An index for `vectors` vectors of width `dim` within `budget` bytes, and why it is this one.

    `memory` is what answering needs of memory, `disk` the size of the index file, `building` the most memory
    that building takes, all in bytes. `params` is None for exact search. `mapped` lists stay on the disk,
    and while they are built `run_rows` rows of them are in memory.
    """

    kind: Literal["exact", "ivf-pq"]
    vectors: int
    dim: int
    budget: int
    memory: int
    disk: int
    building: int
    reason: str
    params: IvfPqParams | None = None
    mapped: bool = False
    run_rows: int = 0

    @property
    def name(self) -> str:
        """`exact search`, or the index in the notation of FAISS' index factory."""
        return "exact search" if self.params is None else factory_key(self.params)


def plan_index(vectors: int, dim: int, budget: int | None = None, *, wanted: bool = False) -> IndexPlan:
    """The index for so many vectors; `budget` in bytes, a quarter of this machine's memory if None.

    With `wanted` there is an index also where exact search would do. Raises UsageError for a budget or sizes
    below 1.
    """
    budget = default_budget() if budget is None else budget
    if budget < 1 or vectors < 0 or dim < 1:
        raise UsageError("A budget of memory must be above 0, and so must the width of vectors.")
    if vectors < MIN_ROWS or (vectors <= EXACT_LIMIT and not wanted):
        size = vectors * dim * 2
        why = f"up to {EXACT_LIMIT:,} vectors every one is compared, in milliseconds"
        return IndexPlan("exact", vectors, dim, budget, size, 0, 0, why)
    width = kept_width(dim)
    lists = _lists(vectors, dim, budget)
    codes = _code_lengths(width)
    packed = width >= 4  # 4 bits a part, in blocks
    fixed = _fixed(lists, dim, width, packed)
    sizes = {length: fixed + _listed(vectors, lists, length, packed) for length in codes}
    fitting = [length for length in codes if sizes[length] <= budget]
    length = max(fitting or codes)
    bits = 4 if fitting and packed else 8
    fixed = _fixed(lists, dim, width, bits == 4)
    params = IvfPqParams(lists, length, bits, width, graph=lists >= GRAPH_FROM)
    disk = fixed + _listed(vectors, lists, length, bits == 4)
    why = _reason(length, codes, params.graph, bool(fitting))
    memory = disk if fitting else fixed
    sample = min(vectors, max(lists * ROWS_A_LIST, SAMPLE)) * 4 * (dim + width)
    # In memory: codes before and after they are packed. On the disk: a run whose lists grow by doubling.
    run = 0 if fitting else min(vectors, max(budget, BUILDING) // (2 * (length + ID_BYTES)))
    listed = (2 * disk if bits == 4 else disk) if fitting else 2 * run * (length + ID_BYTES)
    building = max(sample, listed) + fixed
    return IndexPlan(
        "ivf-pq", vectors, dim, budget, memory, disk, building, why, params, not fitting, run_rows=run
    )


def default_budget() -> int:
    """A quarter of this machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def _lists(vectors: int, dim: int, budget: int) -> int:
    """How many lists: as many as are usual, or as the budget can learn."""
    affordable = max(MIN_ROWS, max(budget, BUILDING) // (4 * (dim + kept_width(dim))))
    resident = max(1, budget // (8 * kept_width(dim)))  # centroids may have half of the budget
    return max(1, min(usual_lists(vectors), affordable // ROWS_A_LIST, resident))


def _listed(vectors: int, lists: int, length: int, packed: bool) -> int:
    """Codes and numbers; codes in blocks leave the last block of each list half empty."""
    return vectors * (length + ID_BYTES) + (lists * BLOCK // 2 * length if packed else 0)


def _fixed(lists: int, dim: int, width: int, packed: bool) -> int:
    """Centroids, their graph, the rotation and the codebooks."""
    centroids = lists * (4 * width + (GRAPH_BYTES if lists >= GRAPH_FROM else 0))
    return centroids + 4 * dim * width + (16 if packed else 256) * 4 * width


def _code_lengths(width: int) -> list[int]:
    """Bytes that a code may have, from the longest down."""
    longest = max(1, width // 4)
    halved = [longest >> times for times in range(HALVINGS + 1)]
    return [length for length in halved if length and width % (2 * length) == 0] or [longest]


def _reason(length: int, codes: list[int], graph: bool, fits: bool) -> str:
    told = ", found by a graph of their centroids" if graph else ""
    if not fits:
        return (
            f"not even codes of {min(codes)} bytes fit into the budget, so the lists stay on the disk{told}"
        )
    if length < max(codes):
        return f"codes of {length} bytes are the longest that fit into the budget{told}"
    return f"codes of {length} bytes fit into the budget, and longer ones gain nothing{told}"


__all__ = ["EXACT_LIMIT", "IndexPlan", "default_budget", "plan_index"]
