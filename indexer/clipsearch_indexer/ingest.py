"""Bringing a library up to date: scan, decode in worker processes, encode in batches, commit.

Decoders work ahead while a batch is encoded, so the encoder does not wait; what is in flight is bounded, so
memory does not grow with the number of photos. Each commit is durable: an interruption loses what was not yet
committed, a few seconds' work, and running again does just that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from clipsearch.errors import ClipsearchError
from clipsearch.folder import LibraryFolder
from clipsearch_indexer.contract import ImageEncoder, Options, Progress, Summary
from clipsearch_indexer.places import absolute
from clipsearch_indexer.run import Run
from clipsearch_indexer.shield import Shield

__all__ = ["ImageEncoder", "Options", "Progress", "Summary", "ingest"]


def ingest(
    folder: LibraryFolder,
    encoder: ImageEncoder,
    roots: Sequence[str | bytes],
    options: Options | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Summary:
    """Bring a library up to date with folders of photos; no roots means those it knows.

    Ctrl-C (or KeyboardInterrupt out of `report`) ends it in order: what was embedded is committed and
    `interrupted` is set. Raises UsageError for a folder that is not there and never was, LibraryLocked,
    StorageError, LibraryDamaged, ModelInvalid.
    """
    started = time.monotonic()
    with Shield() as shield, folder.writer() as writer:
        run = Run(writer, encoder, options or Options(), report, shield)
        try:
            run.go([absolute(root) for root in roots])
        except BaseException:
            run.summary.seconds = time.monotonic() - started
            with contextlib.suppress(ClipsearchError):  # the trouble itself is the one to tell
                run.finish("interrupted" if run.summary.interrupted else "failed")
            raise
        run.summary.seconds = time.monotonic() - started
        run.finish("interrupted" if run.summary.interrupted else "done")
    return run.summary
