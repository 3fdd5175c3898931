"""One query in words from the shell, from the start of the process to its end.

    python -m benchmarks.cold_query [--photos 100000] [--runs 5]

With `mini`, on a library of 300 photos and on a large one, by turns. Medians are printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.made import Run, files, fill_ours, interleaved, run, table, unit_vectors
from clipsearch.mapped_model import map_model
from clipsearch.zoo import resolve
from clipsearch_indexer.scan import FileStat

SMALL = 300


def query(library: Path, found: Sequence[FileStat], root: Path) -> Callable[[], Run]:
    """A library of `mini` that knows these files, and a query of it."""
    model = map_model(resolve("mini").folder)
    assert model is not None
    vectors = unit_vectors(len(found), model.config.embed_dim)
    fill_ours(library, root, found, vectors, model=(model.fingerprint, "mini", "mini"))
    command = [sys.executable, "-m", "clipsearch", "query", "a dog on a beach", "-l", str(library)]
    return lambda: run(command)


def main() -> None:
    """Make the libraries, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        found = files(base / "photos", options.photos)
        large = f"{options.photos:,} photos"
        ways = {
            f"{SMALL} photos": query(base / "small", found[:SMALL], base / "photos"),
            large: query(base / "large", found, base / "photos"),
        }
        os.sync()
        table(interleaved(options.runs, **ways), large)


if __name__ == "__main__":
    main()
