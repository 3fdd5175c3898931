"""Finding the images of tar shards, against `tarfile` and against a folder of as many files.

    python -m benchmarks.shard_scan [--images 100000] [--runs 5]

Ten shards as webdataset writes them, an image of 300 bytes and a caption each; nothing is decoded. "Again" is
a scan to which all is known. All by turns; medians of seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import webdataset

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


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        make(base, options.images)
        ways: dict[str, Callable[[], int]] = {
            "files, first": lambda: len(list(scan(os.fsencode(base / "files")))),
            "files, again": again(base / "files"),
            "shards, first": lambda: len(list(scan(os.fsencode(base / "shards")))),
            "shards, again": again(base / "shards"),
            "shards, tarfile": lambda: with_tarfile(base / "shards"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.runs):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
    print(f"{options.images:,} images, one process")
    for name, found in seconds.items():
        print(f"{name:16} {statistics.median(found):6.2f} s")


if __name__ == "__main__":
    main()
