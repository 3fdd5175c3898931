"""A run of the indexer in the background, with progress and a way to stop it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch.errors import ClipsearchError

if TYPE_CHECKING:
    from clipsearch.api import Library
    from clipsearch_indexer.ingest import Progress, Summary


class IndexRun:
    """Indexes folders in a thread; searching goes on meanwhile."""

    def __init__(self, library: Library, folders: Sequence[Path], model: str | None = None) -> None:
        self._library = library
        self._folders = list(folders)
        self._model = model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="indexing", daemon=True)
        self._started = time.monotonic()
        self._stage_started = self._started
        self.progress: Progress | None = None
        self.summary: Summary | None = None
        self.error: str | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it is at work."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End it soon; what was done is kept."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Wait for its end, at most so long."""
        self._thread.join(seconds)

    def seconds_left(self) -> float | None:
        """How long it will still take; None as long as that cannot be told."""
        progress = self.progress
        if progress is None or progress.total <= 0 or progress.done < 8:
            return None
        return (time.monotonic() - self._stage_started) / progress.done * (progress.total - progress.done)

    def _report(self, progress: Progress) -> None:
        if self.progress is None or self.progress.stage != progress.stage:
            self._stage_started = time.monotonic()
        self.progress = progress
        if self._stop.is_set():
            raise KeyboardInterrupt  # the indexer's way to be told: it commits what it has

    def _work(self) -> None:
        try:
            self.summary = self._library.index(self._folders, model=self._model, report=self._report)
        except ClipsearchError as error:
            self.error = str(error)
        except KeyboardInterrupt:
            self.error = "Stopped before anything was read."
        except Exception:
            logging.getLogger(__name__).exception("the indexer failed")
            self.error = "The indexer failed unexpectedly; what was indexed before is safe."
