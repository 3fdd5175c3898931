"""Recall and time under filters of every selectivity, for text and image queries.

    OMP_NUM_THREADS=1 python -m benchmarks.index_filters FOLDER [--rows 1000000] [--queries 100]

On vectors with CLIP's cosines, kept in FOLDER (`benchmarks/clip_rows.py`). "any" admits a random share of the
rows; "like" admits the rows most like one photo, as a folder or a holiday does. Recall@10 is against exact
search under the same filter, on queries that the index was not tuned on. In brackets are the processor's
milliseconds of a query.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.clip_rows import KINDS, Data, K, Rows, recall, timed
from benchmarks.index_ways import tuned_as_a_library
from clipsearch.index import ExactSearch, Searcher, build, plan_index

SHARES = (1.0, 0.5, 0.1, 0.01, 0.001, 0.0001)
AT_ONCE = 50_000


def filters(vectors: Rows) -> Iterator[tuple[str, float, Rows]]:
    """Name, share and ascending slots of each filter."""
    count, random = len(vectors), np.random.default_rng(1)
    near = np.concatenate([vectors[s : s + AT_ONCE] @ vectors[0] for s in range(0, count, AT_ONCE)])
    likest = np.argsort(-near)
    for share in SHARES:
        size = int(count * share)
        yield "any", share, np.sort(random.choice(count, size, replace=False))
        yield "like", share, np.sort(likest[:size])


def row(data: Data, searcher: Searcher, allowed: Rows, count: int) -> str:
    """Fewest results, then recall and time of `count` queries of each kind."""
    cells, fewest = [], K
    for kind in KINDS:
        queries = data.held[kind][:count]

        def ask(query: Any, kind: Any = kind) -> Any:
            return searcher.search(query, K, kind=kind, allowed=allowed)[1][0]

        fewest = min(fewest, *(len(ask(query)) for query in queries))
        least = ExactSearch(data.vectors).search(queries, K, allowed)[0][:, -1]
        cells += [f"{recall(ask, data.vectors, queries, least):.3f}", str(timed(ask, queries))]
    return f"{fewest} | {' | '.join(cells)}"


def main() -> None:
    """Build, then a row for each filter."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    data = Data(options.folder, options.rows, options.dim)
    index = build(data.vectors, plan_index(options.rows, options.dim, wanted=True).params)
    tuned_as_a_library(index, data)
    searcher = Searcher(data.vectors, index)
    print("| filter | admitted | results | text recall@10 | p50 / p95 | image recall@10 | p50 / p95 |")
    print("|---|---|---|---|---|---|---|")
    for name, share, allowed in filters(data.vectors):
        print(f"| {name} | {share:.2%} | {row(data, searcher, allowed, options.queries)} |", flush=True)


if __name__ == "__main__":
    main()
