"""The samples of a run, from shards, folders and a library, in memory or streamed, and which a step takes."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from clipsearch.errors import ImageError, TrainingError, UsageError
from clipsearch_train import recipe as recipes
from clipsearch_train.chunks import UNTOLD, Chunk, held_chunks, index_shards
from clipsearch_train.data import Sample, ShardReport, find_shards, read_shards
from clipsearch_train.folders import read_folder
from clipsearch_train.kinds import broadened
from clipsearch_train.order import Epochs, Pool, PooledEpochs, PooledResampled, Resampled

Report = Callable[[str, int, int], None]
Drawn = list[tuple[int, Sample]]
# Captions from which a tokenizer is learnt; more change little.
TOKENIZER_TEXTS = 200_000


class Source(Protocol):
    """Where batches come from. A sample's number is its place among all samples."""

    report: ShardReport
    counts: Counter[str]

    def draw(self, step: int) -> Drawn:
        """The numbered samples of a step; the same for the same step, whenever it is asked."""

    def texts(self) -> Iterator[str]:
        """Captions and labels to learn a tokenizer from."""

    def close(self) -> None:
        """Stop reading ahead."""


class MemorySource:
    """Samples that are kept in memory, still encoded."""

    def __init__(self, samples: Sequence[Sample], report: ShardReport, config: recipes.Recipe) -> None:
        """Raises TrainingError where there are fewer samples than a batch, UsageError for unknown weights."""
        self.samples, self.report = samples, report
        self.counts = Counter(sample.source for sample in samples)
        weights = source_weights(self.counts, config.data)
        shares = np.array([weights[sample.source] for sample in samples])
        batch = config.optim.batch
        require_batch(int((shares > 0).sum()), batch)
        self._order: Epochs | Resampled = (
            Epochs(len(samples), batch, config.seed)
            if config.data.order == "epochs"
            else Resampled(shares, batch, config.seed)
        )

    def draw(self, step: int) -> Drawn:
        """The numbered samples of a step."""
        return [(row, self.samples[row]) for row in self._order.rows(step).tolist()]

    def texts(self) -> Iterator[str]:
        """Every caption and label."""
        return (text for sample in self.samples for text in (*sample.captions, *sample.labels))

    def close(self) -> None:
        """Nothing is read ahead."""


class StreamSource:
    """Samples that are read when they are needed: one pool is drawn from while the next is read.

    Memory holds two pools of `data.shuffle` samples (or of one chunk, where that is larger), still encoded,
    however many samples there are.
    """

    def __init__(self, chunks: Sequence[Chunk], report: ShardReport, config: recipes.Recipe) -> None:
        """Raises TrainingError where there are fewer samples than a batch, UsageError for unknown weights."""
        self.report = report
        self.counts: Counter[str] = Counter()
        for chunk in chunks:
            self.counts[chunk.source] += chunk.count
        weights = source_weights(self.counts, config.data)
        self._chunks = [chunk for chunk in chunks if weights[chunk.source] > 0]
        sizes = [chunk.count for chunk in self._chunks]
        self._worded = broadened if config.data.kinds else _as_it_is
        self._batch = config.optim.batch
        require_batch(sum(sizes), self._batch)
        self._first = [0, *itertools.accumulate(sizes)]
        shares = [weights[chunk.source] for chunk in self._chunks]
        self._order: PooledEpochs | PooledResampled = (
            PooledEpochs(sizes, config.data.shuffle, config.seed)
            if config.data.order == "epochs"
            else PooledResampled(sizes, shares, config.data.shuffle, self._batch, config.seed)
        )
        self._reader = ThreadPoolExecutor(1)
        self._pools: dict[int, tuple[Pool, Future[Drawn]]] = {}

    def draw(self, step: int) -> Drawn:
        """The numbered samples of a step. Raises TrainingError for a shard that has changed."""
        position, end = step * self._batch, (step + 1) * self._batch
        drawn: Drawn = []
        while position < end:
            pool, samples = self._pool(position)
            stop = min(end, pool.stop)
            drawn += [samples.result()[row] for row in pool.order[position - pool.start : stop - pool.start]]
            position = stop
        return drawn

    def _pool(self, position: int) -> tuple[Pool, Future[Drawn]]:
        current = self._pending(position)
        # What is neither drawn from nor next is let go.
        following = self._pending(current[0].stop)
        self._pools = {entry[0].start: entry for entry in (current, following)}
        return current

    def _pending(self, position: int) -> tuple[Pool, Future[Drawn]]:
        for entry in self._pools.values():
            if entry[0].start <= position < entry[0].stop:
                return entry
        pool = self._order.pool(position)
        return pool, self._reader.submit(self._load, pool.chunks)

    def _load(self, numbers: Sequence[int]) -> Drawn:
        load = functools.lru_cache(maxsize=None)(lambda number: self._chunks[number].load())
        return [
            (self._first[number] + place, self._worded(sample))
            for number in numbers
            for place, sample in enumerate(load(number))
        ]

    def texts(self) -> Iterator[str]:
        """The captions and labels of chunks taken at random, about 200,000."""
        order = np.random.default_rng(0).permutation(len(self._chunks)).tolist()
        samples = (self._worded(sample) for number in order for sample in self._chunks[number].load())
        texts = (text for sample in samples for text in (*sample.captions, *sample.labels))
        return itertools.islice(texts, TOKENIZER_TEXTS)

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.shutdown(wait=False, cancel_futures=True)


