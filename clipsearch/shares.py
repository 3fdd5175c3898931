"""Rows of an array worked on by two threads, for arithmetic that is over in a millisecond.

The threads of OpenBLAS wait for each other spinning (`clipsearch.blas`); the second one here sleeps while it
has nothing to do, so it costs nothing on a busy machine. Work is cut in the same place however many
processors there are, so that every bit of the result is the same.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import numpy as np

Work = Callable[[slice], None]
Share = Callable[[int, Work], None]
"""Called with a number of rows and what does a slice of them; returns when all are done."""

ALIGNED = 16
"""The second half begins at a multiple of this, as the blocks of a matrix product do."""


@contextmanager
def shared(*, second: bool = True) -> Iterator[Share]:
    """Give what shares rows out; without a `second` thread or processor this one does all, half by half.

    Floating-point errors are silent in the second thread, as `numpy.errstate` is a thread's own.
    """
    if not second or _processors() < 2:
        yield _in_turn
        return
    other = _Second()
    try:
        yield other.share
    finally:
        other.end()


def _half(rows: int) -> int:
    return rows // 2 // ALIGNED * ALIGNED


def _in_turn(rows: int, work: Work) -> None:
    for part in (slice(0, _half(rows)), slice(_half(rows), rows)):
        if part.stop > part.start:
            work(part)


class _Second:
    def __init__(self) -> None:
        self._orders: SimpleQueue[tuple[slice, Work] | None] = SimpleQueue()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="second-half", daemon=True).start()

    def share(self, rows: int, work: Work) -> None:
        half = _half(rows)
        if half == 0:
            _in_turn(rows, work)
            return
        self._orders.put((slice(half, rows), work))
        try:
            work(slice(0, half))
        finally:
            failed = self._done.get()
        if failed is not None:
            raise failed

    def end(self) -> None:
        self._orders.put(None)

    def _serve(self) -> None:
        with np.errstate(all="ignore"):
            while (order := self._orders.get()) is not None:
                part, work = order
                try:
                    work(part)
                except BaseException as error:
                    self._done.put(error)
                else:
                    self._done.put(None)


def _processors() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
