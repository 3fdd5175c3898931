"""The index against others: build time, memory, and for text and image queries recall and time.

    OMP_NUM_THREADS=1 python -m benchmarks.index_peers [--rows 1000000] [--ways clipsearch,exact,…]

On vectors with CLIP's cosines (`benchmarks/ivfpq.py`). Every way is tuned on 150 text queries to a recall@10
of 0.95, by the cheapest setting of its search that reaches it, and measured on 150 others, one query at a
time, one thread. Ways whose package is not installed are left out: `pip install hnswlib usearch`. "Bytes a
vector" is what the index itself holds; the candidates of ours, of IVF-flat and of RaBitQ are scored from the
half-precision rows on the disk. autofaiss' choice is written out in FAISS.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.ivfpq import Clip
from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import Effort, build
from clipsearch.index.ordering import rerank
from clipsearch.index.planning import plan_index
from clipsearch.index.tuning import probe_grid, tune_and_measure

K, TARGET, QUERIES = 10, 0.95, 150

Rows = np.ndarray
Ask = Callable[[Rows], Rows]
"""One query (dim,) -> the slots found."""


@dataclass
class Built:
    """An index: its bytes, and its search at each effort, the cheapest first, or one for each kind."""

    size: int
    asks: Iterator[tuple[str, Ask]] | None = None
    kinds: dict[str, tuple[str, Ask]] | None = None


def stored(index: Any) -> int:
    """Bytes of a FAISS index on the disk, which is what it holds in memory."""
    with tempfile.NamedTemporaryFile() as file:
        faiss.write_index(index, file.name)
        return Path(file.name).stat().st_size


def ours(vectors: Rows, tuning: dict[str, Rows]) -> Built:
    """What `clipsearch index` builds, tuned as it tunes."""
    index = build(vectors, plan_index(len(vectors), vectors.shape[1], wanted=True).params)
    kinds: dict[str, tuple[str, Ask]] = {}
    for kind in ("text", "image"):
        effort = tune_and_measure(index, vectors, tuning[kind], kind)  # type: ignore[arg-type]

        def ask(query: Rows, effort: Effort = effort) -> Rows:
            return index.search(vectors, query[None], K, effort)[0][1]

        kinds[kind] = f"{effort.probes} lists, {effort.spread} × {K}", ask
    return Built(stored(index.engine), kinds=kinds)


def exact(vectors: Rows, _: dict[str, Rows]) -> Built:
    """Every row compared, in the memory map."""
    search = ExactSearch(vectors)
    return Built(vectors.nbytes, asks=iter([("all", lambda query: search.search(query, K)[1][0])]))


def ivf(vectors: Rows, kind: str, spread: int) -> Built:
    """FAISS lists of another kind, with our exact re-ranking of `spread` × K candidates."""
    dim, lists = vectors.shape[1], 4 * int(len(vectors) ** 0.5)
    index = faiss.index_factory(dim, f"IVF{lists},{kind}", faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True
    sample = np.random.default_rng(0).choice(len(vectors), min(len(vectors), 50 * lists), replace=False)
    index.train(vectors[np.sort(sample)].astype(np.float32))
    for start in range(0, len(vectors), 50_000):
        index.add(vectors[start : start + 50_000].astype(np.float32))

    def asks() -> Iterator[tuple[str, Ask]]:
        for probes in probe_grid(lists):

            def ask(query: Rows, probes: int = probes) -> Rows:
                index.nprobe = probes
                found = index.search(query[None], spread * K)[1][0]
                return rerank(vectors, found[found >= 0], query, K)[1]

            yield f"{probes} lists, {spread} × {K}", ask

    return Built(stored(index), asks=asks())


def autofaiss(vectors: Rows, _: dict[str, Rows]) -> Built:
    """What autofaiss chooses for the memory that ours takes: OPQ + IVF-PQ without exact scores."""
    dim, lists = vectors.shape[1], 4 * int(len(vectors) ** 0.5)
    lists = 1 << (lists.bit_length() - 1)
    index = faiss.index_factory(dim, f"OPQ64_{dim},IVF{lists}_HNSW32,PQ64x8", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[: 50 * lists].astype(np.float32))  # the first rows, as it does
    for start in range(0, len(vectors), 50_000):
        index.add(vectors[start : start + 50_000].astype(np.float32))
    space = faiss.ParameterSpace()

    def asks() -> Iterator[tuple[str, Ask]]:
        for probes in probe_grid(lists):

            def ask(query: Rows, probes: int = probes) -> Rows:
                space.set_index_parameters(index, f"nprobe={probes},quantizer_efSearch={2 * probes}")
                return index.search(query[None], K)[1][0]

            yield f"{probes} lists", ask

    return Built(stored(index), asks=asks())


EFFORTS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def faiss_hnsw(vectors: Rows, _: dict[str, Rows]) -> Built:
    """FAISS HNSW32 over half-precision rows."""
    index = faiss.index_factory(vectors.shape[1], "HNSW32_SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:1000].astype(np.float32))
    for start in range(0, len(vectors), 50_000):
        index.add(vectors[start : start + 50_000].astype(np.float32))

    def asks() -> Iterator[tuple[str, Ask]]:
        for effort in EFFORTS:

            def ask(query: Rows, effort: int = effort) -> Rows:
                index.hnsw.efSearch = effort
                return index.search(query[None], K)[1][0]

            yield f"ef {effort}", ask

    return Built(stored(index), asks=asks())


def hnswlib(vectors: Rows, _: dict[str, Rows]) -> Built:
    """hnswlib, M = 16, ef_construction = 200, its defaults."""
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=200)
    index.set_num_threads(1)
    for start in range(0, len(vectors), 50_000):
        index.add_items(vectors[start : start + 50_000].astype(np.float32))

    def asks() -> Iterator[tuple[str, Ask]]:
        for effort in EFFORTS:

            def ask(query: Rows, effort: int = effort) -> Rows:
                index.set_ef(effort)
                return index.knn_query(query, K, num_threads=1)[0][0].astype(np.int64)

            yield f"ef {effort}", ask

    return Built(index.index_file_size(), asks=asks())


def usearch(vectors: Rows, _: dict[str, Rows]) -> Built:
    """usearch over half-precision rows, its defaults."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    for start in range(0, len(vectors), 50_000):
        part = vectors[start : start + 50_000]
        index.add(np.arange(start, start + len(part)), part, threads=1)

    def asks() -> Iterator[tuple[str, Ask]]:
        for effort in EFFORTS:

            def ask(query: Rows, effort: int = effort) -> Rows:
                index.expansion_search = effort
                return index.search(query.astype(np.float16), K, threads=1).keys.astype(np.int64)

            yield f"ef {effort}", ask

    return Built(index.serialized_length, asks=asks())


