"""Recall and time under filters of every selectivity, for text and image queries.

    OMP_NUM_THREADS=1 python -m benchmarks.index_filters [--rows 1000000] [--queries 100]

On vectors with CLIP's cosines (`benchmarks/ivfpq.py`). "any" admits a random share of the rows; "like" admits
the rows most like one photo, as a folder or a holiday does. Recall@10 is against exact search under the same
filter, on queries that the index was not tuned on.
"""

from __future__ import annotations

import argparse
import time

import faiss
import numpy as np

from benchmarks.ivfpq import Clip
from clipsearch.index import ExactSearch, Searcher, build, plan_index, tune_and_measure
from clipsearch.index.ivfpq import KINDS

K = 10
SHARES = (1.0, 0.5, 0.1, 0.01, 0.001, 0.0001)


def main() -> None:
    """Build, then a row for each filter."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    clip = Clip(options.dim, topics=max(20, options.rows // 50))
    vectors = np.empty((options.rows, options.dim), np.float16)
    for start in range(0, options.rows, 10_000):
        vectors[start : start + 10_000] = clip.images(min(10_000, options.rows - start))
    makers = {"text": clip.texts, "image": clip.images}
    index = build(vectors, plan_index(options.rows, options.dim, wanted=True).params)
    for kind in KINDS:
        tune_and_measure(index, vectors, makers[kind](300), kind)
    searcher, exact = Searcher(vectors, index), ExactSearch(vectors)
    like = np.concatenate([vectors[s : s + 50_000] @ vectors[0] for s in range(0, options.rows, 50_000)])
    random = np.random.default_rng(1)
    print("| filter | admitted | results | text recall@10 | a query | image recall@10 | a query |")
    print("|---|---|---|---|---|---|---|")
    for share in SHARES:
        size = int(options.rows * share)
        chosen = {"any": random.choice(options.rows, size, replace=False), "like": np.argsort(-like)[:size]}
        for name, slots in chosen.items():
            allowed = np.sort(slots).astype(np.int64)
            cells, fewest = [], K
            for kind in KINDS:
                hits, times = 0, []
                queries = makers[kind](options.queries)
                least = exact.search(queries, K, allowed)[0][:, -1]
                for query, kth in zip(queries, least, strict=True):
                    started = time.perf_counter()
                    scores, _ = searcher.search(query, K, kind=kind, allowed=allowed)
                    times.append((time.perf_counter() - started) * 1e3)
                    fewest = min(fewest, scores.shape[1])
                    hits += int((scores[0] >= kth).sum())
                cells.append(f"{hits / (K * options.queries):.3f} | {np.median(times):.1f} ms")
            print(f"| {name} | {share:.2%} | {fewest} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
