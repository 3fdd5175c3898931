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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from clipsearch.errors import UsageError
from clipsearch.index.checks import Floats, Slots, Vectors, slot_matrix
from clipsearch.index.clustering import Centroids, centroids
from clipsearch.index.engine import faiss
from clipsearch.index.exact import selector
from clipsearch.index.ordering import rerank
from clipsearch.index.plan import MAX_ROWS_A_LIST, ROWS_A_LIST, SAMPLE, Plan, most_lists, shape
from clipsearch.index.rotation import balanced, principal_directions

Kind = Literal["text", "image"]
"""What a query is made from. Text vectors lie apart from image vectors and need more lists read."""
KINDS: tuple[Kind, ...] = ("text", "image")

Progress = Callable[[str, int, int], None]
"""Called with the stage ("sample", "lists", "codes" or "add"), what is done, and of how much."""

MIN_ROWS = 256
"""Fewest rows an index is built on."""
ROWS_PER_ADD = 32_768
TUNED_K = 10
"""Results for which effort is tuned; fewer get as many candidates, or the few would be found less surely."""
RESIDUALS = 65_536
"""Rows that the codebooks are learnt from: FAISS takes 256 for each entry of one at most."""


@dataclass(frozen=True)
class IvfPqParams:
    """How an index is built; `None` means: derived from the number of rows and their width, as in `plan`.

    Attributes:
        lists: centroids; 8·√n, and at least 39 rows a list.
        width: principal directions kept; half of them from 256 on.
        code_bytes: bytes of a code; a quarter of the width (64 at 512).
        bits: of each sub-quantiser: 4 (in registers) or 8 (plain, fit to be mapped).
        sample: random rows trained on, 39 to 256 a list.
    """

    lists: int | None = None
    width: int | None = None
    code_bytes: int | None = None
    bits: int | None = None
    sample: int | None = None

    @classmethod
    def planned(cls, plan: Plan) -> IvfPqParams:
        """Those of a plan that is for an index."""
        return cls(plan.lists, plan.width, plan.code_bytes, plan.bits, plan.sample)

    def resolved(self, n: int, dim: int) -> IvfPqParams:
        """The same with nothing left open for `n` rows of width `dim`; `UsageError` where that cannot be."""
        width, code_bytes, bits = shape(dim, mapped=self.bits == 8)
        bits = self.bits or bits
        if self.width is not None or self.code_bytes is not None:
            width = self.width or width
            code_bytes = self.code_bytes or max(1, width // 4)
        lists = self.lists or most_lists(n)
        sample = self.sample or max(ROWS_A_LIST * lists, min(n, SAMPLE, MAX_ROWS_A_LIST * lists))
        if not 1 <= lists <= n // ROWS_A_LIST:
            raise UsageError(f"{n} rows carry between 1 and {n // ROWS_A_LIST} lists, not {lists}")
        if not 1 <= width <= dim:
            raise UsageError(f"{width} directions cannot be kept of {dim}")
        if bits not in (4, 8) or width % (code_bytes * 8 // bits):
            raise UsageError(
                f"codes of {code_bytes} bytes in parts of {bits} bits do not divide a width of {width}"
            )
        if not ROWS_A_LIST * lists <= sample <= n:
            raise UsageError(f"{lists} lists are trained on {ROWS_A_LIST * lists} to {n} rows, not {sample}")
        return IvfPqParams(lists, width, code_bytes, bits, sample)

    @property
    def parts(self) -> int:
        """Sub-quantisers of a code."""
        assert self.code_bytes is not None
        assert self.bits is not None
        return self.code_bytes * 8 // self.bits


@dataclass(frozen=True)
class Effort:
    """How hard a search looks.

    Attributes:
        probes: lists read.
        spread: candidates re-ranked exactly for each result wanted.
        recall: share of the true nearest found by queries that it was not tuned on; `None`: never measured.
        milliseconds: median time of one query in tuning; `None`: never measured.
    """

    probes: int
    spread: int
    recall: float | None = None
    milliseconds: float | None = None


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
    """

    engine: Any
    params: IvfPqParams
    seed: int
    covered: int
    built_at: float
    effort: dict[Kind, Effort] = field(default_factory=dict)

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
        lists = lib.SearchParametersIVF(
            nprobe=min(max(1, probes), self.lists),
            sel=None if admitted is None else selector(admitted, self.covered),
        )
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
        proposed = self.candidates(rows, max(k, TUNED_K) * effort.spread, probes, admitted)
        return [rerank(vectors, slots[slots >= 0], row, k) for slots, row in zip(proposed, rows, strict=True)]


def factory_key(params: IvfPqParams) -> str:
    """`params` in the notation of FAISS' index factory, as `OPQ128_256,IVF8000,PQ128x4fs`."""
    codes = f"PQ{params.parts}x{'4fs' if params.bits == 4 else '8'}"
    return f"OPQ{params.parts}_{params.width},IVF{params.lists},{codes}"


def build(
    vectors: Vectors, params: IvfPqParams | None = None, *, seed: int = 0, progress: Progress | None = None
) -> IvfPq:
    """Train on a random sample of `vectors` (n, d) and add them all.

    The sample is random, not the first rows: those are one holiday, one folder. What it takes at the peak is
    `plan.Plan.build_memory`; `vectors` are read in order.

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
    rotation, lists, engine = _trained(vectors, params, seed, report)
    for start in range(0, n, ROWS_PER_ADD):
        stop = min(start + ROWS_PER_ADD, n)
        rows = rotation.apply(vectors[start:stop].astype(np.float32))
        _add(engine, rows, np.arange(start, stop, dtype=np.int64), lists.nearest(rows))
        report("add", stop, n)
    if params.bits == 4:
        engine = _packed(engine)
    whole = faiss().IndexPreTransform(rotation, engine)
    whole.is_trained = True
    assert params.lists is not None
    return IvfPq(whole, params, seed, n, time.time(), untuned(params.lists))


def extend(index: IvfPq, vectors: Vectors, progress: Progress | None = None) -> None:
    """Add the rows [`index.covered`, n) of `vectors` (n, d) to the lists as they are: nothing is learnt anew.

    The index must not be searched meanwhile; load one of its own for this.
    """
    report = progress or (lambda stage, done, total: None)
    first, n = index.covered, len(slot_matrix(vectors))
    for start in range(first, n, ROWS_PER_ADD):
        stop = min(start + ROWS_PER_ADD, n)
        index.engine.add_with_ids(
            vectors[start:stop].astype(np.float32), np.arange(start, stop, dtype=np.int64)
        )
        index.covered = stop
        report("add", stop - first, n - first)


def imbalance(index: IvfPq) -> float:
    """How uneven the lists are: 1 when all are equally long, L when one of L has everything.

    L·Σ(sᵢ/n)² for lists of sᵢ of n vectors: the factor by which a probe reads more than from equal lists
    (FAISS' `imbalance_factor`).
    """
    return float(inner(index.engine).invlists.imbalance_factor())


def _trained(
    vectors: Vectors, params: IvfPqParams, seed: int, report: Progress
) -> tuple[Any, Centroids, Any]:
    """The rotation, the centroids in rotated numbers, and an empty `IndexIVFPQ` over rotated vectors."""
    assert params.lists is not None
    assert params.width is not None
    sample = _sample(vectors, params, seed)
    report("sample", len(sample), len(sample))
    directions = principal_directions(sample[:RESIDUALS], params.width)
    narrow = sample @ directions.T
    del sample
    found = centroids(narrow, params.lists, seed)
    report("lists", params.lists, params.lists)
    some = narrow[:RESIDUALS]
    residuals = some - found.rows[found.nearest(some)]
    turn = balanced(residuals, params.parts)
    lists = Centroids(found.rows @ turn.T, found.branches @ turn.T, found.starts)
    engine = _empty(lists, params, residuals @ turn.T, seed)
    report("codes", params.parts, params.parts)
    return _linear(turn @ directions), lists, engine


def _sample(vectors: Vectors, params: IvfPqParams, seed: int) -> Floats:
    """Random rows in random order, so that any first part of them is a sample as well."""
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(len(vectors), params.sample, replace=False, shuffle=False))
    sample = np.empty((len(chosen), vectors.shape[1]), np.float32)
    sample[random.permutation(len(chosen))] = vectors[chosen]  # read in the order of the disk
    return sample


def _empty(lists: Centroids, params: IvfPqParams, residuals: Floats, seed: int) -> Any:
    lib = faiss()
    coarse = lib.IndexFlatIP(params.width)
    if len(lists.rows) >= HNSW_FROM:
        coarse = lib.IndexHNSWFlat(params.width, HNSW_LINKS, lib.METRIC_INNER_PRODUCT)
        coarse.hnsw.efConstruction = HNSW_WIDTH
    coarse.add(np.ascontiguousarray(lists.rows))
    ivf = lib.IndexIVFPQ(
        coarse, params.width, params.lists, params.parts, params.bits, lib.METRIC_INNER_PRODUCT
    )
    ivf.pq.cp.seed = seed + 1
    ivf.pq.cp.min_points_per_centroid = 1
    ivf.pq.train(np.ascontiguousarray(residuals))
    ivf.is_trained = True
    return ivf


HNSW_FROM = 65_536
"""Lists from which the nearest are found by a graph of centroids (HNSW): comparing all takes longer."""
HNSW_LINKS = 32
HNSW_WIDTH = 80


def _linear(matrix: Floats) -> Any:
    """A FAISS transform by `matrix` (w, d) with orthonormal rows."""
    lib = faiss()
    transform = lib.LinearTransform(matrix.shape[1], matrix.shape[0], False)
    lib.copy_array_to_vector(np.ascontiguousarray(matrix, np.float32).reshape(-1), transform.A)
    transform.set_is_orthonormal()
    transform.is_trained = True
    return transform


def _add(engine: Any, rows: Floats, slots: Slots, lists: Slots) -> None:
    """Put (n, w) rotated `rows` under the numbers `slots` into `lists`, all (n,)."""
    lib = faiss()
    rows, slots, lists = (np.ascontiguousarray(each) for each in (rows, slots, lists))
    engine.add_core(len(rows), lib.swig_ptr(rows), lib.swig_ptr(slots), lib.swig_ptr(lists))


def _packed(plain: Any) -> Any:
    """The `IndexIVFPQFastScan` of an `IndexIVFPQ` of 4 bits."""
    lib = faiss()
    packed = lib.IndexIVFPQFastScan(plain)
    packed.quantizer = None  # what it shares with `plain` would go with it
    coarse = lib.clone_index(plain.quantizer)
    packed.quantizer, packed.own_fields = coarse, True
    coarse.this.disown()
    return packed


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
