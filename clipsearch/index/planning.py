"""Which index a library gets: from the number of vectors, their width and how much memory it may take.

Up to `EXACT_LIMIT` vectors every one is compared. Beyond, inverted lists of codes: 4·√n lists, codes as long
as the budget carries. Where not even the shortest code fits, the lists stay on the disk and are mapped, so
there is an index at every size; what its codes cannot tell apart, the exact scores of the candidates do.

Two other kinds that FAISS has, lists of uncoded vectors and RaBitQ, are measured beside it by
`benchmarks/index_peers.py`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal

from clipsearch.errors import UsageError
from clipsearch.index.ivfpq import GRAPH_FROM, MIN_ROWS, IvfPqParams, factory_key

EXACT_LIMIT = 100_000
"""Vectors up to which every one is compared: an index begins to be worth building beyond it.

Warm, comparing is quick far beyond (4 ms per 100,000 × 512), but it must have all rows in memory: 1 GB per
million where the index has 72 MB and then reads some hundred rows."""

ID_BYTES = 8
"""Of a vector's number in its list."""
GRAPH_BYTES = 2 * 32 * 4 + 8
"""Of a centroid's neighbours in the graph of centroids (HNSW with 32 neighbours: 64 on the lowest level)."""
SHORTEST = 8
"""Bytes of the shortest code that is worth reading."""
BYTES_A_DIMENSION = 1 / 8
"""Of the longest code, 64 bytes at 512 dimensions; re-ranking makes up for what it loses."""
BUILDING = 10**9
"""Bytes that the sample which an index learns from may always take, however small the budget is."""


@dataclass(frozen=True)
class IndexPlan:
    """An index for `vectors` vectors of width `dim` within `budget` bytes, and why it is this one.

    `memory` is what answering needs of memory, `disk` the size of the index file, `building` the most memory
    that building takes, all in bytes. `params` is None for exact search. `mapped` lists stay on the disk.
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

    @property
    def name(self) -> str:
        """`exact search`, or the index in the notation of FAISS' index factory."""
        return "exact search" if self.params is None else factory_key(self.params, self.dim)


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
    lists, sampled = _lists(vectors, dim, budget)
    fixed = _fixed(lists, dim)
    codes = _code_lengths(dim)
    fitting = [length for length in codes if vectors * (length + ID_BYTES) + fixed <= budget]
    length = max(fitting, default=min(codes))
    params = IvfPqParams(lists, length, sampled, graph=lists >= GRAPH_FROM)
    disk = vectors * (length + ID_BYTES) + fixed
    why = _reason(length, codes, lists, bool(fitting))
    memory = disk if fitting else fixed
    building = disk + 2 * 4 * dim * max(lists * sampled, 65_536)
    return IndexPlan("ivf-pq", vectors, dim, budget, memory, disk, building, why, params, mapped=not fitting)


def default_budget() -> int:
    """A quarter of this machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def _lists(vectors: int, dim: int, budget: int) -> tuple[int, int]:
    """How many lists, and training rows for each; the sample is held twice."""
    affordable = max(MIN_ROWS, max(budget, BUILDING) // (2 * 4 * dim))
    lists = max(1, min(4 * math.isqrt(vectors), vectors // 39, affordable // 39))
    return lists, max(39, min(50, affordable // lists))


def _fixed(lists: int, dim: int) -> int:
    """Centroids, their graph, the rotation and the codebooks."""
    return lists * (4 * dim + (GRAPH_BYTES if lists >= GRAPH_FROM else 0)) + 4 * dim * dim + 256 * 4 * dim


def _code_lengths(dim: int) -> list[int]:
    """Bytes that a code may have: divisors of the width, in halves from the longest down."""
    longest = max(1, int(dim * BYTES_A_DIMENSION))
    divisors = [m for m in range(1, longest + 1) if dim % m == 0]
    return [m for m in divisors if m >= SHORTEST] or divisors[-1:]


def _reason(length: int, codes: list[int], lists: int, fits: bool) -> str:
    graph = ", found by a graph of their centroids" if lists >= GRAPH_FROM else ""
    if not fits:
        return f"not even codes of {length} bytes fit into the budget, so the lists stay on the disk{graph}"
    if length < max(codes):
        return f"codes of {length} bytes are the longest that fit into the budget{graph}"
    return f"codes of {length} bytes fit into the budget, and longer ones gain nothing{graph}"


__all__ = ["EXACT_LIMIT", "IndexPlan", "default_budget", "plan_index"]
