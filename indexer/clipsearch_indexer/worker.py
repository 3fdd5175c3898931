"""What runs inside a decoder process, and what travels between it and `clipsearch_indexer.decode`.

A decoder meets the files of strangers with C libraries that have crashed on them before. So it runs apart,
under limits of the kernel, and loses at most the file it is at. It must stay light: no torch, no database,
no index.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image

from clipsearch.files import FailureKind, ImageFileError, read_file
from clipsearch.images import decode
from clipsearch.metadata import PhotoMetadata
from clipsearch_indexer.scan import FileStat

ToPixels = Callable[[Image.Image], npt.NDArray[np.uint8]]
"""From an upright RGB image to uint8 (S, S, 3), such as `clipsearch.preprocess.Preprocess.pixels`."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Job:
    """A file to decode, unless its content is among `known`."""

    id: int
    path: bytes
    known: tuple[bytes, ...] = ()
    """Content hashes that need no decoding."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The file was decoded."""

    id: int
    content_hash: bytes
    """BLAKE2b of the file's bytes, 16 bytes."""
    pixels: npt.NDArray[np.uint8]
    """What `to_pixels` made of the image: uint8 (S, S, 3)."""
    metadata: PhotoMetadata
    stat: FileStat
    """Of the file as it was read."""


@dataclass(frozen=True, slots=True)
class Known:
    """The file holds one of the job's known contents and was not decoded."""

    id: int
    content_hash: bytes
    stat: FileStat


@dataclass(frozen=True, slots=True)
class Failed:
    """The file gave no pixels; `reason` is a short sentence for the user."""

    id: int
    reason: str
    kind: FailureKind | Literal["crashed", "timeout"]
    stat: FileStat | None
    """Of the file as it was read; None if it was not read, or the decoder did not live to tell."""


Result = Decoded | Known | Failed


@dataclass(frozen=True)
class Limits:
    """What one file may cost before it is given up."""

    memory_bytes: int = 1 << 30
    """Address space above what the decoder needs by itself (Linux only)."""
    cpu_seconds: float = 10.0
    """Processor time, which a busy machine does not use up."""
    wall_seconds: float = 60.0
    """Time on the clock, for a decoder or a disk that hangs without working."""


@dataclass(frozen=True)
class Setup:
    """The first message to a decoder."""

    to_pixels: ToPixels
    cover: int | None
    limits: Limits
    follow_symlinks: bool


def main(descriptor: int, parent: int) -> None:
    """Serve jobs from the socket `descriptor` until the process `parent` closes it or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with(parent)
    connection = Connection(descriptor)
    setup: Setup = connection.recv()
    _restrict(setup.limits)
    connection.send(None)  # ready
    _silence()
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has closed its end
        while True:
            job: Job = connection.recv()
            signal.setitimer(signal.ITIMER_PROF, setup.limits.cpu_seconds)
            result = serve(job, setup)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send(result)


def _die_with(parent: int) -> None:
    """Be killed when the parent dies, even in the middle of a file. Elsewhere the closed socket tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before it could be watched
            os._exit(1)


def _restrict(limits: Limits) -> None:
    # Past the limit SIGPROF ends the process, as it does by default; a handler would wait for C code.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The pool runs as many decoders as it wants threads.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + limits.memory_bytes
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _silence() -> None:
    """Codecs write their complaints straight to stderr, where they would tear a progress display."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.close(nothing)


def serve(job: Job, setup: Setup) -> Result:
    """Do one job. Never raises: whatever goes wrong is the file's `Failed`."""
    status: FileStat | None = None
    try:
        data, stat_result = _read(job.path, setup.follow_symlinks)
        status = FileStat.of(job.path, stat_result)
        content_hash = hashlib.blake2b(data, digest_size=16).digest()
        if content_hash in job.known:
            return Known(job.id, content_hash, status)
        image, metadata = decode(data, cover=setup.cover)
        pixels = np.ascontiguousarray(setup.to_pixels(image), dtype=np.uint8)
        return Decoded(job.id, content_hash, pixels, metadata, status)
    except ImageFileError as error:
        return Failed(job.id, str(error), error.kind, status)
    except MemoryError:
        return Failed(job.id, "not enough memory to decode it", "memory", status)
    except Exception as error:
        reason = f"cannot be resized ({type(error).__name__}: {error})"
        return Failed(job.id, reason[:200], "corrupt", status)


def _read(path: bytes, follow_symlinks: bool) -> tuple[bytes, Any]:
    """Read a file, once more if it changed meanwhile: a camera may just be writing it."""
    try:
        return read_file(path, follow_symlinks=follow_symlinks)
    except ImageFileError as error:
        if error.kind != "changed":
            raise
    return read_file(path, follow_symlinks=follow_symlinks)
