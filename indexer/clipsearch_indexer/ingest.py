"""A run of the indexer: scan, decode in worker processes, encode in batches, commit.

Decoders work ahead while a batch is encoded, so the encoder does not wait; what is in flight is bounded, so
memory does not grow with the number of photos. Each commit is durable: an interruption loses what was not yet
committed, a few seconds' work, and running again does just that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UsageError
from clipsearch.folder import Batch, LibraryFolder, Writer
from clipsearch.metadata import PhotoMetadata
from clipsearch.paths import display
from clipsearch.preprocess import Preprocess
from clipsearch.store import FoundFile, KnownFile, NewFailure, NewImage, RootRow, SpaceRow
from clipsearch_indexer.decode import Decoded, DecodePool, Failed, Job, Known, default_workers
from clipsearch_indexer.plan import Plan, absolute, covers, make_plan
from clipsearch_indexer.scan import DEFAULT_EXCLUDES, FileStat, filesystem_id, root_state, scan

Vectors = npt.NDArray[np.float32]
COMMIT_SECONDS = 5.0
# Failures after which the photo at a path may still be the one that is known.
_PASSING = frozenset({"permission", "unreadable", "changed", "missing"})


class ImageEncoder(Protocol):
    """What an ingest needs of a model."""

    name: str
    source: str
    fingerprint: str
    preprocess: Preprocess

    @property
    def dim(self) -> int:
        """Length of an embedding."""

    def encode_pixels(self, pixels_NYXC: npt.NDArray[np.uint8]) -> Vectors:
        """uint8 (n, size, size, 3) -> float32 (n, dim), unit rows."""


@dataclass(frozen=True)
class Options:
    """How to go about it. `workers` decode; `batch` images are encoded at once."""

    excludes: Sequence[str] = DEFAULT_EXCLUDES
    follow_symlinks: bool = False
    workers: int | None = None
    batch: int = 32


@dataclass(frozen=True)
class Progress:
    """Where a run is: `done` of `total` files read, `new` images so far."""

    stage: str
    done: int
    total: int
    new: int = 0


@dataclass
class Summary:
    """What a run did.

    `new` contents were encoded; `moved` files were found at another place, `copies` hold a content that was
    known; `missing` vanished; `returned` are there again; `quarantined` failed in an earlier run and have not
    changed. `failed` lists path and reason; `offline` roots that could not be reached.
    """

    new: int = 0
    moved: int = 0
    copies: int = 0
    unchanged: int = 0
    missing: int = 0
    returned: int = 0
    quarantined: int = 0
    failed: list[tuple[bytes, str]] = field(default_factory=list)
    unscanned: list[tuple[bytes, str]] = field(default_factory=list)
    offline: list[bytes] = field(default_factory=list)
    seconds: float = 0.0
    encode_seconds: float = 0.0
    interrupted: bool = False

    def counts(self) -> dict[str, int]:
        """The numbers, for the journal of runs and for JSON."""
        names = ("new", "moved", "copies", "unchanged", "missing", "returned", "quarantined")
        lists = ("failed", "unscanned", "offline")
        return {name: getattr(self, name) for name in names} | {name: len(getattr(self, name)) for name in lists}


def ingest(
    folder: LibraryFolder,
    encoder: ImageEncoder,
    roots: Sequence[str | bytes],
    options: Options | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Summary:
    """Bring a library up to date with folders of photos; no roots means those it knows.

    Ctrl-C (KeyboardInterrupt) ends it in order: what was encoded is committed and `interrupted` is set.
    Raises UsageError for a folder that is not there and never was, LibraryLocked, StorageError, LibraryDamaged.
    """
    started = time.monotonic()
    with folder.writer() as writer:
        run = _Run(writer, encoder, options or Options(), report)
        with writer.changing() as catalog:
            run_id = run.run_id = catalog.runs.start()
        status = "failed"
        try:
            run.go([absolute(root) for root in roots])
            status = "interrupted" if run.summary.interrupted else "done"
        finally:
            run.summary.seconds = time.monotonic() - started
            with writer.changing() as catalog:
                catalog.runs.finish(run_id, status, run.summary.counts())
    return run.summary


@dataclass
class _Pending:
    """A content to be encoded, and every place it was met at."""

    pixels: npt.NDArray[np.uint8]
    metadata: PhotoMetadata
    size: int
    files: list[FoundFile]


class _Run:
    """The state of one run."""

    def __init__(
        self, writer: Writer, encoder: ImageEncoder, options: Options, report: Callable[[Progress], None]
    ) -> None:
        self._writer = writer
        self._encoder = encoder
        self._options = options
        self._report = report
        self.run_id: int | None = None
        self.summary = Summary()
        self._space: SpaceRow = writer.ensure_space(
            encoder.fingerprint, encoder.name, encoder.source, encoder.dim
        )
        with writer.reading() as catalog:
            self._known_sizes = catalog.images.known_sizes(self._space.id)
        self._known = {content for contents in self._known_sizes.values() for content in contents}
        self._waiting: dict[bytes, _Pending] = {}
        self._encoded: list[tuple[bytes, _Pending, Vectors]] = []
        self._found: list[tuple[bytes, FoundFile]] = []
        self._failures: list[NewFailure] = []
        self._gone: list[int] = []
        self._homeless: dict[int, list[KnownFile]] = {}
        self._committed_at = time.monotonic()

    def go(self, roots: Sequence[bytes]) -> None:
        """Everything, in order."""
        plans = list(self._plans(roots))
        for plan in plans:
            for row in plan.vanished.values():
                self._homeless.setdefault(row.image_id, []).append(row)
        try:
            self._read(plans)
        except KeyboardInterrupt:
            # Between two statements anything may be half done but the lists that are committed.
            self.summary.interrupted = True
        self._flush(encode=not self.summary.interrupted)
        if not self.summary.interrupted:
            for plan in plans:
                self._close(plan)
            self._switch()

    def _plans(self, roots: Sequence[bytes]) -> Iterator[Plan]:
        with self._writer.reading() as catalog:
            known_roots = catalog.roots.all()
        for path in roots or [root.path for root in known_roots]:
            home = next((root for root in known_roots if covers(root.path, path)), None)
            state = root_state(path)
            if home is None and state == "missing":
                raise UsageError(f"There is no folder {display(path)} to index.")
            here = "" if state == "missing" else filesystem_id(path)
            if home is not None and self._is_offline(home, path, state, here):
                self.summary.offline.append(path)
                if path == home.path:
                    with self._writer.changing() as catalog:
                        catalog.roots.set_online(home.id, False)
                continue
            yield self._plan(path, home, here)

    def _is_offline(self, home: RootRow, path: bytes, state: str, here: str) -> bool:
        """An unmounted drive reads as a missing or empty folder, or as a folder of another disk."""
        if state == "missing":
            return True
        elsewhere = path == home.path and home.filesystem_id not in (None, here)
        if state == "online" and not elsewhere:
            return False
        with self._writer.reading() as catalog:
            return any(not row.missing for row in catalog.files.known(home.id).values())

    def _plan(self, path: bytes, home: RootRow | None, here: str) -> Plan:
        with self._writer.changing() as catalog:
            root_id = home.id if home is not None else catalog.roots.add(path, here)
            catalog.roots.set_online(root_id, True, filesystem_id=here if home is None else None)
            rows = [root for root in catalog.roots.all() if covers(path, root.path) or covers(root.path, path)]
            known = {p: row for root in rows for p, row in catalog.files.known(root.id).items() if covers(path, p)}
            failures = {p: row for root in rows for p, row in catalog.failures.known(root.id).items()}
            root = next(row for row in rows if row.id == root_id)
        found = scan(path, excludes=self._options.excludes, follow_symlinks=self._options.follow_symlinks)
        plan = make_plan(
            root,
            found,
            known,
            failures,
            same_filesystem=True,
            on_file=lambda met: self._report(Progress("scanning", met, 0)) if met % 500 == 0 else None,
        )
        self.summary.unchanged += plan.unchanged
        self.summary.quarantined += plan.quarantined
        self.summary.unscanned += [(entry.path, entry.reason) for entry in plan.unscanned]
        self._add_pending(plan, path)
        return plan

    def _add_pending(self, plan: Plan, path: bytes) -> None:
        """Unchanged photos that this model has not embedded yet are work as well."""
        planned = {entry.path for entry in plan.work}
        with self._writer.reading() as catalog:
            if not catalog.images.count_pending(self._space.id):
                return
            known = catalog.files.known(plan.root.id)
            last = 0
            while page := catalog.images.pending(self._space.id, after_id=last):
                last = page[-1].image_id
                for image in page:
                    place = next((p for p in image.paths if covers(path, p) and p in known), None)
                    if place is not None and place not in planned:
                        row = known[place]
                        plan.work.append(
                            FileStat(place, row.size, row.mtime_ns, row.ctime_ns, row.inode, row.device)
                        )
                        plan.unchanged -= 1
                        self.summary.unchanged -= 1

    def _read(self, plans: Sequence[Plan]) -> None:
        work = [(plan.root.id, entry) for plan in plans for entry in plan.work]
        if not work:
            return
        preprocess, batch = self._encoder.preprocess, self._options.batch
        jobs = (
            Job(number, entry.path, self._known_sizes.get(entry.size, ()))
            for number, (_, entry) in enumerate(work)
        )
        with DecodePool(
            self._options.workers or default_workers(),
            preprocess.pixels,
            preprocess.size,
            follow_symlinks=self._options.follow_symlinks,
        ) as pool:
            for done, result in enumerate(pool.run(jobs, ahead=2 * batch), start=1):
                root_id, entry = work[result.id]
                self._take(result, root_id, entry)
                if len(self._waiting) >= batch:
                    self._encode()
                if time.monotonic() - self._committed_at > COMMIT_SECONDS:
                    self._flush(encode=False)
                self._report(Progress("indexing", done, len(work), self.summary.new))

    def _take(self, result: Decoded | Known | Failed, root_id: int, entry: FileStat) -> None:
        if isinstance(result, Failed):
            self._fail(result, root_id, entry)
            return
        file = FoundFile(root_id, result.stat, time.time_ns())
        content = result.content_hash
        if content in self._known:
            self._found.append((content, file))
        elif content in self._waiting:
            self._waiting[content].files.append(file)
            self.summary.copies += 1
        else:
            assert isinstance(result, Decoded)
            self._waiting[content] = _Pending(result.pixels, result.metadata, result.stat.size, [file])

    def _fail(self, failed: Failed, root_id: int, entry: FileStat) -> None:
        stat = failed.stat or entry
        self.summary.failed.append((entry.path, failed.reason))
        self._failures.append(
            NewFailure(root_id, entry.path, stat.size, stat.mtime_ns, failed.reason, failed.kind)
        )
        if failed.kind not in _PASSING:
            with self._writer.reading() as catalog:
                row = catalog.files.known(root_id).get(entry.path)
            if row is not None:
                self._gone.append(row.file_id)  # another content now, and no image

    def _encode(self) -> None:
        if not self._waiting:
            return
        started = time.monotonic()
        vectors = self._encoder.encode_pixels(np.stack([item.pixels for item in self._waiting.values()]))
        self.summary.encode_seconds += time.monotonic() - started
        for (content, item), vector in zip(self._waiting.items(), vectors, strict=True):
            self._encoded.append((content, item, vector))
            self._known.add(content)
        self._waiting = {}

    def _flush(self, *, encode: bool = True) -> None:
        """Commit what is encoded; with `encode`, first encode the last images of the run."""
        if encode:
            self._encode()
        encoded, self._encoded = self._encoded, []
        images = [NewImage(content, item.size, item.metadata, item.files) for content, item, _ in encoded]
        if images:
            vectors = np.stack([vector for _, _, vector in encoded])
            self._writer.commit(Batch(images=images, vectors=vectors, space_id=self._space.id))
            self.summary.new += len(images)
        self._place()
        if self._failures or self._gone:
            self._writer.commit(Batch(failures=self._failures, missing=self._gone, run_id=self.run_id))
        self._failures, self._gone = [], []
        self._committed_at = time.monotonic()

    def _place(self) -> None:
        """Commit files whose content is known: moves where an old place of it is empty, else copies."""
        with self._writer.reading() as catalog:
            ids = catalog.images.ids_by_hash([content for content, _ in self._found])
        moves: list[tuple[int, FoundFile]] = []
        copies: list[tuple[int, FoundFile]] = []
        unknown: list[tuple[bytes, FoundFile]] = []
        for content, file in self._found:
            if content not in ids:
                unknown.append((content, file))  # encoded, and committed with the next batch
                continue
            homes = self._homeless.get(ids[content])
            if homes:
                moves.append((homes.pop().file_id, file))
            else:
                copies.append((ids[content], file))
        self._found = unknown
        if moves or copies:
            self._writer.commit(Batch(moves=moves, found=copies))
            self.summary.moved += len(moves)
            self.summary.copies += len(copies)

    def _close(self, plan: Plan) -> None:
        """Hide what has vanished, show what returned. Only `prune` deletes."""
        homeless = {row.file_id for rows in self._homeless.values() for row in rows}
        if root_state(plan.root.path) == "missing":
            self.summary.offline.append(plan.root.path)  # it went away meanwhile
            return
        missing = [r.file_id for r in plan.vanished.values() if r.file_id in homeless and not r.missing]
        self._writer.commit(Batch(missing=missing, returned=plan.returned))
        self.summary.missing += len(missing)
        self.summary.returned += len(plan.returned)
        with self._writer.changing() as catalog:
            catalog.roots.set_scanned(plan.root.id, time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()))

    def _switch(self) -> None:
        """Let this model answer once everything that can be found has an embedding of it."""
        if self._space.active:
            return
        with self._writer.reading() as catalog:
            waiting = catalog.images.count_pending(self._space.id)
        if not waiting:
            self._writer.activate(self._space.id)


def reasons(failed: Sequence[tuple[bytes, str]]) -> list[tuple[str, int]]:
    """Failure reasons with their counts, commonest first."""
    return Counter(reason for _, reason in failed).most_common()
