"""A pool of decoder processes: a file that crashes, hangs or swells costs itself and nothing else.

::

    jobs ──► run() ──► waiting ──► pump thread ◄──► one socket a worker ◄──► worker processes
    results ◄── run() ◄── finished ◄──┘

`run` pulls jobs in the caller's thread (so they may come from SQLite) and never holds more than `ahead` of
them. The pump thread owns the workers, so they go on decoding while the caller encodes a batch.

Pixels come over the socket: a 224 px crop (150 KB) takes about 0.2 ms, a few hundredths of decoding a photo.
Shared memory takes a tenth of that, but needs slots, a protocol for them and a clean-up after each crash.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from types import TracebackType

from clipsearch.devices import processors
from clipsearch.errors import ImageError
from clipsearch_indexer.messages import Decoded, Failed, Job, Known, Limits, Result, Setup, ToPixels

__all__ = [
    "DecodePool",
    "Decoded",
    "Failed",
    "Job",
    "Known",
    "Limits",
    "Result",
    "ToPixels",
    "default_workers",
]

_START_SECONDS = 120.0  # for a worker to import what it needs, on a cold disk
_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
_START_ATTEMPTS = 3  # failures in a row before the pool gives up

# Not multiprocessing.Process: it would import the caller's main module into each worker, need the guard
# against that in every script and notebook, and start a resource tracker.
_BOOT = """
import json, sys
descriptor, parent, sys.path[:] = json.loads(sys.argv[1])
from clipsearch_indexer.worker import main
main(descriptor, parent)
"""


def default_workers() -> int:
    """How many decoders keep this machine busy: one for each processor that this process may use."""
    return processors()


@dataclass(eq=False)
class _Task:
    job: Job
    run: int
    alone: bool = False
    """It failed once in a way that may be its neighbours' doing, and gets a second try without them."""


