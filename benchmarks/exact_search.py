"""Time exact search: ours beside plain NumPy and FAISS' float32 index, interleaved in one run.

    python benchmarks/exact_search.py [--rows 100000] [--dim 512] [--queries 30]

The rows lie in a file that is mapped, as in a library. "load" is what comes before the first answer: a copy
to float32, filling an index. Memory is the growth of the process, of which "mapped" is the file itself and
can be dropped by the system at any time. A cold start of our own search, with and without FAISS, is measured
in processes of their own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clipsearch.index import exact
from clipsearch.index.engine import faiss
from clipsearch.index.exact import ExactSearch

K = 10
COLD = """
import sys, time
started = time.perf_counter()
import numpy as np
from clipsearch.index import exact
path, rows, dim, budget = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
exact.NUMPY_BUDGET = budget
query = np.random.default_rng(0).standard_normal(dim)
vectors = np.memmap(path, "<f2", "r", shape=(rows, dim))
ready = time.perf_counter()
exact.ExactSearch(vectors).search(query, 10)
print(f"{(time.perf_counter() - ready) * 1e3:.0f}")
"""


def write_rows(path: Path, rows: int, dim: int) -> None:
    """Fill `path` with random unit rows in half precision."""
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, rows, 10_000):
            part = random.standard_normal((min(10_000, rows - start), dim), dtype=np.float32)
            part /= np.linalg.norm(part, axis=1, keepdims=True)
            file.write(part.astype(np.float16).tobytes())


def resident() -> dict[str, float]:
    """Resident memory of this process in MB: its own, and mapped from files (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        key: int(lines[name].split()[0]) / 1e3 for key, name in (("own", "RssAnon"), ("mapped", "RssFile"))
    }


def candidates(vectors: np.ndarray) -> dict[str, Callable[[], Callable[[np.ndarray], object]]]:
    """Each name with a function that loads and returns a function that searches for one query (1, d)."""

    def ours() -> Callable[[np.ndarray], object]:
        search = ExactSearch(vectors)
        search._by_faiss = lambda count, queries: True
        search.search(np.ones(vectors.shape[1]), K)
        return lambda query: search.search(query, K)

    def ours_numpy() -> Callable[[np.ndarray], object]:
        search = ExactSearch(vectors)
        search._by_faiss = lambda count, queries: False
        return lambda query: search.search(query, K)

    def float32_product() -> Callable[[np.ndarray], object]:
        wide = vectors.astype(np.float32)

        def search(query: np.ndarray) -> object:
            scores = wide @ query[0]
            best = np.argpartition(scores, len(scores) - K)[-K:]
            return best[np.argsort(-scores[best])]

        return search

    def faiss_flat() -> Callable[[np.ndarray], object]:
        index = faiss().IndexFlatIP(vectors.shape[1])
        for start in range(0, len(vectors), 10_000):
            index.add(vectors[start : start + 10_000].astype(np.float32))
        return lambda query: index.search(query, K)

    return {
        "clipsearch (fp16 scan, no copy)": ours,
        "clipsearch (NumPy, no copy)": ours_numpy,
        "NumPy float32 product": float32_product,
        "FAISS IndexFlatIP": faiss_flat,
    }


def cold(path: Path, rows: int, dim: int, budget: int) -> float:
    """Milliseconds of a first query in a new process: the median of five."""
    command = [sys.executable, "-c", COLD, str(path), str(rows), str(dim), str(budget)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(5)]
    return sorted(float(run) for run in runs)[2]


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.f16"
        write_rows(path, options.rows, options.dim)
        vectors = np.memmap(path, "<f2", "r", shape=(options.rows, options.dim))
        vectors[:: max(1, options.rows // 1_000)].sum()
        faiss()
        searches, loads = {}, {}
        for name, load in candidates(vectors).items():
            before, started = resident(), time.perf_counter()
            searches[name] = load()
            after = resident()
            loads[name] = (time.perf_counter() - started, *(after[key] - before[key] for key in before))
        random, times = np.random.default_rng(1), {name: [] for name in searches}
        for _ in range(options.queries):
            query = random.standard_normal((1, options.dim)).astype(np.float32)
            query /= np.linalg.norm(query)
            for name, search in searches.items():
                started = time.perf_counter()
                search(query)
                times[name].append((time.perf_counter() - started) * 1e3)
        print(f"{options.rows:,} × {options.dim}, k = {K}, {options.queries} queries, interleaved")
        print(f"{'':34}{'median':>9}{'p95':>9}{'load':>9}{'own':>9}{'mapped':>9}")
        for name, taken in times.items():
            seconds, own, mapped = loads[name]
            print(
                f"{name:34}{np.median(taken):6.1f} ms{np.percentile(taken, 95):6.1f} ms"
                f"{seconds * 1e3:6.0f} ms{own:6.0f} MB{mapped:6.0f} MB"
            )
        print("first query of a new process, after `import numpy`:")
        for rows in (1_000, 10_000, options.rows):
            always, never = cold(path, rows, options.dim, 0), cold(path, rows, options.dim, 1 << 60)
            chosen = cold(path, rows, options.dim, exact.NUMPY_BUDGET)
            print(
                f"  {rows:>9,} rows: FAISS {always:.0f} ms, NumPy {never:.0f} ms, as chosen {chosen:.0f} ms"
            )


if __name__ == "__main__":
    main()
