"""Finding the images of tar shards, against `tarfile` and against a folder of as many files.

    python -m benchmarks.shard_scan [--images 100000] [--runs 5]

Ten shards as webdataset writes them, an image of 300 bytes and a caption each; nothing is decoded. "Again" is
a scan to which all is known. "index" is the whole command where nothing has changed: with shards that it need
not open, and after they were forgotten. All by turns; medians of seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset

from benchmarks.made import fill_ours, run
from clipsearch.encoder import load_model
from clipsearch.folder import LibraryFolder
from clipsearch_indexer.scan import FileStat, scan

SHARDS = 10


def make(base: Path, images: int) -> None:
    """The shards, and a folder with a file for each image."""
    (base / "shards").mkdir()
    for shard in range(SHARDS):
        folder = base / "files" / f"{shard:05}"
        folder.mkdir(parents=True)
        with webdataset.TarWriter(str(base / "shards" / f"{shard:05}.tar")) as writer:
            for number in range(images // SHARDS):
                key = f"{shard:05}{number:05}"
                writer.write({"__key__": key, "jpg": bytes(300), "txt": f"caption {number}"})
                (folder / f"{key}.jpg").write_bytes(bytes(300))


def again(folder: Path) -> Callable[[], int]:
    """A scan that finds all as it was."""
    found = [entry for entry in scan(os.fsencode(folder)) if isinstance(entry, FileStat)]
    known = {entry.path: (entry.path, *entry[1:5]) for entry in found}
    return lambda: len(list(scan(os.fsencode(folder), known=dict(known))))


def with_tarfile(folder: Path) -> int:
    """What Python's own module takes to list the members."""
    listed = 0
    for path in sorted(folder.iterdir()):
        with tarfile.open(path) as archive:
            listed += len(archive.getmembers())
    return listed


def command(base: Path) -> Callable[[], int]:
    """`clipsearch index` where nothing has changed."""
    model = load_model("mini", device="cpu")
    found = [entry for entry in scan(os.fsencode(base / "shards")) if isinstance(entry, FileStat)]
    vectors = np.random.default_rng(0).standard_normal((len(found), model.dim), dtype=np.float32)
    known = (model.fingerprint, model.name, model.source)
    fill_ours(base / "library", base / "shards", found, vectors, model=known)

    def index() -> int:
        run([sys.executable, "-m", "clipsearch", "index", "--library", str(base / "library")])
        return len(found)

    index()  # builds the index of so many vectors
    return index


def forget(base: Path) -> None:
    """Have the shards opened by the next run."""
    with (
        LibraryFolder.open(base / "library") as folder,
        folder.writer() as writer,
        writer.changing() as catalog,
    ):
        catalog.shards.forget([shard.path for shard in catalog.known.shards(1)])


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        make(base, options.images)
        index = command(base)
        ways: dict[str, Callable[[], int]] = {
            "files, first": lambda: len(list(scan(os.fsencode(base / "files")))),
            "files, again": again(base / "files"),
            "shards, first": lambda: len(list(scan(os.fsencode(base / "shards")))),
            "shards, again": again(base / "shards"),
            "shards, tarfile": lambda: with_tarfile(base / "shards"),
            "index, opened": index,
            "index, not opened": index,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.runs):
            for name, way in ways.items():
                if name == "index, opened":
                    forget(base)
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
    print(f"{options.images:,} images, one process")
    for name, found in seconds.items():
        print(f"{name:18} {statistics.median(found):6.2f} s")


if __name__ == "__main__":
    main()
