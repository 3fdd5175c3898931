"""Ctrl-C at a good moment: held back while a run keeps its books, let through while it waits or computes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Shield:
    """Holds back SIGINT, SIGTERM and SIGHUP where Python handles them, but for the blocks of `let_through`.

    ::

        with Shield() as shield:
            with shield.let_through():
                result = wait_for_something()   # may be left by KeyboardInterrupt
            commit(result)                      # may not

    A signal that comes outside of such a block is delivered, by the handler that was there before, when the
    next one begins, or at the end. Outside of the main thread, where signals never arrive, it does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._held: list[tuple[int, FrameType | None]] = []
        self._open = False

    def __enter__(self) -> Shield:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None:
            self._deliver()

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Let signals through; what they raise comes out of the block, or before it begins."""
        self._open = True
        try:
            self._deliver()
            yield
        finally:
            self._open = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._held.append((number, frame))
        if self._open:
            self._open = False  # one is enough: whoever catches it must not be torn by a second
            self._deliver()

    def _deliver(self) -> None:
        if self._held:
            number, frame = self._held[0]
            self._held.clear()
            self._handlers[number](number, frame)