class _Worker:
    """One decoder process and the task it is at."""

    def __init__(self, setup: bytes) -> None:
        ours, theirs = Pipe()
        argument = json.dumps([theirs.fileno(), os.getpid(), sys.path])
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _BOOT, argument],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # out of the terminal's reach: Ctrl-C is for the parent alone
                # Threads of BLAS would take address space from the limit, and processors from other workers.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self.connection: Connection = ours
        self.task: _Task | None = None
        self.ready = False
        self.expired = False
        self.deadline: float | None = time.monotonic() + _START_SECONDS
        with contextlib.suppress(OSError):  # dead already: its socket will say so
            ours.send_bytes(setup)

    def give(self, task: _Task, seconds: float) -> None:
        """Hand over a task; OSError if the worker is gone."""
        self.connection.send(task.job)
        self.task, self.deadline = task, time.monotonic() + seconds

    def stop(self) -> int:
        """End the process, whatever it is doing, and give its exit status (-n: by signal n)."""
        self.connection.close()
        try:
            # A worker that died by itself may still be on its way out; its own status is worth a moment.
            self._process.wait(timeout=0 if self.task is None or self.expired else 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._process.wait()

    def kill(self) -> None:
        """End the process; its socket then reports the end."""
        self.expired = True
        self._process.kill()


class DecodePool:
    """Decoder processes behind one call; a context manager.

    workers: how many processes, see `default_workers`. They start as jobs come.
    to_pixels: picklable and importable without torch; runs in the workers.
    cover: the edge of the model's input in pixels, see `clipsearch.images.decode`.
    follow_symlinks: also read files that are symbolic links.

    Raises ImageError if the system has no room for it.
    """

    def __init__(
        self,
        workers: int,
        to_pixels: ToPixels,
        cover: int | None,
        *,
        limits: Limits | None = None,
        follow_symlinks: bool = False,
    ) -> None:
        self._limits = limits or Limits()
        self._setup = pickle.dumps(Setup(to_pixels, cover, self._limits, follow_symlinks))
        self._size = max(1, workers)
        self._workers: list[_Worker] = []  # this, the retries and the count belong to the pump
        self._retries: deque[_Task] = deque()
        self._failed_starts = 0
        self._waiting: deque[_Task] = deque()
        self._finished: SimpleQueue[tuple[int, Result] | BaseException] = SimpleQueue()
        self._runs = itertools.count(1)
        self._run = 0  # results of any other run are stale; 0: none
        self._stopping = False
        try:
            self._alarm, self._bell = Pipe(duplex=False)
        except OSError as error:
            raise _no_room(error) from error
        self._pump_thread = threading.Thread(target=self._pump, name="decode-pump", daemon=True)

    def __enter__(self) -> DecodePool:
        self._pump_thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._ring()
        self._pump_thread.join()
        self._alarm.close()
        self._bell.close()

    def run(self, jobs: Iterable[Job], *, ahead: int) -> Generator[Result, None, None]:
        """Do `jobs` and yield exactly one result for each, as they finish.

        At most `ahead` jobs (at least one) are taken before their results have been: `2 * batch` keeps the
        workers busy while the caller is at a batch. The results not yet yielded then hold that many crops.
        One run at a time; leaving it early drops what is under way. Raises ImageError if no worker can be
        started at all.
        """
        if self._run:
            raise RuntimeError("this pool is in a run already")
        run = self._run = next(self._runs)
        pending = 0
        jobs = iter(jobs)
        more = True
        try:
            while True:
                while more and pending < max(1, ahead):
                    job = next(jobs, None)
                    if job is None:
                        more = False
                    else:
                        self._waiting.append(_Task(job, run))
                        self._ring()
                        pending += 1
                if pending == 0:
                    return
                yield self._take(run)
                pending -= 1
        finally:
            self._run = 0
            self._waiting.clear()

    def _take(self, run: int) -> Result:
        while True:
            item = self._finished.get()
            if isinstance(item, BaseException):
                self._finished.put(item)  # for the next call as well: the pump is gone
                raise item
            if item[0] == run:
                return item[1]

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # the pump ended with an error, which `_take` raises
            self._bell.send_bytes(b"")

    # What follows runs in the pump thread.

    def _pump(self) -> None:
        try:
            while not self._stopping:
                self._dispatch()
                for ready in wait([self._alarm, *(w.connection for w in self._workers)], self._patience()):
                    if ready is self._alarm:
                        self._alarm.recv_bytes()
                    else:
                        self._receive(next(w for w in self._workers if w.connection is ready))
                self._expire()
        except BaseException as error:
            self._finished.put(error)
        finally:
            for worker in self._workers:
                worker.kill()
                worker.stop()
            self._workers.clear()

    def _dispatch(self) -> None:
        """Give waiting tasks to idle workers; a second try waits for all to be idle and keeps them so."""
        while True:
            busy = [worker for worker in self._workers if worker.task is not None]
            if any(worker.task is not None and worker.task.alone for worker in busy):
                return
            queue = self._retries or self._waiting
            if not queue or (queue is self._retries and busy):
                return
            worker = next((w for w in self._workers if w.ready and w.task is None), None)
            if worker is None:
                wanted = min(len(queue), self._size - len(busy))
                starting = len(self._workers) - len(busy)
                self._start(wanted - starting)
                return
            try:
                task = queue.popleft()
            except IndexError:  # the run has just been left
                return
            if task.run == self._run:
                self._give(worker, task)

    def _start(self, count: int) -> None:
        """Start that many workers, or as many as the system has room for: a run is slower with fewer."""
        for _ in range(count):
            try:
                self._workers.append(_Worker(self._setup))
            except OSError as error:
                if not self._workers:
                    raise _no_room(error) from error
                self._size = len(self._workers)
                return

    def _give(self, worker: _Worker, task: _Task) -> None:
        try:
            worker.give(task, self._limits.wall_seconds)
        except OSError:  # it died while idle, which is not this task's fault
            self._discard(worker)
            (self._retries if task.alone else self._waiting).appendleft(task)

    def _discard(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        return worker.stop()

    def _receive(self, worker: _Worker) -> None:
        try:
            result: Result | None = worker.connection.recv()
        except Exception:  # the end of the file, or half a message
            self._lost(worker)
            return
        task, worker.task, worker.deadline = worker.task, None, None
        if task is None:
            worker.ready = True
            self._failed_starts = 0
        elif isinstance(result, Failed) and result.kind == "memory":
            self._discard(worker)  # what is left of its address space may be in pieces
            self._again(task, result)
        elif result is not None:
            self._finished.put((task.run, result))

    def _lost(self, worker: _Worker) -> None:
        """A worker has ended, or was ended, without answering."""
        status = self._discard(worker)
        task, limits = worker.task, self._limits
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _START_ATTEMPTS:
                raise ImageError(f"the image decoder does not start (exit status {status})")
        elif task is None:
            return
        elif worker.expired:
            reason = f"decoding did not end within {limits.wall_seconds:g} s"
            self._finished.put((task.run, Failed(task.job.id, reason, "timeout", None)))
        elif status == -signal.SIGPROF:
            reason = f"decoding took more than {limits.cpu_seconds:g} s of processor time"
            self._finished.put((task.run, Failed(task.job.id, reason, "timeout", None)))
        else:
            self._again(task, Failed(task.job.id, _crash_reason(status), "crashed", None))

    def _again(self, task: _Task, failure: Failed) -> None:
        """Try once more, alone: the trouble may have come from what the machine was doing beside it."""
        if task.alone:
            self._finished.put((task.run, failure))
        else:
            task.alone = True
            self._retries.append(task)

    def _patience(self) -> float | None:
        """Seconds until the next deadline; None if there is none."""
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _expire(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.deadline is not None and now >= worker.deadline:
                worker.deadline = None
                worker.kill()


def _no_room(error: OSError) -> ImageError:
    hint = " End other programs, or allow more with `ulimit`." if error.errno in _SCARCE else ""
    return ImageError(f"The image decoders cannot be started ({error.strerror}).{hint}")


def _crash_reason(status: int) -> str:
    if status == -signal.SIGKILL:
        return "the decoder was killed, perhaps for want of memory"
    if status < 0:
        return f"the decoder crashed ({signal.Signals(-status).name})"
    return f"the decoder ended (exit status {status})"
