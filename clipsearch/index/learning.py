"""What an index learns of a random sample: directions, lists, codes; and how rows get into its lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from clipsearch.index.checks import Floats, Slots, Vectors
from clipsearch.index.clustering import Centroids, centroids
from clipsearch.index.engine import faiss
from clipsearch.index.params import NEIGHBOURS, IvfPqParams
from clipsearch.index.rotation import balanced, principal_directions

Progress = Callable[[str, int, int], None]
"""Called with the stage ("sample", "lists", "codes" or "add"), what is done, and of how much."""

SAMPLE = 65_536
"""Rows that directions and codebooks are learnt of, where lists need fewer."""


def trained(vectors: Vectors, params: IvfPqParams, seed: int, report: Progress) -> tuple[Any, Centroids, Any]:
    """The rotation, the centroids in rotated numbers, and an empty `IndexIVFPQ` over rotated vectors."""
    assert params.lists is not None
    assert params.width is not None
    sample = _sample(vectors, params, seed)
    report("sample", len(sample), len(sample))
    directions = principal_directions(sample[:SAMPLE], params.width)
    narrow = sample @ directions.T
    del sample
    found = centroids(narrow, params.lists, seed)
    report("lists", params.lists, params.lists)
    some = narrow[:SAMPLE]
    residuals = some - found.rows[found.nearest(some)]
    turn = balanced(residuals, params.parts)
    lists = Centroids(found.rows @ turn.T, found.branches @ turn.T, found.starts)
    turned: Floats = (residuals @ turn.T).astype(np.float32, copy=False)
    engine = _empty(lists, params, turned, seed)
    report("codes", params.parts, params.parts)
    return _linear(turn @ directions), lists, engine


def _sample(vectors: Vectors, params: IvfPqParams, seed: int) -> Floats:
    """Random rows in random order, so that any first part of them is a sample as well."""
    assert params.lists is not None
    random = np.random.default_rng(seed)
    size = min(len(vectors), max(params.lists * params.sample_per_list, SAMPLE))
    chosen = np.sort(random.choice(len(vectors), size, replace=False, shuffle=False))
    sample = np.empty((len(chosen), vectors.shape[1]), np.float32)
    sample[random.permutation(len(chosen))] = vectors[chosen]  # read in the order of the disk
    return sample


def _empty(lists: Centroids, params: IvfPqParams, residuals: Floats, seed: int) -> Any:
    lib = faiss()
    flat = lib.IndexFlatIP(params.width)
    coarse = lib.IndexHNSWFlat(params.width, NEIGHBOURS, lib.METRIC_INNER_PRODUCT) if params.graph else flat
    coarse.add(np.ascontiguousarray(lists.rows))
    ivf = lib.IndexIVFPQ(
        coarse, params.width, params.lists, params.parts, params.bits, lib.METRIC_INNER_PRODUCT
    )
    ivf.pq.cp.seed = seed + 1
    ivf.pq.cp.min_points_per_centroid = 1
    ivf.pq.train(np.ascontiguousarray(residuals))
    ivf.is_trained = True
    return ivf


def _linear(matrix: Floats) -> Any:
    """A FAISS transform by `matrix` (w, d) with orthonormal rows."""
    lib = faiss()
    transform = lib.LinearTransform(matrix.shape[1], matrix.shape[0], False)
    lib.copy_array_to_vector(np.ascontiguousarray(matrix, np.float32).reshape(-1), transform.A)
    transform.set_is_orthonormal()
    transform.is_trained = True
    return transform


def put(engine: Any, rows: Floats, slots: Slots, lists: Slots) -> None:
    """Put (n, w) rotated `rows` under the numbers `slots` into `lists`, all (n,)."""
    lib = faiss()
    kept = [np.ascontiguousarray(each) for each in (rows, slots, lists)]  # until they have been added
    engine.add_core(len(rows), *(lib.swig_ptr(each) for each in kept))


def packed(plain: Any) -> Any:
    """The `IndexIVFPQFastScan` of an `IndexIVFPQ` of 4 bits."""
    lib = faiss()
    fast = lib.IndexIVFPQFastScan(plain)
    fast.quantizer = None  # what it shares with `plain` would go with it
    coarse = lib.clone_index(plain.quantizer)
    fast.quantizer, fast.own_fields = coarse, True
    coarse.this.disown()
    return fast
