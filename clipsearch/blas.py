"""Keeping the threads of NumPy's matrix products out of small ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np  # noqa: F401 - its library of matrix products must be loaded before it is looked for
from threadpoolctl import ThreadpoolController

_turn = threading.Lock()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block NumPy multiplies matrices in one thread (unless its library cannot be told).

    The products of a single query are over in a fraction of a millisecond, and OpenBLAS' threads wait for
    each other spinning: on a processor that does anything else, each product then takes whole time slices of
    the scheduler (a query's text tower 300 ms instead of 25).

    The number of threads is the whole process's, so blocks of several threads wait for each other: had they
    overlapped, the last to end would have set back what the first one had set.
    """
    with _turn, _controller().limit(limits=1, user_api="blas"):
        yield
