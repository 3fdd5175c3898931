"""What a search takes in, checked once at the door, so that nothing below meets NaN or a wrong width."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ModelMismatch, UsageError

Vectors = npt.NDArray[np.float16]
"""(n, d) half precision, unit rows, row = slot; usually a read-only memory map."""
Floats = npt.NDArray[np.float32]
Slots = npt.NDArray[np.int64]


def unit_queries(queries: npt.ArrayLike, dim: int) -> Floats:
    """Return `queries` as (q, dim) float32 rows of unit length; a single vector becomes one row.

    Raises:
        ModelMismatch: the width is not `dim`: such a vector comes from another model.
        UsageError: not numbers, more than two axes, or a row that is zero, NaN or infinite (FAISS itself
            would take those and answer with noise).
    """
    try:
        rows = np.atleast_2d(np.asarray(queries, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise UsageError(f"a query must be an array of numbers: {error}") from None
    if rows.ndim != 2:
        raise UsageError(f"queries must have one or two axes, not {rows.ndim}")
    if rows.shape[1] != dim:
        raise ModelMismatch(
            f"the query has {rows.shape[1]} numbers and the library's vectors have {dim}: "
            "they come from different models"
        )
    lengths = np.linalg.norm(rows, axis=1)
    if not np.isfinite(lengths).all():
        raise UsageError("a query vector holds NaN or infinity")
    if not (lengths > 0).all():
        raise UsageError("a query vector is zero and points nowhere")
    unit: Floats = (rows / lengths[:, None]).astype(np.float32)
    return unit


def positive_k(k: int) -> int:
    """Return `k`, the number of results wanted; `UsageError` unless it is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise UsageError(f"the number of results must be a whole number, not {k!r}")
    if k < 1:
        raise UsageError(f"the number of results must be at least 1, not {k}")
    return int(k)


def allowed_slots(allowed: npt.ArrayLike | None, n: int) -> Slots | None:
    """Return `allowed` as sorted int64 slots without repeats, `None` where all `n` are allowed.

    Raises:
        UsageError: not a list of whole numbers, or a slot outside [0, n).
    """
    if allowed is None:
        return None
    slots = np.asarray(allowed)
    if slots.size == 0:
        return np.empty(0, np.int64)
    if slots.ndim != 1 or slots.dtype.kind not in "iu":
        raise UsageError("allowed slots must be one list of whole numbers")
    slots = slots.astype(np.int64, copy=False)
    if slots.size > 1 and not (slots[1:] > slots[:-1]).all():
        slots = np.unique(slots)
    if slots[0] < 0 or slots[-1] >= n:
        raise UsageError(f"allowed slots must lie in [0, {n}); got {slots[0]} to {slots[-1]}")
    return None if slots.size == n else slots


def slot_matrix(vectors: npt.NDArray[np.float16]) -> Vectors:
    """Return `vectors` if it is an (n, d) C-contiguous half-precision matrix; `ValueError` otherwise."""
    if vectors.ndim != 2 or vectors.dtype != np.float16 or not vectors.flags.c_contiguous:
        raise ValueError(
            f"vectors must be an (n, d) contiguous float16 matrix, not {vectors.dtype} {vectors.shape}"
        )
    return vectors


def no_results(queries: int) -> tuple[Floats, Slots]:
    """Scores and slots of `queries` searches that admit nothing: two (queries, 0) arrays."""
    return np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)
