"""The index of a library: which one answers, which it should be, and when it is built, extended or rebuilt.

Whoever searches goes on with the index that is there until a new one is published beside it by a rename.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UsageError
from clipsearch.folder import LibraryFolder, Snapshot
from clipsearch.index import (
    EXACT_LIMIT,
    IndexPlan,
    IvfPq,
    OnDisk,
    Searcher,
    build,
    extend,
    has_drifted,
    load,
    plan_index,
    save,
    tune_and_measure,
)
from clipsearch.index.curve import Point, curve
from clipsearch.index.ivfpq import MIN_ROWS, Kind
from clipsearch.index.truth import NO_ROW
from clipsearch.prompts import PROMPTS

Report = Callable[[str, int, int], None]
EncodeText = Callable[[Sequence[str]], npt.NDArray[np.float32]]

TAIL = EXACT_LIMIT
"""Vectors that an index may leave uncovered: comparing them one by one costs a few milliseconds."""
TUNING_QUERIES = 600
"""Of each kind: half choose how hard to look, the other half measure it."""
ENOUGH_CAPTIONS = 200
"""Captions of a library's own from which on they stand for what is asked, instead of the bank of prompts."""


class LibraryIndex:
    """The searcher of a library's newest state, and its upkeep."""

    def __init__(self, folder: LibraryFolder) -> None:
        self._folder = folder
        self._current: tuple[tuple[str, int, str], Searcher] | None = None

    def searcher(self, photos: Snapshot) -> Searcher:
        """What answers over this state: the published index where it is sound, with newer rows compared."""
        manifest = self._folder.index_manifest_path(photos.space)
        try:
            stamp = f"{manifest.stat().st_mtime_ns}"
        except OSError:  # none; a writer may remove it at any moment
            stamp = ""
        key = (photos.key, photos.space.slots, stamp)
        if self._current is None or self._current[0] != key:
            index = self._load(photos) if stamp else None
            # An index that was asked for below the limit is used; above it, searches of few stay exact.
            limit = EXACT_LIMIT if photos.space.slots > EXACT_LIMIT else 0
            self._current = key, Searcher(photos.vectors, index, exact_limit=limit)
        return self._current[1]

    def status(self) -> dict[str, Any]:
        """How a query is answered now: `kind`, `vectors`; of an index also what was measured."""
        with self._folder.snapshot() as photos:
            index, slots = self.searcher(photos).index, photos.space.slots
        if index is None:
            return {"kind": "exact", "vectors": slots}
        efforts = index.effort.items()
        return {
            "kind": "ivf-pq",
            "key": index.key,
            "vectors": slots,
            "covered": index.covered,
            "mapped": index.mapped,
            "recall@10": {kind: round(e.recall, 4) for kind, e in efforts if e.recall is not None},
            "latency_ms": {kind: round(e.latency_ms, 2) for kind, e in efforts if e.latency_ms is not None},
        }

    def plan(self, memory: int | None = None, *, wanted: bool = False, growth: int = 1) -> IndexPlan:
        """The index for this library, or one `growth` times as large, within `memory` bytes.

        None means the budget of the index there is, else a quarter of this machine's memory. Raises
        LibraryEmpty, UsageError.
        """
        with self._folder.snapshot() as photos:
            return self._plan(photos, memory, wanted=wanted, growth=growth)

    def _plan(
        self, photos: Snapshot, memory: int | None, *, wanted: bool = False, growth: int = 1
    ) -> IndexPlan:
        index = self.searcher(photos).index
        budget = memory if memory is not None else (index.budget or None) if index else None
        return plan_index(photos.space.slots * growth, photos.space.dim, budget, wanted=wanted)

    def keep(self, encode_text: EncodeText, memory: int | None, report: Report | None) -> None:
        """Build, extend or rebuild the index where too much is not covered, or another budget is named."""
        with self._folder.snapshot() as photos:
            index, slots = self.searcher(photos).index, photos.space.slots
        if slots <= EXACT_LIMIT:
            return
        planned_anew = index is not None and memory is not None and memory != index.budget
        if index is None or planned_anew or slots - index.covered > TAIL:
            self.build(encode_text, memory, report, anew=planned_anew)

    def build(
        self, encode_text: EncodeText, memory: int | None, report: Report | None, *, anew: bool = True
    ) -> None:
        """Publish an index over everything there is; unless `anew`, one that still fits is extended.

        Raises UsageError for a library too small to train one, LibraryLocked, StorageError.
        """
        with self._folder.snapshot() as photos:
            slots = photos.space.slots
            if slots < MIN_ROWS:
                raise UsageError(
                    f"An index needs at least {MIN_ROWS} vectors, and there are {slots}: exact search "
                    "answers at once."
                )
            index = None if anew else self._extended(photos, report)
            if index is None:
                plan = self._plan(photos, memory, wanted=True)
                folder = self._folder.index_path(photos.space).parent
                on_disk = OnDisk(folder, plan.run_rows) if plan.mapped else None
                index = build(photos.vectors, plan.params, progress=report, on_disk=on_disk)
                index.budget = plan.budget
            self._tune(index, photos, encode_text)
            with self._folder.writer():  # who clears what others left unfinished
                save(
                    index,
                    self._folder.index_path(photos.space),
                    self._folder.index_manifest_path(photos.space),
                    vectors=photos.vectors,
                    fingerprint=photos.space.fingerprint,
                    space=photos.key,
                )

    def curves(self, encode_text: EncodeText, k: int) -> dict[Kind, list[Point]]:
        """Recall and time of the published index, for the queries that measured it when it was built.

        Raises UsageError where there is no index, LibraryEmpty.
        """
        with self._folder.snapshot() as photos:
            index = self.searcher(photos).index
            if index is None:
                raise UsageError(
                    "This library has no index: every photo is compared, and nothing is missed. "
                    "`clipsearch index --ann` builds one."
                )
            asked = tuning_queries(photos, encode_text)
            return {
                kind: curve(index, photos.vectors, each.rows[1::2], kind, k, own=each.own[1::2])
                for kind, each in asked.items()
            }

    def _extended(self, photos: Snapshot, report: Report | None) -> IvfPq | None:
        """The published index with the rows that it lacks; None where it has to be learnt anew."""
        index = self._load(photos)  # not the one that others may be searching
        if index is None or index.mapped or has_drifted(index, photos.space.slots):
            return None
        extend(index, photos.vectors, progress=report)
        return None if has_drifted(index, photos.space.slots) else index

    def _load(self, photos: Snapshot) -> IvfPq | None:
        return load(
            self._folder.index_path(photos.space),
            self._folder.index_manifest_path(photos.space),
            fingerprint=photos.space.fingerprint,
            dim=photos.space.dim,
            max_slots=photos.space.slots,
            vectors=photos.vectors,
            space=photos.key,
        ).index

    def _tune(self, index: IvfPq, photos: Snapshot, encode_text: EncodeText) -> None:
        for kind, each in tuning_queries(photos, encode_text).items():
            tune_and_measure(index, photos.vectors, each.rows, kind, own=each.own)


@dataclass(frozen=True)
class Queries:
    """Queries to tune with: (n, d) float32 unit rows, and (n,) the slot of the photo that each is, or −1."""

    rows: npt.NDArray[np.float32]
    own: npt.NDArray[np.int64]


def tuning_queries(photos: Snapshot, encode_text: EncodeText) -> dict[Kind, Queries]:
    """What an index is tuned and measured with: texts, and the library's own images.

    Texts are the library's captions where there are many, else a bank of prompts and what captions there are.
    """
    rng = np.random.default_rng(0)
    captions = photos.catalog.search.captions()
    if len(captions) > TUNING_QUERIES:
        captions = [captions[row] for row in rng.choice(len(captions), TUNING_QUERIES, replace=False)]
    texts = captions if len(captions) >= ENOUGH_CAPTIONS else [*PROMPTS, *captions]
    texts = [texts[row] for row in rng.permutation(len(texts))]
    slots = rng.choice(photos.space.slots, min(TUNING_QUERIES, photos.space.slots), replace=False)
    return {
        "text": Queries(encode_text(texts), np.full(len(texts), NO_ROW)),
        "image": Queries(np.asarray(photos.vectors[slots], np.float32), slots),
    }
