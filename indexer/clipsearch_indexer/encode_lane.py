"""Embedding a batch while the next one is collected, so that a GPU does not wait for a run's books."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Row = npt.NDArray[np.float32]
Embed = Callable[[Pixels], "list[Row | None]"]


class EncodeLane:
    """One batch at a time, in a thread of its own where `beside`, else in the caller's; a context manager.

    `embed` takes uint8 (n, size, size, 3), which it must not keep, and gives a row or None for each image.
    """

    def __init__(self, embed: Embed, *, beside: bool) -> None:
        self._embed = embed
        self._thread = ThreadPoolExecutor(1, "encode-lane") if beside else None
        self._batch: Sequence[Pixels] = ()
        self._rows: Future[list[Row | None]] | None = None
        self._buffer: Pixels | None = None
        self.seconds = 0.0
        """That embedding took so far."""

    def __enter__(self) -> EncodeLane:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._thread is not None:
            self._thread.shutdown()  # a batch under way is soon done, and is not lost

    @property
    def beside(self) -> bool:
        """Whether a batch is embedded while the caller does something else."""
        return self._thread is not None

    @property
    def finished(self) -> bool:
        """Whether the rows of a batch are there that was embedded beside the caller."""
        return self._rows is not None and self._rows.done() and self._rows.exception() is None

    def start(self, batch: Sequence[Pixels]) -> None:
        """Begin with a batch, of uint8 (size, size, 3); the rows of the one before have been taken."""
        self._batch = batch
        if self._thread is not None:
            self._rows = self._thread.submit(self._work)

    def rows(self) -> list[Row | None]:
        """Wait for the rows of the batch, which are given once; raises what `embed` raises."""
        if self._thread is None:
            return self._work()
        assert self._rows is not None
        rows = self._rows.result()
        self._rows = None
        return rows

    def _work(self) -> list[Row | None]:
        started = time.monotonic()
        try:
            return self._embed(self._stacked())
        finally:
            self.seconds += time.monotonic() - started

    def _stacked(self) -> Pixels:
        """The batch in one array, which the next one takes over: fresh memory costs more than copying."""
        shape = self._batch[0].shape
        count = len(self._batch)
        if self._buffer is None or len(self._buffer) < count or self._buffer.shape[1:] != shape:
            self._buffer = np.empty((count, *shape), np.uint8)
        return np.stack(self._batch, out=self._buffer[:count])
