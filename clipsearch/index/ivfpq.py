"""IVF-PQ: inverted lists of product-quantised vectors, for more rows than are worth comparing one by one.

A vector is turned to its principal directions (`rotation`), put into the list of a near centroid
(`clustering`), and what is left over is coded: 4 bits for each two numbers, compared 32 vectors at a time in
registers (product quantisation, Jégou et al. 2011; fast scan, André et al. 2015), or 8 bits for each four
where the codes are to stay in a mapped file. A query reads `probes` lists, takes the best `candidates` by
code, and scores those exactly from the half-precision rows. So what an answer can lack is a row never
proposed; its scores are always exact.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UsageError
from clipsearch.index.checks import Floats, Slots, Vectors, slot_matrix
from clipsearch.index.clustering import lister
from clipsearch.index.engine import faiss
from clipsearch.index.exact import selector
from clipsearch.index.learning import Progress, packed, put, trained
from clipsearch.index.ordering import rerank
from clipsearch.index.params import IvfPqParams, factory_key
from clipsearch.index.runs import OnDisk, Runs, mapped

Kind = Literal["text", "image"]
"""What a query is made from. Text vectors lie apart from image vectors and need more lists read."""
KINDS: tuple[Kind, ...] = ("text", "image")

WIDENING = 4
"""As many times more lists are read where a filter left too few candidates."""
SHUT_OUT = 2
"""A filter that admits so many times fewer of a query's neighbours than of all rows shuts it out."""
PLAIN_FROM = 0.5
"""Share of rows admitted from which they are searched among all, and the others dropped: asking a filter
about every code costs more than reading a few codes in vain."""
PLAIN_ENOUGH = 0.9
"""Share of the admitted candidates expected that must have come of that."""
EXPECTED = 8
"""Admitted neighbours that must be expected before their number tells anything."""
MIN_ROWS = 256
"""Fewest rows an index is built on."""
ROWS_PER_ADD = 32_768
GROWTH = 4
DRIFT = 1.5
TUNED_K = 10
"""Results for which effort is tuned; fewer get as many candidates, or the few would be found less surely."""


@dataclass(frozen=True)
class Effort:
    """How hard a search looks.

    Attributes:
        probes: lists read.
        spread: candidates re-ranked exactly for each result wanted.
        recall: share of the true nearest found for held-out queries; `None` where it was never measured.
        latency_ms: median milliseconds of one such query, one at a time; `None` likewise.
    """

    probes: int
    spread: int
    recall: float | None = None
    latency_ms: float | None = None


