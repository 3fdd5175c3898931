"""What an index costs as a library grows: building, memory, loading and a query, at each size.

    OMP_NUM_THREADS=1 python -m benchmarks.index_growth [FOLDER] [--sizes 10000,…,10000000] [--memory BYTES]

On rows with CLIP's cosines (`benchmarks/clip_rows.py`). At each size the index that a library of that size
gets within the budget is built, tuned as a library tunes it, published and loaded, each in a process of its
own, and asked one query at a time by queries that it was not tuned on. "CPU s" are seconds of a processor, in
brackets those of the clock. Memory is the most that building took of its own, in brackets with the pages of
mapped rows that the kernel counted to it and may take back at any time. In the cells of queries the brackets
hold the processor's milliseconds.

FOLDER keeps rows and indexes of each size; 10,000,000 × 512 take 11 GB. What is there is not built again.
Without it nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import faiss

from benchmarks.clip_rows import KINDS, Data, K, recall, timed
from benchmarks.index_ways import tuned_as_a_library
from clipsearch.index import OnDisk, Searcher, build, load, plan_index, save
from clipsearch.index.planning import default_budget

SIZES = "10000,100000,300000,1000000,10000000"
FINGERPRINT = "synthetic"
HEADS = (
    *("vectors", "index", "built, CPU s", "tuned, CPU s", "memory", "bytes a vector", "loaded"),
    *("text recall@10", "p50 / p95", "image recall@10", "p50 / p95"),
)


@dataclass(frozen=True)
class Built:
    """What building took: seconds of a processor and of the clock, bytes of memory and of the file."""

    name: str
    build: tuple[float, float]
    tune: tuple[float, float]
    own: int
    peak: int
    size: int


class OwnMemory:
    """The most memory of its own (RssAnon) that this process has while the context lasts, in bytes."""

    def __enter__(self) -> OwnMemory:
        self.most, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.most = max(self.most, memory_told("RssAnon"))


def memory_told(name: str) -> int:
    """Bytes that the kernel tells under this name. (`getrusage` counts the parent's memory in.)"""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024


def spent(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What `work` returns, and the seconds of a processor and of the clock that it took."""
    used, started = time.process_time(), time.perf_counter()
    done = work()
    return done, (time.process_time() - used, time.perf_counter() - started)


def paths(folder: Path, budget: int) -> tuple[Path, Path, Path]:
    """Of an index, its manifest, and what building it took."""
    return tuple(folder / f"within-{budget}{end}" for end in (".faiss", ".json", ".built"))  # type: ignore[return-value]


def made(folder: Path, rows: int, dim: int) -> None:
    """Make the rows unless they are there, in a process that gives their memory back."""
    Data(folder, rows, dim)


def built(folder: Path, rows: int, dim: int, budget: int) -> None:
    """Build, tune and publish the index planned for so many rows, and keep what that took."""
    faiss.omp_set_num_threads(1)
    data, plan = Data(folder, rows, dim), plan_index(rows, dim, budget)
    if plan.params is None:
        return
    file, manifest, facts = paths(folder, budget)
    on_disk = OnDisk(folder, plan.run_rows) if plan.mapped else None
    with OwnMemory() as memory:
        index, building = spent(lambda: build(data.vectors, plan.params, on_disk=on_disk))
        _, tuning = spent(lambda: tuned_as_a_library(index, data))
        save(index, file, manifest, vectors=data.vectors, fingerprint=FINGERPRINT)
    size = file.stat().st_size
    done = Built(index.key, building, tuning, memory.most, memory_told("VmHWM"), size)
    facts.write_text(json.dumps(asdict(done)))


def asked(folder: Path, rows: int, dim: int, budget: int) -> str:
    """The row of this size."""
    faiss.omp_set_num_threads(1)
    data = Data(folder, rows, dim)
    file, manifest, facts = paths(folder, budget)
    if facts.exists():
        took = Built(**json.loads(facts.read_text()))
        ours = {"fingerprint": FINGERPRINT, "dim": dim, "max_slots": rows, "vectors": data.vectors}
        found, (_, loading) = spent(lambda: load(file, manifest, **ours))
        assert found.index is not None, found.reason
        searcher = Searcher(data.vectors, found.index)
        cells = [
            took.name,
            *(f"{used:.0f} ({clock:.0f})" for used, clock in (took.build, took.tune)),
            f"{took.own / 1e9:.2f} GB ({took.peak / 1e9:.1f})",
            f"{took.size / rows:.0f}",
            f"{loading * 1e3:.0f} ms",
        ]
    else:
        searcher = Searcher(data.vectors)
        cells = ["none", "–", "–", "–", f"{2 * dim}", "–"]
    for kind in KINDS:

        def ask(query: Any, kind: Any = kind) -> Any:
            return searcher.search(query, K, kind=kind)[1][0]

        share = recall(ask, data.vectors, data.held[kind], data.held_kth[kind])
        cells += [f"{share:.3f}", str(timed(ask, data.held[kind]))]
    return f"| {rows:,} | {' | '.join(cells)} |"


def main() -> None:
    """Read the options, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--memory", type=int, default=default_budget(), help="the budget of an index, bytes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        table(options.folder or Path(temporary), options)


def table(kept: Path, options: argparse.Namespace) -> None:
    """Print it, row by row."""
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
    # A new process for each piece of work: the peak of its memory is its own.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as alone:
        for rows in map(int, options.sizes.split(",")):
            folder = kept / str(rows)
            sizes = (folder, rows, options.dim, options.memory)
            alone.submit(made, folder, rows, options.dim).result()
            if not paths(folder, options.memory)[2].exists():
                alone.submit(built, *sizes).result()
            print(alone.submit(asked, *sizes).result(), flush=True)


if __name__ == "__main__":
    main()
