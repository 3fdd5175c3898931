"""Decoder processes shared by many threads: each asks for one picture and waits for its pixels."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from clipsearch.errors import ImageError, StorageError
from clipsearch_indexer.decode import Decoded, DecodePool, Job, ToPixels


class DecodeLane:
    """A pool, and the thread that brings it the requests of all other threads, a few at a time.

    workers: how many processes; they start with the first request.
    to_pixels, cover: as for `DecodePool`.
    """

    def __init__(self, workers: int, to_pixels: ToPixels, cover: int | None) -> None:
        self._workers = workers
        self._to_pixels = to_pixels
        self._cover = cover
        self._requests: queue.SimpleQueue[tuple[bytes, Future[Decoded]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="decode-lane", daemon=True)
        self._thread.start()

    def decode(self, path: bytes) -> Decoded:
        """The pixels of the file at `path`. Raises ImageError."""
        future: Future[Decoded] = Future()
        self._requests.put((path, future))
        return future.result()

    def decode_bytes(self, data: bytes) -> Decoded:
        """The pixels of the image in `data`. Raises ImageError; StorageError where it has no place."""
        with _file_of(data) as path:
            return self.decode(os.fsencode(path))

    def close(self) -> None:
        """End the processes."""
        self._requests.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while self._run():
            pass

    def _run(self) -> bool:
        """Serve from one pool until it fails (True) or the lane is closed (False)."""
        batch: list[tuple[bytes, Future[Decoded]]] = []
        try:
            with DecodePool(self._workers, self._to_pixels, self._cover, follow_symlinks=True) as pool:
                while batch := self._next():
                    jobs = (Job(number, path) for number, (path, _) in enumerate(batch))
                    for result in pool.run(jobs, ahead=len(batch)):
                        future = batch[result.id][1]
                        if isinstance(result, Decoded):
                            future.set_result(result)
                        else:
                            future.set_exception(ImageError(getattr(result, "reason", "cannot be read")))
            return False
        except ImageError as error:  # no decoder can be started: say so, and try again with the next request
            batch = batch or self._next()  # not even the pool could be made: wait for who wants to know
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return bool(batch)

    def _next(self) -> list[tuple[bytes, Future[Decoded]]]:
        """The requests that wait, at least one and a few a worker at most; none when the lane is closed."""
        batch: list[tuple[bytes, Future[Decoded]]] = []
        with suppress(queue.Empty):
            while len(batch) < 2 * self._workers:
                request = self._requests.get(block=not batch)
                if request is None:
                    if batch:  # who waits is answered first
                        self._requests.put(None)
                    return batch
                batch.append(request)
        return batch


@contextmanager
def _file_of(data: bytes) -> Iterator[str]:
    """A temporary file with that content. Raises StorageError."""
    with ExitStack() as opened:
        try:
            file = opened.enter_context(tempfile.NamedTemporaryFile(prefix="clipsearch-"))
            Path(file.name).write_bytes(data)
        except OSError as error:
            raise StorageError(
                f"The picture cannot be put into a temporary file ({error.strerror}). Free some space there, "
                "or name another folder with TMPDIR."
            ) from error
        yield file.name
