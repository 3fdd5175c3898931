"""IVF-PQ: inverted lists of product-quantised vectors, for more rows than are worth comparing one by one.

A vector is put into the list of its nearest centroid (spherical k-means, Dhillon & Modha 2001) and what is
left over is coded in `code_bytes` bytes (product quantisation, Jégou et al. 2011, after the rotation of Ge et
al. 2013, "OPQ"). A query reads `probes` lists, takes the best `candidates` by code, and scores those exactly
from the half-precision rows. So what an answer can lack is a row never proposed; its scores are always exact.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from clipsearch.errors import UsageError
from clipsearch.index.checks import Floats, Slots, Vectors, slot_matrix
from clipsearch.index.engine import faiss
from clipsearch.index.exact import selector
from clipsearch.index.ordering import rerank

Kind = Literal["text", "image"]
"""What a query is made from. Text vectors lie apart from image vectors and need more lists read."""
KINDS: tuple[Kind, ...] = ("text", "image")

Progress = Callable[[str, int, int], None]
"""Called with the stage ("sample", "rotation", "lists" or "add"), what is done, and of how much."""

MIN_ROWS = 256
"""Fewest rows an index is built on: the quantiser learns 256 centroids for each byte of a code."""
ROWS_PER_ADD = 32_768
GROWTH = 4
DRIFT = 1.5
GRAPH_FROM = 16_384
"""Lists from which the nearest centroids are found by a graph (HNSW) instead of by comparing with all:
at 16,384 × 512 that takes about as long as reading the lists."""
NEIGHBOURS = 32
PQ_SAMPLE = 65_536
"""256 rows for each of the 256 entries of a codebook: beyond it FAISS samples down itself."""


@dataclass(frozen=True)
class IvfPqParams:
    """How an index is built; `None` means: derived from the number of rows and their width.

    Attributes:
        lists: centroids; 4·√n, and at least `MIN_PER_LIST` rows a list.
        code_bytes: bytes of a code, a divisor of the width; an eighth of the width (64 at 512).
        sample_per_list: random rows a centroid is trained on, 39 to 256.
        rotation_rounds: OPQ iterations; 0 leaves the rotation out.
        graph: find the lists to read by a graph of their centroids (HNSW).
    """

    lists: int | None = None
    code_bytes: int | None = None
    sample_per_list: int = 50
    rotation_rounds: int = 8
    graph: bool = False

    def resolved(self, n: int, dim: int) -> IvfPqParams:
        """The same with nothing left open for `n` rows of width `dim`; `UsageError` where that cannot be."""
        lists = self.lists or min(4 * math.isqrt(n), n // 39)
        code_bytes = self.code_bytes or max(m for m in range(1, max(1, dim // 8) + 1) if dim % m == 0)
        if not 1 <= lists <= n // 39:
            raise UsageError(f"{n} rows carry between 1 and {n // 39} lists, not {lists}")
        if dim % code_bytes:
            raise UsageError(f"codes of {code_bytes} bytes do not divide a width of {dim}")
        if not 39 <= self.sample_per_list <= 256:
            raise UsageError(f"39 to 256 training rows a list are useful, not {self.sample_per_list}")
        return replace(self, lists=lists, code_bytes=code_bytes)


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
    return {"text": Effort(max(1, lists // 3), 40), "image": Effort(max(1, lists // 16), 20)}


@dataclass
class IvfPq:
    """A built index over the rows [0, covered).

    Attributes:
        engine: the FAISS index (an OPQ rotation before an `IndexIVFPQ`).
        params: as built, nothing left open.
        seed: of the training sample and the clustering.
        covered: rows in it; later rows are the caller's to search.
        built_at: seconds since 1970.
        effort: for each kind of query.
        trained_on: rows there were when its lists and codes were learnt.
        imbalance: of its lists then (`imbalance`).
        mapped: its lists stay on the disk.
        budget: bytes of memory that it was planned for; 0 where nothing was said.
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
        return factory_key(self.params, self.dim)

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
        if isinstance(self.engine, lib.IndexPreTransform):
            lists = lib.SearchParametersPreTransform(index_params=lists)
        slots: Slots = self.engine.search(rows, min(wanted, self.covered), params=lists)[1]
        return slots

    def search(
        self, vectors: Vectors, rows: Floats, k: int, effort: Effort, admitted: Slots | None = None
    ) -> list[tuple[Floats, Slots]]:
        """For each of (q, d) unit `rows`, up to `k` scores and slots, exact in score and order.

        A filter leaves 1/f of the rows of each list, so 1/f as many lists are read: as many admitted codes
        are compared as without it.
        """
        share = 1.0 if admitted is None else admitted.size / self.covered
        probes = math.ceil(effort.probes / share)
        proposed = self.candidates(rows, k * effort.spread, probes, admitted)
        return [rerank(vectors, slots[slots >= 0], row, k) for slots, row in zip(proposed, rows, strict=True)]


