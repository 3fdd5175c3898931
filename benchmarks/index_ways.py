"""The index and its peers behind one face: built, written to a file, read back, asked.

Every way holds the same rows (n, d) float16. What is tuned is the effort of its search; how it is built is
what its makers advise, and stands in its docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.clip_rows import AT_ONCE, Ask, Data, K, Rows
from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import IvfPq, build
from clipsearch.index.ordering import rerank
from clipsearch.index.planning import plan_index
from clipsearch.index.storage import load, save
from clipsearch.index.tuning import probe_grid, tune_and_measure
from clipsearch.library_index import TUNING_QUERIES

EFFORTS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)

Progress = Callable[[int], None]
"""Told how many rows are in."""


def blocks(vectors: Rows, told: Progress) -> Iterator[tuple[int, Rows]]:
    """The rows in float32, some at a time, with the first one's number."""
    for start in range(0, len(vectors), AT_ONCE):
        yield start, vectors[start : start + AT_ONCE].astype(np.float32)
        told(min(start + AT_ONCE, len(vectors)))


def tuned_as_a_library(index: IvfPq, data: Data) -> None:
    """Tune for texts, and for images with rows of the library's own, as `clipsearch index` does."""
    own = np.random.default_rng(0).choice(len(data.vectors), TUNING_QUERIES, replace=False)
    tune_and_measure(index, data.vectors, data.tuning["text"], "text")
    tune_and_measure(index, data.vectors, data.vectors[own].astype(np.float32), "image", own=own)


class Faiss:
    """What is a FAISS index through and through."""

    def write(self, index: Any, path: Path) -> None:
        """Put it into one file."""
        faiss.write_index(index, str(path))

    def read(self, path: Path, vectors: Rows) -> Any:
        """Take it from there."""
        return faiss.read_index(str(path))


class Ours:
    """What `clipsearch index` builds, tuned as it tunes, its candidates scored from the rows on the disk."""

    def build(self, data: Data, told: Progress) -> Any:
        """The index that is planned for so many rows; for images it is tuned with rows of its own."""
        index = build(
            data.vectors,
            plan_index(len(data.vectors), data.vectors.shape[1], wanted=True).params,
            progress=lambda stage, done, total: told(done) if stage == "add" else None,
        )
        tuned_as_a_library(index, data)
        self.vectors = data.vectors
        return index

    def write(self, index: Any, path: Path) -> None:
        """Publish it, with its manifest beside it."""
        save(index, path, path.with_suffix(".json"), vectors=self.vectors, fingerprint="synthetic")

    def read(self, path: Path, vectors: Rows) -> Any:
        """Load what was published."""
        n, dim = vectors.shape
        found = load(path, path.with_suffix(".json"), fingerprint="synthetic", dim=dim, max_slots=n)
        assert found.index is not None, found.reason
        return found.index

    def asks(self, index: Any, vectors: Rows, kind: str) -> Iterator[tuple[str, Ask]]:
        """The effort that was tuned for this kind."""
        effort = index.effort[kind]
        yield (
            f"{effort.probes} lists, {effort.spread} × {K}",
            lambda query: index.search(vectors, query[None], K, effort)[0][1],
        )


class Exact:
    """Every row compared, in the memory map."""

    def build(self, data: Data, told: Progress) -> Any:
        """Nothing to do."""
        return None

    def write(self, index: Any, path: Path) -> None:
        """Nothing to keep: the rows are there."""
        path.touch()

    def read(self, path: Path, vectors: Rows) -> Any:
        """The rows as they are."""
        return ExactSearch(vectors)

    def asks(self, index: Any, vectors: Rows, kind: str) -> Iterator[tuple[str, Ask]]:
        """There is one way only."""
        yield "all", lambda query: index.search(query, K)[1][0]


class Lists(Faiss):
    """FAISS lists of another kind over 4·√n centroids, with our exact scoring of `spread` × K candidates.

    A random rotation goes before the codes where `turned`: RaBitQ's bounds hold for randomly turned rows.
    """

    def __init__(self, code: str, spread: int, *, turned: bool = False) -> None:
        self.code, self.spread, self.turned = code, spread, turned

    def build(self, data: Data, told: Progress) -> Any:
        """Trained on a random sample of 50 rows a list."""
        dim, lists = data.vectors.shape[1], 4 * int(len(data.vectors) ** 0.5)
        turn = "RR," if self.turned else ""
        index = faiss.index_factory(dim, f"{turn}IVF{lists},{self.code}", faiss.METRIC_INNER_PRODUCT)
        faiss.extract_index_ivf(index).cp.spherical = True
        chosen = np.random.default_rng(0).choice(
            len(data.vectors), min(len(data.vectors), 50 * lists), replace=False
        )
        index.train(data.vectors[np.sort(chosen)].astype(np.float32))
        for _, rows in blocks(data.vectors, told):
            index.add(rows)
        return index

    def asks(self, index: Any, vectors: Rows, kind: str) -> Iterator[tuple[str, Ask]]:
        """By lists read."""
        lists = faiss.extract_index_ivf(index)
        for probes in probe_grid(lists.nlist):

            def ask(query: Rows, probes: int = probes) -> Rows:
                lists.nprobe = probes
                found = index.search(query[None], self.spread * K)[1][0]
                return rerank(vectors, found[found >= 0], query, K)[1]

            yield f"{probes} lists, {self.spread} × {K}", ask


