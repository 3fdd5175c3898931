"""Keeping the threads of NumPy's matrix products out of small ones."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

import numpy as np  # noqa: F401 - its library of matrix products must be loaded before it is looked for
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """Within the block NumPy multiplies matrices in one thread (unless its library cannot be told).

    The products of a single query are over in a fraction of a millisecond, and OpenBLAS' threads wait for
    each other spinning: on a processor that does anything else, each product then takes whole time slices of
    the scheduler (a query's text tower 300 ms instead of 25).
    """
    limited: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limited
