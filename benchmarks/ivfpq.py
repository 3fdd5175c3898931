"""Recall and latency of the IVF-PQ index for text-like and image-like queries.

    python benchmarks/ivfpq.py [--rows 100000] [--dim 512] [--queries 300] [--target 0.95]

The vectors are synthetic, with CLIP's cosines: photos lie at 0.5 to each other, texts at 0.6, a text at 0.15
to a random photo and at about 0.3 to its own. The table reads recall@10 against exact search; tuned settings
are measured on queries that they were not tuned on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import KINDS, Effort, IvfPq, build
from clipsearch.index.searcher import Searcher
from clipsearch.index.storage import load, save
from clipsearch.index.tuning import tune

K = 10


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of unit length."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class Clip:
    """Unit vectors of two modalities that share content but lie apart."""

    def __init__(self, dim: int, topics: int, seed: int = 0) -> None:
        self.random, self.dim = np.random.default_rng(seed), dim
        self.spectrum = (1 / np.sqrt(np.arange(1, dim + 1))).astype(np.float32)
        self.spectrum[-2:] = 0  # two axes are kept for the modality
        self.topics = unit(self.random.standard_normal((topics, dim)) * self.spectrum).astype(np.float32)
        self.photo_axis, self.text_axis = np.eye(dim, dtype=np.float32)[[-1, -2]]
        self.text_axis = 0.27 * self.photo_axis + np.float32(np.sqrt(1 - 0.27**2)) * self.text_axis

    def content(self, n: int) -> np.ndarray:
        """What n pictures show: a topic and something of their own."""
        topics = self.topics[self.random.integers(len(self.topics), size=n)]
        return unit(
            topics + 0.9 * unit(self.random.standard_normal((n, self.dim), np.float32) * self.spectrum)
        )

    def images(self, n: int) -> np.ndarray:
        """Photos, (n, dim) float32."""
        return unit(0.5**0.5 * self.photo_axis + 0.5**0.5 * self.content(n)).astype(np.float32)

    def texts(self, n: int) -> np.ndarray:
        """Captions, (n, dim) float32."""
        noise = unit(self.random.standard_normal((n, self.dim), np.float32))
        meaning = unit(0.336 * self.content(n) + (1 - 0.336**2) ** 0.5 * noise)
        return unit(0.6**0.5 * self.text_axis + 0.4**0.5 * meaning).astype(np.float32)


def measured(searcher: Searcher, queries: np.ndarray, kth: np.ndarray, kind: str) -> tuple[float, float]:
    """Recall@K and the median milliseconds of one query."""
    hits, times = 0, []
    for query, least in zip(queries, kth, strict=True):
        started = time.perf_counter()
        scores, _ = searcher.search(query, K, kind=kind)
        times.append((time.perf_counter() - started) * 1e3)
        hits += int((scores[0] >= least).sum())
    return hits / (len(queries) * K), float(np.median(times))


def publish(index: IvfPq, vectors: np.ndarray) -> None:
    """Save and load, and print what that takes."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "index.faiss", Path(folder) / "index.json"
        started = time.perf_counter()
        save(index, *paths, vectors=vectors, fingerprint="synthetic")
        saved = time.perf_counter()
        n, dim = vectors.shape
        found = load(*paths, fingerprint="synthetic", dim=dim, max_slots=n, vectors=vectors)
        loaded = time.perf_counter()
        assert found.index is not None, found.reason
        size = paths[0].stat().st_size
        print(f"{size / 1e6:.1f} MB, {size / n:.0f} bytes a vector; ", end="")
        print(f"save {(saved - started) * 1e3:.0f} ms, verify and load {(loaded - saved) * 1e3:.0f} ms")


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--target", type=float, default=0.95)
    options = parser.parse_args()
    clip = Clip(options.dim, topics=max(20, options.rows // 50))
    vectors = np.empty((options.rows, options.dim), np.float16)
    for start in range(0, options.rows, 10_000):
        vectors[start : start + 10_000] = clip.images(min(10_000, options.rows - start))
    makers = {"text": clip.texts, "image": clip.images}
    started = time.perf_counter()
    index = build(vectors)
    print(f"{options.rows:,} × {options.dim}: {index.key} built in {time.perf_counter() - started:.0f} s")
    exact, searcher = ExactSearch(vectors), Searcher(vectors, index, exact_limit=0)
    for kind in KINDS:
        started = time.perf_counter()
        tune(index, vectors, makers[kind](options.queries), kind, target_recall=options.target)
        print(f"tuned for {kind} in {time.perf_counter() - started:.0f} s: {index.effort[kind]}")
    print(f"{'':8}{'lists read':>12}{'spread':>8}{'recall@10':>11}{'a query':>11}")
    for kind in KINDS:
        queries, tuned = makers[kind](options.queries), index.effort[kind]
        kth = exact.search(queries, K)[0][:, -1]
        for effort in (Effort(1, 16), Effort(8, 16), Effort(64, 16), tuned):
            index.effort[kind] = effort
            recall, median = measured(searcher, queries, kth, kind)
            mark = " tuned" if effort is tuned else ""
            print(f"{kind:8}{effort.probes:>12}{effort.spread:>8}{recall:>11.3f}{median:>8.2f} ms{mark}")
    publish(index, vectors)


if __name__ == "__main__":
    main()
