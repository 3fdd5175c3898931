"""What can be chosen about an index, and what is chosen where nothing is said."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from clipsearch.errors import UsageError

ROWS_A_LIST = 39
"""Fewest rows that a centroid is learnt of (FAISS' own advice)."""
GRAPH_FROM = 65_536
"""Lists from which the nearest centroids are found by a graph (HNSW) instead of by comparing with all. Text
queries read a tenth of all lists; a graph that looks for so many gains nothing among fewer."""
NEIGHBOURS = 32
HALVED_FROM = 256
"""Width from which half of the principal directions are kept. On vectors with CLIP's cosines that proposes as
many true neighbours for the same bytes, in half of the time to train and to build."""


@dataclass(frozen=True)
class IvfPqParams:
    """How an index is built; `None` means: derived from the number of rows and their width.

    Attributes:
        lists: centroids; 8·√n, and at least `ROWS_A_LIST` rows a list.
        code_bytes: bytes of a code; a quarter of the width kept (64 at 512).
        bits: of a part of the code: 4 (compared in registers) or 8 (plain; such lists can stay on the disk).
        width: principal directions kept; half of them from 256 on.
        sample_per_list: random rows a centroid is trained on, 39 to 256.
        graph: find the lists to read by a graph of their centroids (HNSW).
    """

    lists: int | None = None
    code_bytes: int | None = None
    bits: int | None = None
    width: int | None = None
    sample_per_list: int = ROWS_A_LIST
    graph: bool = False

    def resolved(self, n: int, dim: int) -> IvfPqParams:
        """The same with nothing left open for `n` rows of width `dim`; `UsageError` where that cannot be."""
        width = self.width or kept_width(dim)
        code_bytes = self.code_bytes or max(1, width // 4)
        bits = self.bits or (4 if width >= 4 else 8)
        lists = self.lists or usual_lists(n)
        if not 1 <= lists <= n // ROWS_A_LIST:
            raise UsageError(f"{n} rows carry between 1 and {n // ROWS_A_LIST} lists, not {lists}")
        if not 1 <= width <= dim:
            raise UsageError(f"{width} directions cannot be kept of {dim}")
        if bits not in (4, 8) or code_bytes < 1 or width % (code_bytes * 8 // bits):
            raise UsageError(
                f"codes of {code_bytes} bytes in parts of {bits} bits do not divide a width of {width}"
            )
        if not ROWS_A_LIST <= self.sample_per_list <= 256:
            raise UsageError(f"39 to 256 training rows a list are useful, not {self.sample_per_list}")
        return replace(self, lists=lists, code_bytes=code_bytes, bits=bits, width=width)

    @property
    def parts(self) -> int:
        """Sub-quantisers of a code."""
        assert self.code_bytes is not None
        assert self.bits is not None
        return self.code_bytes * 8 // self.bits


def usual_lists(n: int) -> int:
    """8·√n lists, and at least `ROWS_A_LIST` rows each.

    A tenth of 8,192 lists holds as many of a text query's neighbours as a sixth of 4,096 (a million vectors).
    """
    return max(1, min(8 * math.isqrt(n), n // ROWS_A_LIST))


def kept_width(dim: int) -> int:
    """How many directions are kept of `dim`: a multiple of four, so that pairs of them fill whole bytes."""
    width = dim // 2 if dim >= HALVED_FROM else dim
    return width // 4 * 4 or width


def factory_key(params: IvfPqParams) -> str:
    """`params` in the notation of FAISS' index factory, as `OPQ128_256,IVF8000,PQ128x4fs`."""
    graph = f"_HNSW{NEIGHBOURS}" if params.graph else ""
    codes = f"PQ{params.parts}x{'4fs' if params.bits == 4 else '8'}"
    return f"OPQ{params.parts}_{params.width},IVF{params.lists}{graph},{codes}"
