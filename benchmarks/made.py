"""What benchmarks run on and how commands are timed: many small files, libraries of random vectors."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.clip_rows import unit
from clipsearch.folder import Batch, LibraryFolder
from clipsearch.metadata import PhotoMetadata
from clipsearch.store import FoundFile, NewImage
from clipsearch_indexer.scan import FileStat, filesystem_id

FOLDER_SIZE = 1000
CONTENT = b"\xff\xd8\xff%012d"
WRITTEN = 1_600_000_000
ROWS_A_COMMIT = 10_000

Vectors = npt.NDArray[np.float32 | np.float16]


# A process counts the memory of the one that it was forked from as its own, so a small one comes between.
_LAUNCHER = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
nowhere = subprocess.DEVNULL
done = subprocess.run(sys.argv[1:], stdin=nowhere, stdout=subprocess.PIPE, stderr=nowhere)
wall, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024,
    done.stdout.decode(errors="replace")]))
"""


@dataclass(frozen=True)
class Run:
    """One command: seconds on the clock, seconds of processors, peak memory in MB, what it wrote."""

    wall: float
    cpu: float
    peak_mb: float
    output: str


def as_installed(**more: str) -> dict[str, str]:
    """The environment of a command as users run it, who do not compile it anew each time."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | more


def run(command: Sequence[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end; CalledProcessError if it fails."""
    launched = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, *command],
        stdout=subprocess.PIPE,
        cwd=cwd,
        env=as_installed(**(environment or {})),
        check=True,
    )
    code, wall, cpu, peak, output = json.loads(launched.stdout)
    if code:
        raise subprocess.CalledProcessError(code, list(command))
    return Run(wall, cpu, peak, output)


def interleaved(rounds: int, **ways: Callable[[], Run]) -> dict[str, list[Run]]:
    """Each way `rounds` times, by turns, after one turn that does not count."""
    found: dict[str, list[Run]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            done = way()
            if turn:
                found[name].append(done)
    return found


def table(found: Mapping[str, Sequence[Run]], base: str) -> None:
    """Print medians, and the ratio of each to `base`."""
    print(f"{'':28} {'wall':>9} {'CPU':>9} {'memory':>9}   of {base}")
    reference = statistics.median(one.wall for one in found[base])
    for name, runs in found.items():
        wall = statistics.median(one.wall for one in runs)
        cpu = statistics.median(one.cpu for one in runs)
        peak = statistics.median(one.peak_mb for one in runs)
        print(f"{name:28} {wall:7.2f} s {cpu:7.2f} s {peak:6.0f} MB   {wall / reference:.3f}")


def files(folder: Path, count: int) -> list[FileStat]:
    """`count` small files, a thousand to a folder, named like photos; each another content."""
    found = []
    for number in range(count):
        place = folder / f"{number // FOLDER_SIZE:04d}"
        if number % FOLDER_SIZE == 0:
            place.mkdir(parents=True, exist_ok=True)
        path = place / f"IMG_{number:07d}.jpg"
        path.write_bytes(CONTENT % number)
        os.utime(path, (WRITTEN + number, WRITTEN + number))
        found.append(FileStat.of(os.fsencode(path), path.stat()))
    return found


def absent(folder: Path, count: int) -> list[FileStat]:
    """What `files` would return, of files that are not there."""
    size = len(CONTENT % 0)
    return [
        FileStat(
            os.fsencode(folder / f"{number // FOLDER_SIZE:04d}" / f"IMG_{number:07d}.jpg"),
            size=size,
            mtime_ns=(WRITTEN + number) * 10**9,
            ctime_ns=(WRITTEN + number) * 10**9,
            inode=number,
            device=0,
        )
        for number in range(count)
    ]


def unit_vectors(count: int, dim: int) -> Vectors:
    """Random unit rows (count, dim)."""
    return unit(np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32))


def fill_ours(
    library: Path, root: Path, found: Sequence[FileStat], vectors: Vectors, *, model: tuple[str, str, str]
) -> None:
    """A library in which the files are known with these embeddings; `model`: fingerprint, name, source.

    `root` is there, the files need not be; `vectors` may be in half precision.
    """
    known = PhotoMetadata(width=4000, height=3000, format="JPEG")
    with LibraryFolder.create(library) as folder, folder.writer() as writer:
        space = writer.ensure_space(*model, vectors.shape[1])
        with writer.changing() as catalog:
            root_id = catalog.roots.add(os.fsencode(root), filesystem_id(os.fsencode(root)))
        for start in range(0, len(found), ROWS_A_COMMIT):
            later = time.time_ns() + 10**10
            part = found[start : start + ROWS_A_COMMIT]
            images = [
                NewImage(
                    number.to_bytes(16, "big"),
                    file.size,
                    known,
                    [FoundFile(root_id, file, later)],
                )
                for number, file in enumerate(part, start)
            ]
            rows = unit(vectors[start : start + ROWS_A_COMMIT].astype(np.float32))
            writer.commit(Batch(images=images, vectors=rows, space_id=space.id))
