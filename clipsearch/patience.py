"""How long a client may keep a connection without asking, sending or reading anything.

uvicorn waits without end for the head of a request, for its body and for a client that does not read, so a
few dozen connections that nobody uses shut everyone else out. Here each of these has its time. Nor does a
server start where too few files may be opened for a few clients.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from uvicorn.protocols.http.h11_impl import H11Protocol

from clipsearch.durable import storage_errors

Awaited = Literal["a head", "a body", "a reader"]

SECONDS: dict[Awaited, float] = {"a head": 5.0, "a body": 30.0, "a reader": 30.0}
"""From the connection, or the answer before, to the whole head of a request; from there to the end of its
body; and for which a client may take nothing while bytes are ready for it."""


_FILES = 16
"""Files that it must be possible to open at the start: for the library, the event loop and a few clients."""


class PatientProtocol(H11Protocol):
    """HTTP as uvicorn speaks it, with an end to each wait for the client; our own work may take any time."""

    _awaited: Awaited | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(transport)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._wait_for(None)

    def data_received(self, data: bytes) -> None:
        """It sent something; a piece of a head does not prolong the wait for the whole of it."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """It has been answered."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """It reads more slowly than we write."""
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._look()

    def _look(self) -> None:
        self._wait_for(self._owed())

    def _owed(self) -> Awaited | None:
        if self.transport.get_protocol() is not self:  # a websocket by now, which has its pings
            return None
        if self.flow.write_paused:
            return "a reader"
        if self.cycle is None or self.cycle.response_complete:
            return "a head"
        return "a body" if self.cycle.more_body else None

    def _wait_for(self, awaited: Awaited | None) -> None:
        if awaited == self._awaited:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._awaited = awaited
        # Not closed: that would first wait until everything has been read.
        self._timer = (
            None if awaited is None else self.loop.call_later(SECONDS[awaited], self.transport.abort)
        )


def check_room(library: Path) -> None:
    """Raise StorageError where the limit on open files is too low to let even a few clients in."""
    with ExitStack() as opened, storage_errors(library):
        for _ in range(_FILES):
            opened.enter_context(Path(os.devnull).open())


def tell_of_too_many_files_once() -> None:
    """Let the event loop say in a sentence that it cannot accept connections; it does so with a traceback."""
    logging.getLogger("asyncio").addFilter(_Once())


class _Once(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def filter(self, record: logging.LogRecord) -> bool:
        error: Any = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            return True
        if self._said:
            return False
        self._said = True
        record.msg = "Too many files are open: new clients wait until others leave (`ulimit -n` allows more)."
        record.args, record.exc_info, record.exc_text = (), None, None
        return True
