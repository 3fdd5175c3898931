"""A warm query in words through Python, from the embedded text to the hits, on a large library.

    OMP_NUM_THREADS=1 python -m benchmarks.warm_query FOLDER [--rows 1000000] [--queries 300]

A library of rows with CLIP's cosines (`benchmarks/ivfpq.py`) and photos that are not there is made in FOLDER,
with an index tuned for such texts, and kept. It is asked through `Library.search` by a model whose texts are
embedded already: what is timed is everything else, from the query language to paths and dates of 20 hits.
Then one photo in a hundred is taken away, as happens to every library, and it is asked again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.index_peers import made_once
from clipsearch import Library
from clipsearch.folder import Batch, LibraryFolder
from clipsearch.index.exact import ExactSearch
from clipsearch.library_index import LibraryIndex
from clipsearch.metadata import PhotoMetadata
from clipsearch.store import FoundFile, NewImage
from clipsearch_indexer.scan import FileStat

K, TARGET_K = 20, 10
FINGERPRINT = "f" * 16
AT_ONCE = 20_000


class Embedded:
    """A model that gives one prepared vector after the other, whatever the text."""

    fingerprint = FINGERPRINT

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.given = rows, 0

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """The next vectors, (n, dim)."""
        chosen = np.arange(self.given, self.given + len(texts)) % len(self.rows)
        self.given += len(texts)
        return self.rows[chosen]


def photo(root: int, number: int) -> NewImage:
    """A photo of which only the facts are there."""
    path = b"/photos/%04d/IMG_%07d.jpg" % (number // 1000, number)
    facts = PhotoMetadata(width=4000, height=3000, format="JPEG", camera="Canon EOS R6")
    place = FoundFile(root, FileStat(path, 3_000_000, number, number, number, 0), 10**18)
    return NewImage(b"%016d" % number, 3_000_000, facts, [place])


def filled(place: Path, vectors: np.ndarray) -> None:
    """A library at `place` with these rows."""
    with LibraryFolder.create(place) as folder, folder.writer() as writer:
        space = writer.ensure_space(FINGERPRINT, "model", "/model", vectors.shape[1])
        with writer.changing() as catalog:
            root = catalog.roots.add(b"/photos", "0")
        for start in range(0, len(vectors), AT_ONCE):
            rows = np.asarray(vectors[start : start + AT_ONCE], np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            images = [photo(root, number) for number in range(start, start + len(rows))]
            writer.commit(Batch(images=images, vectors=rows, space_id=space.id))


def without_some(place: Path, share: float) -> None:
    """Take files away at random, as far as the catalog knows."""
    random = np.random.default_rng(0)
    with LibraryFolder.open(place) as folder, folder.writer() as writer:
        with writer.reading() as catalog:
            known = list(catalog.known.files(next(iter(catalog.roots.all())).id).values())
        writer.commit(Batch(missing=[row.file_id for row in known if random.random() < share]))


def milliseconds(ask: Callable[[], Any], times: int) -> str:
    """Median and 95th percentile of asking that often, after 20 that do not count; median processor time."""
    taken, used = [], []
    for turn in range(times + 20):
        started, working = time.perf_counter(), time.process_time()
        ask()
        if turn >= 20:
            taken.append((time.perf_counter() - started) * 1e3)
            used.append((time.process_time() - working) * 1e3)
    return f"{np.median(taken):.1f} / {np.quantile(taken, 0.95):.1f} ms ({np.median(used):.1f})"


def asked(place: Path, queries: np.ndarray) -> str:
    """Time and recall@10 of the library as it is, and the time of the search among its vectors alone."""
    with Library.open(place, encoder=Embedded(queries)) as library:  # type: ignore[arg-type]
        whole = milliseconds(lambda: library.search("a dog on a beach", K), len(queries))
    with LibraryFolder.open(place) as folder, folder.snapshot() as photos:
        searcher, allowed = LibraryIndex(folder).searcher(photos), photos.visible
        least = ExactSearch(photos.vectors).search(queries, TARGET_K, allowed)[0][:, -1:]
        scores, _ = searcher.search(queries, TARGET_K, kind="text", allowed=allowed)
        given = iter(np.concatenate([queries[-20:], queries]))
        alone = milliseconds(lambda: searcher.search(next(given), K, kind="text"), len(queries))
        recall = (scores >= least - 1e-5).mean()
        return f"| {len(allowed):,} of {len(photos.vectors):,} | {whole} | {alone} | {recall:.3f} |"


def main() -> None:
    """Make the library unless it is there, then a row for each of its states."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=300)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    vectors = made_once(options.folder, options.rows, options.dim)
    texts = np.load(options.folder / "queries.npz")["text"]
    place = options.folder / "library"
    if not place.exists():
        filled(place, vectors)
        with LibraryFolder.open(place) as folder:
            LibraryIndex(folder).build(lambda wanted: texts[: len(wanted)], None, None)
    print("| photos | Library.search, p50 / p95 (processor) | the vectors alone | recall@10 |")
    print("|---|---|---|---|")
    queries = texts[-options.queries :]
    print(asked(place, queries), flush=True)
    without_some(place, 0.01)
    print(asked(place, queries))


if __name__ == "__main__":
    main()
