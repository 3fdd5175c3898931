"""The index against others: build time, memory, and for text and image queries recall and time.

    OMP_NUM_THREADS=1 python -m benchmarks.index_peers FOLDER [--rows 1000000] [--ways clipsearch,exact,…]

On vectors with CLIP's cosines (`benchmarks/clip_rows.py`). Every way (`benchmarks/index_ways.py`) is tuned
for text and image queries to a recall@10 of 0.95, by the cheapest setting of its search that reaches it on
100 of them (ours as a library tunes: on 300 texts and on 600 rows of its own), and measured on 300 others,
one query at a time, one thread. `pip install hnswlib usearch` for those two; ways whose package is missing
are left out. "Bytes a vector" is the size of the index's file, which is what it holds in memory; the
candidates of ours, of IVF-flat and of RaBitQ are scored from the half-precision rows on the disk. Building is
told in seconds of one processor, so that it may share a machine; so is a query, in milliseconds, in brackets.

FOLDER keeps the vectors and every index: a way that was built is not built again, and `--build` only builds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss

from benchmarks.clip_rows import KINDS, Ask, Data, recall, timed
from benchmarks.index_ways import WAYS

TARGET = 0.95
HEADS = ("index", "build", "bytes a vector", "text recall@10", "p50 / p95", "image recall@10", "p50 / p95")


def built(name: str, folder: Path, data: Data) -> dict[str, Any]:
    """The facts about a way's index in `folder`, which is built unless it is there."""
    place = folder / name.replace(" ", "-")
    facts = place.with_suffix(".facts")
    if not facts.exists():
        wall, used = time.perf_counter(), time.process_time()

        def told(rows: int) -> None:
            if rows % 50_000 == 0:
                print(f"{name}: {rows:,} rows in {time.process_time() - used:.0f} s", flush=True)

        index = WAYS[name].build(data, told)
        seconds = time.process_time() - used
        WAYS[name].write(index, place)
        size = place.stat().st_size or data.vectors.nbytes
        found = {"build_s": seconds, "wall_s": time.perf_counter() - wall, "bytes": size / len(data.vectors)}
        facts.write_text(json.dumps(found))
    return json.loads(facts.read_text())


def cheapest(asks: Iterator[tuple[str, Ask]], data: Data, kind: str) -> tuple[str, Ask]:
    """The first that reaches the target on the queries for tuning, else the last."""
    for how, ask in asks:
        found = how, ask
        if recall(ask, data.vectors, data.tuning[kind][:100], data.tuning_kth[kind][:100]) >= TARGET:
            break
    return found


def report(name: str, folder: Path, data: Data) -> None:
    """Tune one way for both kinds, and print its row."""
    facts = built(name, folder, data)
    index = WAYS[name].read(folder / name.replace(" ", "-"), data.vectors)
    cells = []
    for kind in KINDS:
        how, ask = cheapest(WAYS[name].asks(index, data.vectors, kind), data, kind)
        share = recall(ask, data.vectors, data.held[kind], data.held_kth[kind])
        cells.append(f"{share:.3f} | {timed(ask, data.held[kind])} {how}")
    print(f"| {name} | {facts['build_s']:.0f} s | {facts['bytes']:.0f} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Make the vectors, then a row for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--build", action="store_true", help="only build what is not there yet")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    data = Data(options.folder, options.rows, options.dim)
    if not options.build:
        print(f"{options.rows:,} × {options.dim}, one thread\n")
        print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    for name in options.ways.split(","):
        try:
            (built if options.build else report)(name, options.folder, data)
        except ImportError as missing:
            print(f"| {name} | {missing.name} is not installed |")


if __name__ == "__main__":
    main()
