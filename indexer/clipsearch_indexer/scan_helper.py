"""Processes that look over parts of a place while this one looks over another; see `scan_part`."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import IO, cast

from clipsearch_indexer.scan import Bounds
from clipsearch_indexer.scan_part import Outcome, ScanJob, count, decoded

SHARE = 20_000
"""Files that are worth a process."""
LEAD = 3_000
"""Files that are looked over here while a process starts, some 25 ms."""
MOST = 8
"""Processes at once; disks gain little from more."""

_BOOT = """
import marshal, sys
parent, sys.path[:], job = marshal.load(sys.stdin.buffer)
from clipsearch_indexer.scan_part import ScanJob, main
main(parent, ScanJob(*job))
"""
_TELL_SECONDS = 0.2
_PATIENCE = 1.0  # seconds


def divided(paths: Sequence[bytes], each: int, most: int) -> list[Bounds]:
    """Parts of about the same size, of what a sample in order stands for (a path for `each` files)."""
    count = max(1, min(most, MOST, len(paths) * each // SHARE))
    lead = LEAD // each if count > 1 else 0
    cuts = [paths[lead + (len(paths) - lead) * number // count] for number in range(1, count)]
    return [Bounds(first, end) for first, end in zip([b"", *cuts], [*cuts, b""], strict=True)]


class ScanHelpers:
    """A process for each job, as far as there is room for them; a context manager that ends them."""

    def __init__(self, jobs: Sequence[ScanJob] = ()) -> None:
        self._jobs = jobs
        self._helpers: list[ScanHelper] = []
        self._running = ExitStack()

    def __enter__(self) -> ScanHelpers:
        for job in self._jobs:
            try:
                self._helpers.append(self._running.enter_context(ScanHelper(job)))
            except OSError:
                break
        return self

    def __exit__(self, *_error: object) -> None:
        self._running.close()

    @property
    def met(self) -> int:
        """Files met so far, by those that did their job or are at it."""
        return sum(helper.met for helper in self._helpers)

    def outcomes(self, meanwhile: Callable[[], None]) -> Iterator[Outcome | None]:
        """What each job found, None where its process could not do it; `meanwhile` is called now and then."""
        for helper in self._helpers:
            yield helper.outcome(meanwhile)
        for _ in self._jobs[len(self._helpers) :]:
            yield None


class ScanHelper:
    """One such process, from its start on; a context manager that ends it.

    Raises OSError where the system has no room for another process.
    """

    def __init__(self, job: ScanJob) -> None:
        self.met = 0
        """Files met so far."""
        self._outcome: Outcome | None = None
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,  # out of the terminal's reach: Ctrl-C is for the parent alone
        )
        self._listener = threading.Thread(target=self._listen, args=(job,), name="scan-helper", daemon=True)
        self._listener.start()

    def __enter__(self) -> ScanHelper:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # as on a disk that does not answer
            self._process.wait(_PATIENCE)
            self._listener.join(_PATIENCE)

    def outcome(self, meanwhile: Callable[[], None]) -> Outcome | None:
        """Wait for what it found; None where it ended before its job. `meanwhile` is called now and then."""
        while self._listener.is_alive():
            self._listener.join(_TELL_SECONDS)
            meanwhile()
        return self._outcome

    def _listen(self, job: ScanJob) -> None:
        jobs, results = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        try:
            with results:
                with jobs:
                    marshal.dump((os.getpid(), sys.path, tuple(job)), jobs)
                while isinstance(message := marshal.load(results), int):  # noqa: S302 (from a helper)
                    self.met = message
            self._outcome = decoded(message)
            self.met = sum(count(entry) for entry in self._outcome[0])
        except (EOFError, ValueError, TypeError, OSError):
            self.met = 0
