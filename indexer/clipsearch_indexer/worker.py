"""What runs inside a decoder process of `clipsearch_indexer.decode`.

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
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import AvifImagePlugin

from clipsearch.files import ImageFileError, read_file
from clipsearch.images import decode
from clipsearch.metadata import CAPTION_LIMIT, clean
from clipsearch.tar_shards import caption_path
from clipsearch_indexer.messages import Decoded, Failed, Job, Known, Limits, Result, Setup
from clipsearch_indexer.scan import FileStat

_PR_SET_PDEATHSIG = 1


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
        if metadata.caption is None:
            metadata = replace(metadata, caption=_words_beside(job.path, setup.follow_symlinks))
        return Decoded(job.id, content_hash, pixels, metadata, status)
    except ImageFileError as error:
        return Failed(job.id, str(error), error.kind, status)
    except MemoryError:
        return Failed(job.id, "not enough memory to decode it", "memory", status)
    except Exception as error:
        reason = f"cannot be resized ({type(error).__name__}: {error})"
        return Failed(job.id, reason[:200], "corrupt", status)


def _words_beside(path: bytes, follow_symlinks: bool) -> str | None:
    """The caption of an image in a tar shard."""
    beside = caption_path(path)
    if beside is None:
        return None
    try:
        return clean(read_file(beside, follow_symlinks=follow_symlinks)[0], CAPTION_LIMIT)
    except (ImageFileError, MemoryError):  # no reason to lose the image
        return None


def _read(path: bytes, follow_symlinks: bool) -> tuple[bytes, Any]:
    """Read a file, once more if it changed meanwhile: a camera may just be writing it."""
    try:
        return read_file(path, follow_symlinks=follow_symlinks)
    except ImageFileError as error:
        if error.kind != "changed":
            raise
    return read_file(path, follow_symlinks=follow_symlinks)
