"""Which index a library gets: from the number of vectors, their width and the memory they may take. Pure.

The choice follows measurements (docs/index.md): below `EXACT_LIMIT` comparing every vector is quick and never
wrong. Above it, codes of 4 bits in registers (PQ fast scan, André et al. 2015) beat every alternative on text
queries at equal memory, IVF-flat and one-bit RaBitQ among them. Where even those do not fit into the memory
allowed, codes of 8 bits stay in the file, mapped, and only centroids and tables are resident.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Literal

from clipsearch.errors import UsageError

Way = Literal["exact", "ivf-pq", "ivf-pq-mapped"]

EXACT_LIMIT = 100_000
"""Vectors up to which every one is compared: an index begins to be worth building beyond it.

Warm, comparing is quick far beyond (8 ms per 100,000 × 512 on one core), but it must have all rows in memory:
1 GB per million where the index has 72 MB and then reads some hundred rows."""

ROWS_A_LIST = 39
"""Fewest training rows for a centroid (FAISS' own advice)."""
MAX_ROWS_A_LIST = 256
ID_BYTES = 8
LEAST_MEMORY = 16 << 20
"""Bytes below which no index can be trained at all: then search is exact, whatever that takes."""


@dataclass(frozen=True)
class Plan:
    """How `n` vectors of width `dim` are searched, and why.

    Attributes:
        way: "exact"; "ivf-pq", codes in memory; "ivf-pq-mapped", codes in the file.
        reason: one sentence for people.
        lists: inverted lists, 0 for exact search.
        width: directions kept by the rotation.
        code_bytes: bytes of a code.
        bits: 4 or 8, of each sub-quantiser.
        sample: random rows trained on.
        memory: bytes resident while searching.
        build_memory: bytes at the peak of building, the vectors themselves being mapped.
    """

    n: int
    dim: int
    budget: int
    way: Way
    reason: str
    lists: int = 0
    width: int = 0
    code_bytes: int = 0
    bits: int = 0
    sample: int = 0
    memory: int = 0
    build_memory: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The fields for `json.dumps`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def default_memory() -> int:
    """A quarter of this machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def make_plan(n: int, dim: int, memory: int | None = None, *, exact_limit: int = EXACT_LIMIT) -> Plan:
    """Choose how to search `n` vectors of `dim` numbers within `memory` bytes (None: a quarter of RAM).

    Raises:
        UsageError: a negative number of vectors, a width below 1, or no memory at all.
    """
    budget = default_memory() if memory is None else memory
    if n < 0 or dim < 1:
        raise UsageError(f"there is no plan for {n} vectors of {dim} numbers")
    if budget < 1:
        raise UsageError(f"an index needs some memory, not {budget} bytes")
    if n <= exact_limit:
        return Plan(n, dim, budget, "exact", f"comparing each of up to {exact_limit:,} vectors is quick")
    if budget < LEAST_MEMORY:
        return Plan(
            n, dim, budget, "exact", f"{_size(budget)} cannot hold an index; search is exact, from the file"
        )
    for way in ("ivf-pq", "ivf-pq-mapped"):
        plan = _indexed(n, dim, budget, way)
        if plan is not None:
            return plan
    return Plan(
        n,
        dim,
        budget,
        "exact",
        f"{_size(budget)} cannot hold an index of {n:,} vectors; search is exact, from the file",
    )


def _indexed(n: int, dim: int, budget: int, way: Way) -> Plan | None:
    """The plan of one way; `None` where it does not fit."""
    width, code_bytes, bits = shape(dim, mapped=way == "ivf-pq-mapped")
    fixed = 4 * width * (dim + width) + (4 << bits) * width  # rotation and codebooks
    codes = n * (code_bytes + ID_BYTES) if way == "ivf-pq" else 0
    lists = most_lists(n)
    # Of a sample, the rows and their rotated copy exist at once.
    trained = fixed + ROWS_A_LIST * lists * 4 * (dim + width)
    if trained > budget:
        lists = max(0, budget - fixed) // (ROWS_A_LIST * 4 * (dim + width))
    resident = fixed + lists * 4 * width + codes
    if lists < 16:
        return None
    rows = min(n, MAX_ROWS_A_LIST * lists, max(ROWS_A_LIST * lists, SAMPLE))
    sample = max(ROWS_A_LIST * lists, min(rows, (budget - fixed) // (4 * (dim + width))))
    # Codes for registers are packed from plain ones, and both exist until that is done.
    building = max(fixed + sample * 4 * (dim + width), resident + n * (code_bytes + ID_BYTES))
    if way == "ivf-pq" and building > budget:
        return None
    where = "codes in memory" if way == "ivf-pq" else "codes stay in the file, as they exceed the memory"
    reason = (
        f"{n:,} vectors in {lists:,} lists, {code_bytes} bytes each beside their number; {where} "
        f"({_size(resident)} of {_size(budget)})"
    )
    return Plan(n, dim, budget, way, reason, lists, width, code_bytes, bits, sample, resident, building)


SAMPLE = 65_536
"""Rows that the directions and codebooks are learnt from where the lists would need fewer."""


def most_lists(n: int) -> int:
    """8·√n lists, and at least `ROWS_A_LIST` vectors each.

    With text queries a tenth of 8,192 lists holds what a sixth of 4,096 does (a million vectors).
    """
    return max(1, min(8 * math.isqrt(n), n // ROWS_A_LIST))


def shape(dim: int, *, mapped: bool) -> tuple[int, int, int]:
    """(width, bytes of a code, bits of a sub-quantiser) for vectors of `dim` numbers.

    Half of the directions are kept from 256 on; two of them share 4 bits in memory (64 bytes at 512), and
    four share 8 bits in the file, which takes as many bytes and needs fewer operations without registers.
    """
    step = 4 if dim >= 4 else 2
    width = max(dim // 2 if dim >= 256 else dim, 1)
    width -= width % step if width >= step else 0
    if mapped:
        return width, max(1, width // 4), 8
    if width < 4:
        return width, width, 8  # too narrow to be dealt out in halves of bytes
    return width, width // 4, 4


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("bytes", "KB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
