"""Shards too large for memory: an index of runs of samples that can be read one by one.

Shards are read once, headers and texts only, to learn where every run of `CHUNK` samples lies and what is
wrong with which sample; the index is kept, so a run that goes on need not do it again. Samples of a
compressed shard can only be reached from its start, so such a shard is one chunk.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clipsearch.durable import make_directory, replace
from clipsearch.errors import TrainingError
from clipsearch_train.data import Sample, ShardReport, open_shard, parse, raw_samples, reading

CHUNK = 128
"""Samples that are read in one go."""
UNTOLD = "without a caption or label"
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")


class Chunk(Protocol):
    """A run of samples of one source that is read in one go."""

    @property
    def count(self) -> int:
        """How many samples it has."""

    @property
    def source(self) -> str:
        """The source of all of them."""

    def load(self) -> list[Sample]:
        """Its samples. Raises TrainingError."""


@dataclass(frozen=True)
class HeldChunk:
    """Samples that are in memory, such as those of a folder, whose images are files."""

    samples: Sequence[Sample]

    @property
    def count(self) -> int:
        """How many samples it has."""
        return len(self.samples)

    @property
    def source(self) -> str:
        """The source of all of them."""
        return self.samples[0].source

    def load(self) -> list[Sample]:
        """Its samples."""
        return list(self.samples)


@dataclass(frozen=True)
class TarChunk:
    """The bytes `start` to `stop` of a shard, of whose usable samples `skip` are left out and `count` taken.

    `stop` is None where a shard can only be read as a whole. With `untold` samples of which nothing is said
    are usable.
    """

    path: Path
    start: int
    stop: int | None
    skip: int
    count: int
    source: str
    untold: bool

    def load(self) -> list[Sample]:
        """Its samples. Raises TrainingError for a shard that is not what it was when it was indexed."""
        with open_shard(self.path) as file, reading(self.path):
            if self.stop is not None:
                file.seek(self.start)
                # Two empty blocks end a tar.
                file = io.BytesIO(file.read(self.stop - self.start) + bytes(1024))
            usable = (sample for _, sample in _usable(file, ShardReport(), self.untold))
            samples = list(itertools.islice(usable, self.skip, self.skip + self.count))
        if len(samples) != self.count or any(sample.source != self.source for sample in samples):
            raise TrainingError(f"The shard {self.path} has changed since the run began; start it again.")
        return samples


def held_chunks(samples: Sequence[Sample]) -> list[HeldChunk]:
    """Cut samples into chunks."""
    return [
        HeldChunk(run[start : start + CHUNK])
        for _, group in itertools.groupby(samples, lambda sample: sample.source)
        for run in [list(group)]
        for start in range(0, len(run), CHUNK)
    ]


def index_shards(
    paths: Sequence[Path],
    limit: int | None,
    cache: Path,
    report: Callable[[str, int, int], None],
    *,
    untold: bool = False,
) -> tuple[list[TarChunk], ShardReport]:
    """The chunks of tar shards and what was left out; at most `limit` samples of each shard are used.

    Samples of which nothing is said are left out unless `untold`.
    `cache` is a file that remembers shards that have not changed. Raises TrainingError when a shard is
    missing, cut off or no tar, or when no usable sample is left.
    """
    known = _read_cache(cache)
    found: dict[str, list[Any]] = {}
    chunks: list[TarChunk] = []
    skips = ShardReport()
    for done, path in enumerate(paths, start=1):
        with open_shard(path) as file:
            state = os.fstat(file.fileno())
        key = json.dumps([str(path), state.st_size, state.st_mtime_ns, limit, CHUNK, untold])
        rows, skipped = found[key] = known[key] if key in known else _index(path, limit, untold)
        chunks += [TarChunk(path, *row) for row in rows]
        skips.add(ShardReport(0, skipped))
        report("indexing shards", done, len(paths))
    if found != known:
        make_directory(cache.parent)
        replace(cache, json.dumps(found).encode(), name="cache")
    if not chunks:
        raise TrainingError(f"No usable sample in {', '.join(str(path) for path in paths) or 'no shard'}.")
    return chunks, skips


def _index(path: Path, limit: int | None, untold: bool) -> list[Any]:
    """[the fields of each chunk, the keys that were skipped by reason]."""
    with open_shard(path) as file, reading(path):
        compressed = file.read(6).startswith(_COMPRESSED)
        file.seek(0)
        end = path.stat().st_size
        report = ShardReport()
        places: list[tuple[int, str]] = []
        for offset, sample in _usable(file, report, untold, seekable=not compressed, with_images=False):
            if len(places) == limit:
                end = offset
                break
            places.append((offset, sample.source))
    rows: list[list[Any]] = []
    for source, group in itertools.groupby(enumerate(places), lambda place: place[1][1]):
        run = [(number, offset) for number, (offset, _) in group]
        if compressed:
            rows.append([0, None, run[0][0], len(run), source, untold])
            continue
        for part in (run[first : first + CHUNK] for first in range(0, len(run), CHUNK)):
            following = part[-1][0] + 1
            stop = places[following][0] if following < len(places) else end
            rows.append([part[0][1], stop, 0, len(part), source, untold])
    return [rows, report.skipped]


def _usable(
    file: Any, report: ShardReport, untold: bool, *, seekable: bool = False, with_images: bool = True
) -> Iterator[tuple[int, Sample]]:
    """The samples of a tar, `untold` or only those about which something is said, and where each starts."""
    for offset, key, parts in raw_samples(file, seekable=seekable, with_images=with_images):
        sample = parse(key, parts, report)
        if sample is not None and not (untold or sample.told):
            report.skip(UNTOLD, key)
        elif sample is not None:
            yield offset, sample


def _read_cache(path: Path) -> dict[str, list[Any]]:
    """The index of earlier shards; nothing where the file is not there or not ours."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
