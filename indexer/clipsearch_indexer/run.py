"""One run of the indexer.

Its state changes only between the waits: signals are let through while it scans, waits for a decoder or
encodes (`Shield`), so an interruption never finds a list half moved or a commit half noted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ModelInvalid
from clipsearch.folder import Batch, Writer
from clipsearch.store import FoundFile, KnownFile, NewFailure, NewImage, SpaceRow
from clipsearch.store.rows import StatLike
from clipsearch_indexer.contract import ImageEncoder, Options, Progress, Summary
from clipsearch_indexer.encode_lane import EncodeLane
from clipsearch_indexer.messages import Decoded, Failed, Job, Known
from clipsearch_indexer.places import is_offline, look_at
from clipsearch_indexer.plan import Plan, Work
from clipsearch_indexer.shield import Shield
from clipsearch_indexer.survey import Survey
from clipsearch_indexer.unopened import worth_noting

if TYPE_CHECKING:
    from clipsearch.metadata import PhotoMetadata

COMMIT_SECONDS = 5.0
# Failures after which the photo at a path may still be the one that is known.
PASSING = frozenset({"permission", "unreadable", "changed", "missing", "model"})
# Of the length of an embedding from 1; what `clipsearch.vectors` takes.
LENGTH_TOLERANCE = 1e-3
_LARGEST = (1 << 63) - 1
MOST_SENT = 64
CPU_BATCH, GPU_BATCH = 32, 256

Row = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Content:
    """A content that is new to this model, and every place it was met at."""

    metadata: PhotoMetadata
    size: int
    places: list[tuple[Work, FoundFile]]


class Run:
    """The state of one run."""

    def __init__(
        self,
        writer: Writer,
        encoder: ImageEncoder,
        options: Options,
        report: Callable[[Progress], None],
        shield: Shield,
    ) -> None:
        self.summary = Summary()
        self._writer = writer
        self._encoder = encoder
        self._options = options
        self._report = report
        self._shield = shield
        self._space: SpaceRow = writer.ensure_space(
            encoder.fingerprint, encoder.name, encoder.source, encoder.dim
        )
        with writer.changing() as catalog:
            self._run_id = catalog.runs.start()
        self._known_sizes: dict[int, tuple[bytes, ...]] = {}
        self._known: set[bytes] = set()
        # A file that changes after this moment is looked at again by the next run.
        self._started_ns = time.time_ns()
        self._homeless: dict[int, list[KnownFile]] = {}
        self._waiting: dict[bytes, tuple[_Content, npt.NDArray[np.uint8]]] = {}
        self._encoding: dict[bytes, _Content] = {}
        self._lane = EncodeLane(self._embed, beside=False)
        self._encoder_works = False
        # What follows is committed together, by `_flush`.
        self._embedded: dict[bytes, tuple[_Content, Row]] = {}
        self._found: list[tuple[bytes, Work, FoundFile]] = []
        self._failures: list[NewFailure] = []
        self._gone: list[int] = []
        self._committed_at = time.monotonic()

    def go(self, wanted: Sequence[bytes]) -> None:
        """Everything, in order."""
        try:
            plans = self._survey(wanted)
            work = [item for plan in plans for item in plan.work]
            if work:
                self._index(work)
            self._flush()
            self._report(Progress("indexing", len(work), len(work), self.summary.new))
        except (KeyboardInterrupt, SystemExit) as stop:
            self.summary.interrupted = True
            if self._lane.finished:
                self._keep(self._lane.rows())
            self._flush()
            if isinstance(stop, SystemExit):
                raise
            return
        for plan in plans:
            self._close(plan)
        self._switch()

    def finish(self, status: str) -> None:
        """Note how the run ended."""
        with self._writer.changing() as catalog:
            catalog.runs.finish(self._run_id, status, self.summary.counts())

    def _survey(self, wanted: Sequence[bytes]) -> list[Plan]:
        survey = Survey(self._writer, self._space, self._options, self.summary, self._report, self._shield)
        plans = survey.plans(wanted)
        for plan in plans:
            for row in plan.vanished.values():
                self._homeless.setdefault(row.image_id, []).append(row)
        return plans

    def _index(self, work: Sequence[Work]) -> None:
        """Decode and encode every file of `work`."""
        with EncodeLane(self._embed, beside=self._encoder.device != "cpu") as self._lane:
            self._read(work)
            self._encode()
            self._take_rows()

    def _read(self, work: Sequence[Work]) -> None:
        """Decode every file of `work`; encode and commit as batches fill and seconds pass."""
        from clipsearch_indexer.decode import DecodePool, default_workers

        self._recall()
        options, preprocess = self._options, self._encoder.preprocess
        batch = options.batch or (GPU_BATCH if self._lane.beside else CPU_BATCH)
        jobs = (
            Job(number, item.file.path, self._known_of(item.file.size)) for number, item in enumerate(work)
        )
        workers = min(options.workers or default_workers(), len(work))
        with (
            DecodePool(
                workers, preprocess.pixels, preprocess.size, follow_symlinks=options.follow_symlinks
            ) as pool,
            closing(pool.run(jobs, ahead=2 * batch)) as results,
        ):
            for done in range(len(work)):
                with self._shield.let_through():
                    self._report(Progress("indexing", done, len(work), self.summary.new))
                    result = next(results)
                self._take(result, work[result.id])
                if len(self._waiting) >= batch:
                    self._encode()
                if time.monotonic() - self._committed_at > COMMIT_SECONDS:
                    self._flush()

    def _recall(self) -> None:
        """Learn which contents have an embedding already: only a run that reads files has to know."""
        with self._writer.reading() as catalog:
            self._known_sizes = catalog.known.sizes(self._space.id)
        self._known = {content for contents in self._known_sizes.values() for content in contents}
        self._encoder_works = bool(self._known)

    def _known_of(self, size: int) -> tuple[bytes, ...]:
        """The known contents that a file of that size may hold.

        Where they are many, as with uncompressed pictures, they are not sent along with every job: such a
        file is decoded, and recognised afterwards.
        """
        contents = self._known_sizes.get(size, ())
        return contents if len(contents) <= MOST_SENT else ()

    def _take(self, result: Decoded | Known | Failed, work: Work) -> None:
        if isinstance(result, Failed):
            self._fail(work, result.reason, result.kind, result.stat or work.file)
            return
        content, file = result.content_hash, FoundFile(work.root_id, result.stat, self._started_ns)
        if content in self._known:
            self._found.append((content, work, file))
        elif content in self._embedded:
            self._embedded[content][0].places.append((work, file))
        elif content in self._encoding:
            self._encoding[content].places.append((work, file))
        elif content in self._waiting:
            self._waiting[content][0].places.append((work, file))
        else:
            assert isinstance(result, Decoded)
            item = _Content(result.metadata, result.stat.size, [(work, file)])
            self._waiting[content] = item, result.pixels

    def _fail(self, work: Work, reason: str, kind: str, stat: StatLike) -> None:
        path = work.file.path
        self.summary.failed.append((path, reason))
        mtime_ns = max(-_LARGEST, min(_LARGEST, stat.mtime_ns))
        self._failures.append(NewFailure(work.root_id, path, stat.size, mtime_ns, reason, kind))
        if work.row is not None and kind not in PASSING:
            self._gone.append(work.row.file_id)  # another content now, and no image

    def _encode(self) -> None:
        """Begin to embed what is decoded."""
        self._take_rows()
        if not self._waiting:
            return
        self._lane.start([pixels for _, pixels in self._waiting.values()])
        self._encoding = {content: item for content, (item, _) in self._waiting.items()}
        self._waiting = {}
        if not self._lane.beside:
            self._take_rows()

    def _take_rows(self) -> None:
        """Take in the batch that is being embedded."""
        if not self._encoding:
            return
        with self._shield.let_through():
            rows = self._lane.rows()
        self._keep(rows)

    def _keep(self, rows: Sequence[Row | None]) -> None:
        """Have the rows of that batch committed by the next flush."""
        self.summary.encode_seconds = self._lane.seconds
        for (content, item), row in zip(self._encoding.items(), rows, strict=True):
            if row is not None:
                self._embedded[content] = item, row
                continue
            for work, file in item.places:
                self._fail(work, "the model gives no usable embedding of it", "model", file.stat)
        self._encoding = {}

    def _embed(self, pixels: npt.NDArray[np.uint8]) -> list[Row | None]:
        """A unit row for each image, None for one that the model cannot embed.

        Raises ModelInvalid when it can embed none and never could: the images are not to blame then.
        """
        rows = self._try(pixels)
        if not isinstance(rows, ModelInvalid):
            self._encoder_works = True
            return list(rows)
        singles = [self._try(one[None]) for one in pixels]
        if not self._encoder_works and all(isinstance(single, ModelInvalid) for single in singles):
            raise rows
        return [None if isinstance(single, ModelInvalid) else single[0] for single in singles]

    def _try(self, pixels: npt.NDArray[np.uint8]) -> Row | ModelInvalid:
        try:
            rows = self._encoder.encode_pixels(pixels)
        except ModelInvalid as error:
            return error
        if not np.all(np.abs(np.linalg.norm(rows, axis=1) - 1) < LENGTH_TOLERANCE):  # so with NaN
            return ModelInvalid(
                f"The model {self._encoder.name} gives embeddings that are not of unit length."
            )
        return rows

    def _flush(self) -> None:
        """Commit what is embedded, found and failed, in one transaction."""
        self._committed_at = time.monotonic()
        if not (self._embedded or self._found or self._failures):
            return
        with self._writer.reading() as catalog:
            ids = catalog.images.ids_by_hash([*self._embedded, *(content for content, _, _ in self._found)])
        counts: Counter[str] = Counter()
        moves: list[tuple[int, FoundFile]] = []
        found: list[tuple[int, FoundFile]] = []
        for content, work, file in self._found:
            if not self._settle(ids[content], work, file, moves, counts):
                found.append((ids[content], file))
        for content, (item, _) in self._embedded.items():
            counts["reembedded" if content in ids else "new"] += 1
            first = content not in ids
            for work, file in item.places:
                if not first:
                    self._settle(ids.get(content), work, file, moves, counts)
                first = False
        self._writer.commit(
            Batch(
                images=[
                    NewImage(content, item.size, item.metadata, [file for _, file in item.places])
                    for content, (item, _) in self._embedded.items()
                ],
                vectors=np.stack([row for _, row in self._embedded.values()]) if self._embedded else None,
                space_id=self._space.id,
                found=found,
                moves=moves,
                missing=self._gone,
                failures=self._failures,
                run_id=self._run_id,
            )
        )
        self._known.update(self._embedded)
        self._embedded, self._found, self._failures, self._gone = {}, [], [], []
        for name, count in counts.items():
            setattr(self.summary, name, getattr(self.summary, name) + count)

    def _settle(
        self,
        image_id: int | None,
        work: Work,
        file: FoundFile,
        moves: list[tuple[int, FoundFile]],
        counts: Counter[str],
    ) -> bool:
        """Count a further place of a content; True if another one was left for it, which `moves` notes."""
        row = work.row
        homes = self._homeless.get(-1 if image_id is None else image_id)
        if row is not None and row.image_id == image_id:
            counts["returned" if row.missing else "unchanged"] += 1
        elif homes:
            moves.append((homes.pop().file_id, file))
            counts["moved"] += 1
            return True
        else:
            counts["copies"] += 1
        return False

    def _close(self, plan: Plan) -> None:
        """Hide what has vanished, show what returned. Only `prune` deletes."""
        state, filesystem = look_at(plan.place.path)
        not_met = plan.vanished | plan.spared  # a folder that goes away cannot be listed
        if state != "online" and is_offline(plan.place, plan.root, not_met, state, filesystem):
            self.summary.offline.append(plan.place.path)  # it went away meanwhile
            return
        homeless = {row.file_id for rows in self._homeless.values() for row in rows}
        missing = [
            row.file_id for row in plan.vanished.values() if row.file_id in homeless and not row.missing
        ]
        if missing or plan.returned or plan.solved:
            self._writer.commit(Batch(missing=missing, returned=plan.returned, solved=plan.solved))
        self.summary.missing += len(missing)
        self.summary.returned += len(plan.returned)
        self._note_shards(plan)
        if plan.place.path == plan.root.path:
            with self._writer.changing() as catalog:
                catalog.roots.set_scanned(plan.root.id, datetime.now(UTC).isoformat(timespec="seconds"))

    def _note_shards(self, plan: Plan) -> None:
        """Note which shards need not be opened as long as they are as they were."""
        shards = worth_noting(plan.listed, plan.place, self._options, self._started_ns)
        if shards or plan.outdated:
            with self._writer.changing() as catalog:
                catalog.shards.forget(plan.outdated)
                catalog.shards.keep(plan.root.id, shards)

    def _switch(self) -> None:
        """Let this model answer once everything that can be found has an embedding of it."""
        with self._writer.reading() as catalog:
            self.summary.pending = catalog.known.count_pending(self._space.id)
        if not self._space.active and not self.summary.pending:
            self._writer.activate(self._space.id)