def _as_it_is(sample: Sample) -> Sample:
    return sample


def source_weights(counts: Counter[str], data: recipes.Data) -> dict[str, float]:
    """The weight of every source. Raises UsageError for a weight whose source is not there."""
    unknown = sorted(set(data.weights) - set(counts))
    if unknown:
        raise UsageError(
            f"The recipe's data.weights names the source {unknown[0]!r}; the shards hold "
            f"{', '.join(repr(source) for source in sorted(counts))}."
        )
    return {source: data.weights.get(source, 1.0) for source in counts}


def require_batch(samples: int, batch: int) -> None:
    """Raise TrainingError where there are fewer samples than a batch."""
    if samples < batch:
        raise TrainingError(f"{samples} samples are fewer than a batch of {batch}.")


def open_source(
    config: recipes.Recipe,
    data: Path,
    cache: Path,
    report: Report,
    extra: tuple[Sequence[Sample], ShardReport] | None = None,
) -> tuple[Source, list[Sample]]:
    """All that a recipe trains on, and the samples that it holds out for validation.

    `extra` are samples from elsewhere, such as a library, and what was left out of those. Raises
    TrainingError for data that cannot be used, UsageError for a recipe that does not fit them.
    """
    settings = config.data
    samples, skips = _file_samples(settings, data)
    if extra is not None:
        samples += extra[0]
        skips.add(extra[1])
    paths = find_shards(data, settings.train)
    # Without a teacher an image that nothing is said about teaches nothing.
    untold = config.teacher is not None or (config.distill is not None and config.distill.features > 0)
    if settings.stream:
        chunks: list[Chunk] = list(held_chunks(samples if untold else _told(samples, skips)))
        if paths:
            kept = cache / "shards.json"
            indexed, left_out = index_shards(paths, settings.limit, kept, report, untold=untold)
            chunks += indexed
            skips.add(left_out)
        skips.samples = sum(chunk.count for chunk in chunks)
        return StreamSource(chunks, skips, config), []
    if paths:
        packed, left_out = read_shards(paths, settings.limit)
        samples = packed + samples
        skips.add(left_out)
    if not untold:
        samples = _told(samples, skips)
    if settings.kinds:
        samples = [broadened(sample) for sample in samples]
    samples, held = hold_out(samples, settings.hold_out)
    skips.samples = len(samples)
    return MemorySource(samples, skips, config), held


def _file_samples(settings: recipes.Data, data: Path) -> tuple[list[Sample], ShardReport]:
    samples: list[Sample] = []
    skips = ShardReport()
    for folder in settings.folders:
        found, left_out = read_folder(data, folder, settings.limit)
        samples += found
        skips.add(left_out)
    return samples, skips


def _told(samples: Sequence[Sample], skips: ShardReport) -> list[Sample]:
    for sample in samples:
        if not sample.told:
            skips.skip(UNTOLD, sample.key)
    return [sample for sample in samples if sample.told]


def hold_out(samples: Sequence[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on and a share to validate on, the same share of the same samples every time.

    Every source, and every first label of samples without captions, gives its part, so that classes are not
    left out by chance; within it what a sample holds decides, or its key. Copies of an image are all in it or
    none. The parts are those of Sainte-Laguë's method: the nth of m comes at (n - 1/2) / m.
    """
    count = round(share * len(samples))
    if share and samples:
        count = max(1, count)
    groups: defaultdict[tuple[str, ...], list[tuple[bytes, list[int]]]] = defaultdict(list)
    for rows in copies(samples) if count else ():
        first = samples[rows[0]]
        group = (first.source, *(() if first.captions else first.labels[:1]))
        groups[group].append((min(key_rank(samples[row].content or samples[row].key) for row in rows), rows))
    turns = [
        ((place + 0.5) / len(group), rank, rows)
        for group in groups.values()
        for place, (rank, rows) in enumerate(sorted(group))
    ]
    held: set[int] = set()
    for _, _, rows in sorted(turns):
        if len(held) < count:
            held.update(rows)
    return (
        [sample for row, sample in enumerate(samples) if row not in held],
        [samples[row] for row in sorted(held)],
    )


def copies(samples: Sequence[Sample]) -> list[list[int]]:
    """The rows of each content, by their first; files are read only where others are of the same size."""
    sizes = [_size(sample) for sample in samples]
    common = {size for size, count in Counter(sizes).items() if count > 1 and size >= 0}
    groups: dict[bytes | str | int, list[int]] = {}
    for row, (sample, size) in enumerate(zip(samples, sizes, strict=True)):
        content = sample.content or (_content(sample) if size in common else row)
        groups.setdefault(content, []).append(row)
    return list(groups.values())


def _size(sample: Sample) -> int:
    try:
        return len(sample.image) if isinstance(sample.image, bytes) else sample.image.stat().st_size
    except OSError:  # it will be counted when it cannot be decoded
        return -1


def _content(sample: Sample) -> bytes:
    try:
        return hashlib.blake2b(sample.encoded(), digest_size=16).digest()
    except ImageError:
        return sample.key.encode("utf-8", "surrogateescape")


def key_rank(key: str) -> bytes:
    """Something to sort keys by that has nothing to do with their order or their content."""
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).digest()