def untuned(lists: int) -> dict[Kind, Effort]:
    """Generous settings for an index that was not tuned: on CLIP-like data both find over 95%."""
    return {"text": Effort(max(1, lists // 3), 80), "image": Effort(max(1, lists // 8), 40)}


@dataclass
class IvfPq:
    """A built index over the rows [0, covered).

    Attributes:
        engine: the FAISS index (a rotation before an `IndexIVFPQFastScan` or an `IndexIVFPQ`).
        params: as built, nothing left open.
        seed: of the training sample and the clustering.
        covered: rows in it; later rows are the caller's to search.
        built_at: seconds since 1970.
        effort: for each kind of query.
        trained_on: rows there were when its lists and codes were learnt.
        imbalance: of its lists then (`imbalance`).
        mapped: its lists stay on the disk.
        budget: bytes of memory that it was planned for; 0 where nothing was said.
        file: all of it as FAISS writes it, where it was built on the disk.
    """

    engine: Any
    params: IvfPqParams
    seed: int
    covered: int
    built_at: float
    effort: dict[Kind, Effort] = field(default_factory=dict)
    trained_on: int = 0
    imbalance: float = 1.0
    mapped: bool = False
    budget: int = 0
    file: IO[bytes] | None = None

    @property
    def dim(self) -> int:
        """Width of its vectors."""
        return int(self.engine.d)

    @property
    def lists(self) -> int:
        """Number of inverted lists, the most that can be probed."""
        assert self.params.lists is not None
        return self.params.lists

    @property
    def key(self) -> str:
        """Its name in the notation of FAISS' index factory."""
        return factory_key(self.params)

    def candidates(self, rows: Floats, wanted: int, probes: int, admitted: Slots | None = None) -> Slots:
        """The up to `wanted` slots that promise most for each of (q, d) unit `rows`: (q, wanted), −1 padded.

        `admitted` (sorted, below `covered`) restricts what is returned.
        """
        lib = faiss()
        probes = min(max(1, probes), self.lists)
        lists = lib.SearchParametersIVF(
            nprobe=probes,
            sel=None if admitted is None else selector(admitted, self.covered),
            # A graph that looks at twice the lists wanted misses few of them.
            quantizer_params=lib.SearchParametersHNSW(efSearch=2 * probes) if self.params.graph else None,
        )
        lists = lib.SearchParametersPreTransform(index_params=lists)
        slots: Slots = self.engine.search(rows, min(wanted, self.covered), params=lists)[1]
        return slots

    def search(
        self, vectors: Vectors, rows: Floats, k: int, effort: Effort, admitted: Slots | None = None
    ) -> list[tuple[Floats, Slots]]:
        """For each of (q, d) unit `rows`, up to `k` scores and slots, exact in score and order.

        A filter leaves a share f of the rows of a list, so 1/f as many lists are read: as many admitted codes
        are compared as without it. Where too few come of that, more lists are read. A filter that admits most
        (all photos but those that are missing) is asked about the candidates only, of which 1/f as many are
        taken. A query that the filter
        shuts out of its own neighbourhood gets no answer here (empty arrays): what is nearest of the rest is
        spread over all lists, and comparing every admitted row is the way to find it.
        """
        wanted = max(k, TUNED_K) * effort.spread
        if admitted is None:
            proposed = self.candidates(rows, wanted, effort.probes)
        else:
            proposed = self._admitted(rows, wanted, effort.probes, admitted)
        return [rerank(vectors, slots[slots >= 0], row, k) for slots, row in zip(proposed, rows, strict=True)]

    def _admitted(self, rows: Floats, wanted: int, probes: int, admitted: Slots) -> Slots:
        """Candidates (q, `wanted`, or that / share) for a filter, −1 where there are none."""
        share = admitted.size / self.covered
        if share >= PLAIN_FROM:
            proposed = self.candidates(rows, math.ceil(wanted / share), math.ceil(probes / share))
            inside = _among(proposed, admitted)
            proposed[~inside] = -1
            if (inside.mean(axis=1) >= PLAIN_ENOUGH * share).all():
                return proposed
        wanted = min(wanted, admitted.size)
        proposed = self._sought(rows, wanted, math.ceil(probes / share), admitted)
        if wanted * share >= EXPECTED:
            inside = _among(self.candidates(rows, wanted, probes), admitted)
            proposed[inside.mean(axis=1) < share / SHUT_OUT] = -1
        return proposed

    def _sought(self, rows: Floats, wanted: int, probes: int, admitted: Slots) -> Slots:
        """Candidates (q, wanted) of the admitted alone, from more lists for those queries that lack some."""
        proposed = self.candidates(rows, wanted, probes, admitted)
        while probes < self.lists and (short := np.flatnonzero((proposed < 0).any(axis=1))).size:
            probes *= WIDENING
            proposed[short] = self.candidates(rows[short], wanted, probes, admitted)
        return proposed


def _among(slots: Slots, admitted: Slots) -> npt.NDArray[np.bool_]:
    """Which of `slots` (any shape, −1 for none) are among the ascending `admitted`, of which there is one."""
    places = np.minimum(np.searchsorted(admitted, slots), admitted.size - 1)
    found: npt.NDArray[np.bool_] = admitted[places] == slots
    return found


def build(
    vectors: Vectors,
    params: IvfPqParams | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    on_disk: OnDisk | None = None,
) -> IvfPq:
    """Train on a random sample of `vectors` (n, d) and add them all.

    The sample is random, not the first rows: those are one holiday, one folder. Peak memory beyond the index
    (`code_bytes` + 8 a row, twice that while 4-bit codes are packed) is the sample, `lists` ×
    `sample_per_list` rows of float32 and as many of the width kept. With `on_disk` only so many rows of the
    lists are in memory at once; they end up in a file of that folder, mapped, which `save` copies.

    Raises:
        UsageError: fewer than `MIN_ROWS` rows, or parameters that do not fit; 4-bit codes on the disk.
        StorageError: the disk of `on_disk` is full or fails.
    """
    vectors = slot_matrix(vectors)
    n, dim = vectors.shape
    if n < MIN_ROWS:
        raise UsageError(
            f"An index needs at least {MIN_ROWS} vectors, and there are {n}: exact search answers at once."
        )
    params = (params or IvfPqParams()).resolved(n, dim)
    if on_disk is not None and params.bits != 8:
        raise UsageError("Lists on the disk hold codes of 8 bits a part.")
    report = progress or (lambda stage, done, total: None)
    rotation, lists, ivf = trained(vectors, params, seed, report)
    list_of = lister(lists)
    with ExitStack() as held:
        runs = None if on_disk is None else held.enter_context(Runs(on_disk, ivf))
        for start in range(0, n, ROWS_PER_ADD):
            stop = min(start + ROWS_PER_ADD, n)
            rows = rotation.apply(vectors[start:stop].astype(np.float32))
            put(ivf, rows, np.arange(start, stop, dtype=np.int64), list_of(rows))
            if runs is not None:
                runs.have_grown()
            report("add", stop, n)
        file = None if runs is None else runs.merged(rotation)
    index = IvfPq(_engine(rotation, ivf, params, file), params, seed, n, time.time(), file=file)
    assert params.lists is not None
    index.effort, index.trained_on = untuned(params.lists), n
    index.imbalance, index.mapped = imbalance(index.engine), file is not None
    if file is not None:
        weakref.finalize(index, file.close)
    return index


def _engine(rotation: Any, ivf: Any, params: IvfPqParams, file: IO[bytes] | None) -> Any:
    """What searches: the lists of `file`, else those of `ivf`."""
    if file is not None:
        return mapped(file)
    engine = faiss().IndexPreTransform(rotation, packed(ivf) if params.bits == 4 else ivf)
    engine.is_trained = True
    return engine


def extend(index: IvfPq, vectors: Vectors, *, progress: Progress | None = None) -> None:
    """Add the rows of `vectors` that `index` does not cover yet, to the lists and codes that it has.

    An index that others search meanwhile must not be extended: load it anew for this.
    """
    _add(index.engine, slot_matrix(vectors), index.covered, progress or (lambda stage, done, total: None))
    index.covered, index.built_at = len(vectors), time.time()


def has_drifted(index: IvfPq, rows: int) -> bool:
    """Whether lists and codes should be learnt anew for so many rows.

    They were learnt of less than a quarter of them, or what was added since fell into few of the lists, so
    that a search reads half as much again as it did.
    """
    return rows > GROWTH * index.trained_on or imbalance(index.engine) > DRIFT * index.imbalance


def imbalance(engine: Any) -> float:
    """How uneven the lists are: codes that a random row's list has, over the mean (1: all alike).

    FAISS' imbalance factor: lists · Σ sizes² / (Σ sizes)².
    """
    return float(inner(engine).invlists.imbalance_factor())


def _add(engine: Any, vectors: Vectors, first: int, report: Progress) -> None:
    for start in range(first, len(vectors), ROWS_PER_ADD):
        stop = min(start + ROWS_PER_ADD, len(vectors))
        engine.add(vectors[start:stop].astype(np.float32))
        report("add", stop, len(vectors))


def inner(engine: Any) -> Any:
    """The `IndexIVFPQ` or `IndexIVFPQFastScan` inside `engine`; `None` if there is none."""
    lib = faiss()
    index = engine.index if isinstance(engine, lib.IndexPreTransform) else engine
    index = lib.downcast_index(index)
    return index if isinstance(index, lib.IndexIVFPQ | lib.IndexIVFPQFastScan) else None


def known_effort(effort: Mapping[Kind, Effort], kind: Kind, lists: int) -> Effort:
    """The effort for `kind`, untuned settings where there is none; `UsageError` for another word."""
    if kind not in KINDS:
        raise UsageError(f"a query is of kind text or image, not {kind!r}")
    return effort.get(kind) or untuned(lists)[kind]
