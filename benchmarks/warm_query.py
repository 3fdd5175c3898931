"""A warm query in words through Python, from the embedded text to the hits, on a large library.

    OMP_NUM_THREADS=1 python -m benchmarks.warm_query FOLDER [--rows 1000000] [--queries 300] [--json]

A library of rows with CLIP's cosines (`benchmarks/clip_rows.py`) and photos that are not there is made in
FOLDER, with an index tuned for such texts, and kept. It is asked through `Library.search` by a model whose
texts are embedded already: what is timed is everything else, from the query language to paths and dates of 20
hits. Then one photo in a hundred is taken away, as happens to every library, and it is asked again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from benchmarks.clip_rows import Data, Times, timed
from benchmarks.made import absent, fill_ours
from clipsearch import Library
from clipsearch.folder import Batch, LibraryFolder
from clipsearch.index.exact import ExactSearch
from clipsearch.index.ordering import SCORE_TOLERANCE
from clipsearch.library_index import LibraryIndex

K, TARGET_K = 20, 10
FINGERPRINT = "f" * 16


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


def without_some(place: Path, share: float) -> None:
    """Take files away at random, as far as the catalog knows."""
    random = np.random.default_rng(0)
    with LibraryFolder.open(place) as folder, folder.writer() as writer:
        with writer.reading() as catalog:
            known = list(catalog.known.files(next(iter(catalog.roots.all())).id).values())
        writer.commit(Batch(missing=[row.file_id for row in known if random.random() < share]))


@dataclass(frozen=True)
class Answers:
    """How long a library of `rows`, of which `found` can be found, takes to answer, and how well it finds."""

    found: int
    rows: int
    whole: Times
    alone: Times
    recall: float

    def __str__(self) -> str:
        return f"| {self.found:,} of {self.rows:,} | {self.whole} | {self.alone} | {self.recall:.3f} |"


def asked(place: Path, queries: np.ndarray) -> Answers:
    """Time and recall@10 of the library as it is, and the time of the search among its vectors alone."""
    with Library.open(place, encoder=Embedded(queries)) as library:  # type: ignore[arg-type]
        whole = timed(lambda query: library.search("a dog on a beach", K), queries)
    with LibraryFolder.open(place) as folder, folder.snapshot() as photos:
        searcher, allowed = LibraryIndex(folder).searcher(photos), photos.visible
        least = ExactSearch(photos.vectors).search(queries, TARGET_K, allowed)[0][:, -1:]
        scores, _ = searcher.search(queries, TARGET_K, kind="text", allowed=allowed)
        alone = timed(lambda query: searcher.search(query, K, kind="text", allowed=allowed), queries)
        recall = (scores >= least - 2 * SCORE_TOLERANCE).mean()
        return Answers(len(allowed), len(photos.vectors), whole, alone, float(recall))


def main() -> None:
    """Make the library unless it is there, then a row for each of its states."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="the figures of the last state, as JSON")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    data = Data(options.folder, options.rows, options.dim)
    place = options.folder / "library"
    if not place.exists():
        photos = absent(options.folder / "photos", options.rows)
        fill_ours(place, options.folder, photos, data.vectors, model=(FINGERPRINT, "model", "/model"))
        with LibraryFolder.open(place) as folder:
            LibraryIndex(folder).build(lambda wanted: data.tuning["text"][: len(wanted)], None, None)
    queries = data.held["text"][: options.queries]
    as_made = asked(place, queries)
    without_some(place, 0.01)
    without = asked(place, queries)
    if options.json:
        print(
            json.dumps(
                {"p50_ms": without.whole.median, "p95_ms": without.whole.tail, "recall": without.recall}
            )
        )
        return
    print("| photos | Library.search, p50 / p95 (processor) | the vectors alone | recall@10 |")
    print(f"|---|---|---|---|\n{as_made}\n{without}")


if __name__ == "__main__":
    main()