class Autofaiss(Faiss):
    """What autofaiss 2.18 chooses for a million × 512 and the memory that ours takes; no exact scores.

    `get_optimal_index_keys_v2(nb_vectors=1_000_000, dim_vector=512, max_index_memory_usage="100MB")`, written
    out in FAISS, trained on the first rows, as autofaiss does; but on 10 of them a list where it takes 31 to
    100, which would be three to ten times as long.
    """

    def build(self, data: Data, told: Progress) -> Any:
        """16,384 lists, or for fewer than a million rows as many of them a list."""
        dim = data.vectors.shape[1]
        lists = min(16_384, 1 << int(np.log2(len(data.vectors) / 50)))
        key = f"OPQ64_{dim // 64 * 56},IVF{lists}_HNSW32,PQ64x8"
        index = faiss.index_factory(dim, key, faiss.METRIC_INNER_PRODUCT)
        faiss.extract_index_ivf(index).cp.min_points_per_centroid = 10
        index.train(data.vectors[: max(10 * lists, 65_536)].astype(np.float32))
        for _, rows in blocks(data.vectors, told):
            index.add(rows)
        return index

    def asks(self, index: Any, vectors: Rows, kind: str) -> Iterator[tuple[str, Ask]]:
        """By lists read; the graph of centroids looks at twice as many."""
        space, lists = faiss.ParameterSpace(), faiss.extract_index_ivf(index).nlist
        for probes in probe_grid(lists):

            def ask(query: Rows, probes: int = probes) -> Rows:
                space.set_index_parameters(index, f"nprobe={probes},quantizer_efSearch={2 * probes}")
                return index.search(query[None], K)[1][0]

            yield f"{probes} lists", ask


class FaissHnsw(Faiss):
    """FAISS HNSW32 over half-precision rows, efConstruction = 40, its default."""

    def build(self, data: Data, told: Progress) -> Any:
        """Row by row."""
        index = faiss.index_factory(data.vectors.shape[1], "HNSW32_SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.train(data.vectors[:1000].astype(np.float32))
        for _, rows in blocks(data.vectors, told):
            index.add(rows)
        return index

    def asks(self, index: Any, vectors: Rows, kind: str) -> Iterator[tuple[str, Ask]]:
        """By efSearch."""
        for effort in EFFORTS:

            def ask(query: Rows, effort: int = effort) -> Rows:
                index.hnsw.efSearch = effort
                return index.search(query[None], K)[1][0]

            yield f"ef {effort}", ask


class Hnswlib:
    """hnswlib over float32 rows, M = 16, ef_construction = 100 (its examples use 100 to 200)."""

    def build(self, data: Data, told: Progress) -> Any:
        """Row by row."""
        import hnswlib

        index = hnswlib.Index("ip", data.vectors.shape[1])
        index.init_index(len(data.vectors), M=16, ef_construction=100)
        index.set_num_threads(1)
        for _, rows in blocks(data.vectors, told):
            index.add_items(rows)
        return index

    def write(self, index: Any, path: Path) -> None:
        """Put it into one file."""
        index.save_index(str(path))

    def read(self, path: Path, vectors: Rows) -> Any:
        """Take it from there."""
        import hnswlib

        index = hnswlib.Index("ip", vectors.shape[1])
        index.load_index(str(path), max_elements=len(vectors))
        return index

    def asks(self, index: Any, vectors: Rows, kind: str) -> Iterator[tuple[str, Ask]]:
        """By ef."""
        for effort in EFFORTS:

            def ask(query: Rows, effort: int = effort) -> Rows:
                index.set_ef(effort)
                return index.knn_query(query, K, num_threads=1)[0][0].astype(np.int64)

            yield f"ef {effort}", ask


class Usearch:
    """usearch over half-precision rows, its defaults (M = 16, expansion_add = 128)."""

    def build(self, data: Data, told: Progress) -> Any:
        """Row by row."""
        from usearch.index import Index

        index = Index(ndim=data.vectors.shape[1], metric="ip", dtype="f16")
        for start in range(0, len(data.vectors), AT_ONCE):
            part = np.asarray(data.vectors[start : start + AT_ONCE])
            index.add(np.arange(start, start + len(part)), part, threads=1)
            told(start + len(part))
        return index

    def write(self, index: Any, path: Path) -> None:
        """Put it into one file."""
        index.save(str(path))

    def read(self, path: Path, vectors: Rows) -> Any:
        """Take it from there."""
        from usearch.index import Index

        return Index.restore(str(path))

    def asks(self, index: Any, vectors: Rows, kind: str) -> Iterator[tuple[str, Ask]]:
        """By expansion_search."""
        for effort in EFFORTS:

            def ask(query: Rows, effort: int = effort) -> Rows:
                index.expansion_search = effort
                return index.search(query.astype(np.float16), K, threads=1).keys.astype(np.int64)

            yield f"ef {effort}", ask


WAYS: dict[str, Any] = {
    "clipsearch": Ours(),
    "exact": Exact(),
    "IVF-flat": Lists("SQfp16", 1),
    "IVF-RaBitQ": Lists("RaBitQ", 64),
    "RR + IVF-RaBitQ": Lists("RaBitQ", 64, turned=True),
    "autofaiss": Autofaiss(),
    "FAISS HNSW": FaissHnsw(),
    "hnswlib": Hnswlib(),
    "usearch": Usearch(),
}