def factory_key(params: IvfPqParams, dim: int) -> str:
    """`params` in the notation of FAISS' index factory, as `OPQ64,IVF4000,PQ64x8`."""
    rotation = f"OPQ{params.code_bytes}," if params.rotation_rounds else ""
    graph = f"_HNSW{NEIGHBOURS}" if params.graph else ""
    return f"{rotation}IVF{params.lists}{graph},PQ{params.code_bytes}x8"


def build(
    vectors: Vectors, params: IvfPqParams | None = None, *, seed: int = 0, progress: Progress | None = None
) -> IvfPq:
    """Train on a random sample of `vectors` (n, d) and add them all.

    The sample is random, not the first rows: those are one holiday, one folder. Peak memory beyond the index
    (`code_bytes` + 8 a row) is the sample, `lists` × `sample_per_list` rows of float32.

    Raises:
        UsageError: fewer than `MIN_ROWS` rows, or parameters that do not fit.
    """
    vectors = slot_matrix(vectors)
    n, dim = vectors.shape
    if n < MIN_ROWS:
        raise UsageError(
            f"An index needs at least {MIN_ROWS} vectors, and there are {n}: exact search answers at once."
        )
    params = (params or IvfPqParams()).resolved(n, dim)
    report = progress or (lambda stage, done, total: None)
    sample = _sample(vectors, params, seed)
    report("sample", len(sample), len(sample))
    engine = _trained(sample, params, seed, report)
    _add(engine, vectors, 0, report)
    assert params.lists is not None
    balance = imbalance(engine)
    return IvfPq(engine, params, seed, n, time.time(), untuned(params.lists), trained_on=n, imbalance=balance)


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


def _sample(vectors: Vectors, params: IvfPqParams, seed: int) -> Floats:
    assert params.lists is not None
    size = min(len(vectors), max(params.lists * params.sample_per_list, PQ_SAMPLE))
    chosen = np.random.default_rng(seed).choice(len(vectors), size, replace=False, shuffle=False)
    sample = np.empty((size, vectors.shape[1]), np.float32)
    sample[:] = vectors[np.sort(chosen)]
    return sample


def _trained(sample: Floats, params: IvfPqParams, seed: int, report: Progress) -> Any:
    lib = faiss()
    assert params.lists is not None
    assert params.code_bytes is not None
    dim = sample.shape[1]
    flat = lib.IndexFlatIP(dim)
    quantizer = lib.IndexHNSWFlat(dim, NEIGHBOURS, lib.METRIC_INNER_PRODUCT) if params.graph else flat
    ivf = lib.IndexIVFPQ(quantizer, dim, params.lists, params.code_bytes, 8, lib.METRIC_INNER_PRODUCT)
    ivf.cp.spherical = True
    ivf.cp.seed = ivf.pq.cp.seed = seed + 1
    ivf.cp.min_points_per_centroid = 1  # the sample's size was chosen above: no advice on standard error
    ivf.cp.max_points_per_centroid = 256
    ivf.pq.cp.min_points_per_centroid = 1
    engine: Any = ivf
    if params.rotation_rounds:
        rotation = lib.OPQMatrix(dim, params.code_bytes)
        codes = lib.ProductQuantizer(dim, params.code_bytes, 8)
        codes.cp.seed = seed + 1
        codes.cp.min_points_per_centroid = 1
        rotation.pq = codes  # borrowed while it trains
        rotation.niter = params.rotation_rounds
        rotation.max_train_points = PQ_SAMPLE // 2
        rotation.train(sample)
        rotation.pq = None
        report("rotation", 1, 1)
        ivf.train(rotation.apply(sample))
        engine = lib.IndexPreTransform(rotation, ivf)
        engine.is_trained = True
    else:
        ivf.train(sample)
    report("lists", params.lists, params.lists)
    return engine


def inner(engine: Any) -> Any:
    """The `IndexIVFPQ` inside `engine`; `None` if there is none."""
    lib = faiss()
    index = engine.index if isinstance(engine, lib.IndexPreTransform) else engine
    index = lib.downcast_index(index)
    return index if isinstance(index, lib.IndexIVFPQ) else None


def known_effort(effort: Mapping[Kind, Effort], kind: Kind, lists: int) -> Effort:
    """The effort for `kind`, untuned settings where there is none; `UsageError` for another word."""
    if kind not in KINDS:
        raise UsageError(f"a query is of kind text or image, not {kind!r}")
    return effort.get(kind) or untuned(lists)[kind]