WAYS: dict[str, Callable[[Rows, dict[str, Rows]], Built]] = {
    "clipsearch": ours,
    "exact": exact,
    "IVF-flat": lambda vectors, _: ivf(vectors, "SQfp16", 1),
    "IVF-RaBitQ": lambda vectors, _: ivf(vectors, "RaBitQ", 64),
    "autofaiss": autofaiss,
    "FAISS HNSW": faiss_hnsw,
    "hnswlib": hnswlib,
    "usearch": usearch,
}


def measured(ask: Ask, vectors: Rows, queries: Rows, kth: Rows) -> tuple[float, float, float]:
    """Recall@K, median and 95th percentile of milliseconds."""
    hits, times = 0, []
    for query, least in zip(queries, kth, strict=True):
        started = time.perf_counter()
        slots = ask(query)
        times.append((time.perf_counter() - started) * 1e3)
        scores = vectors[slots[slots >= 0]].astype(np.float32) @ query
        hits += int((scores >= least - 1e-5).sum())
    return hits / (len(queries) * K), float(np.median(times)), float(np.quantile(times, 0.95))


def report(name: str, vectors: Rows, queries: dict[str, Rows], kth: dict[str, Rows]) -> None:
    """Build one way, tune it, print its row."""
    half = {kind: (rows[::2], rows[1::2]) for kind, rows in queries.items()}
    started = time.perf_counter()
    try:
        built = WAYS[name](vectors, queries)
    except ImportError:
        print(f"| {name} | not installed |")
        return
    seconds = time.perf_counter() - started
    if built.kinds is None:
        assert built.asks is not None
        for found in built.asks:
            if measured(found[1], vectors, half["text"][0], kth["text"][::2])[0] >= TARGET:
                break
        built.kinds = {"text": found, "image": found}
    cells = []
    for kind in ("text", "image"):
        how, ask = built.kinds[kind]
        recall, median, tail = measured(ask, vectors, half[kind][1], kth[kind][1::2])
        cells.append(f"{recall:.3f} | {median:.2f} / {tail:.2f} ms ({how})")
    size = built.size / len(vectors)
    print(f"| {name} | {seconds:.0f} s | {size:.0f} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Make the vectors, then a row for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--ways", default=",".join(WAYS))
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    clip = Clip(options.dim, topics=max(20, options.rows // 50))
    vectors = np.empty((options.rows, options.dim), np.float16)
    for start in range(0, options.rows, 10_000):
        vectors[start : start + 10_000] = clip.images(min(10_000, options.rows - start))
    queries = {"text": clip.texts(2 * QUERIES), "image": clip.images(2 * QUERIES)}
    search = ExactSearch(vectors)
    kth = {kind: search.search(rows, K)[0][:, -1] for kind, rows in queries.items()}
    print(f"{options.rows:,} × {options.dim}, one thread\n")
    heads = (
        "index",
        "build",
        "bytes a vector",
        "text recall@10",
        "p50 / p95",
        "image recall@10",
        "p50 / p95",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in options.ways.split(","):
        report(name, vectors, queries, kth)


if __name__ == "__main__":
    main()
