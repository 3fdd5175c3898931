"""Work for a GPU, where FAISS has one: nearest centroids, for k-means and for rows on their way into lists.

Only the comparing with centroids goes there: it is most of the time that building takes. What is kept is an
index of the CPU throughout, so nothing has to be brought back before it is saved. Where the memory of the
GPU runs out the CPU goes on; rows then get their lists through the tree of centroids (`clustering`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np

from clipsearch.index.checks import Floats, Slots
from clipsearch.index.engine import faiss

Result = TypeVar("Result")

_log = logging.getLogger(__name__)
_OUT_OF_MEMORY = ("out of memory", "alloc fail", "cudamalloc")
"""What FAISS says of a GPU that is full, in lower case; its errors are plain RuntimeErrors."""


def has_gpu() -> bool:
    """Whether this FAISS was built for GPUs and finds one."""
    lib = faiss()
    return hasattr(lib, "StandardGpuResources") and int(lib.get_num_gpus()) > 0


def either(on_gpu: Callable[[], Result], on_cpu: Callable[[], Result]) -> Result:
    """The result of `on_gpu` where there is a GPU and its memory lasts, else that of `on_cpu`.

    Other errors of the GPU are raised: they would not be told otherwise.
    """
    if not has_gpu():
        return on_cpu()
    try:
        return on_gpu()
    except RuntimeError as error:
        if not any(told in str(error).lower() for told in _OUT_OF_MEMORY):
            raise
        _log.warning("The memory of the GPU is full, so the CPU goes on.")
        return on_cpu()


def moved(flat: Any) -> Any:
    """A copy of a flat CPU index on the first GPU, in single precision as it was."""
    lib = faiss()
    return lib.index_cpu_to_gpu(_resources(), 0, flat, lib.GpuClonerOptions())


@cache
def _resources() -> Any:
    """Streams and scratch memory, taken once: FAISS reserves up to 1.5 GB of the GPU for each of them."""
    return faiss().StandardGpuResources()


class NearestRows:
    """The nearest of `rows` (n, d) by inner product, held on the GPU between calls."""

    def __init__(self, rows: Floats) -> None:
        flat = faiss().IndexFlatIP(rows.shape[1])
        flat.add(np.ascontiguousarray(rows))
        self._index = moved(flat)

    def __call__(self, vectors: Floats) -> Slots:
        """The row nearest to each of (m, d) `vectors`: (m,) int64."""
        found: Slots = self._index.search(np.ascontiguousarray(vectors), 1)[1][:, 0]
        return found
