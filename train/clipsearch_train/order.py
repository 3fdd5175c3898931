"""Which samples each step takes, as a function of seed and step alone: a run can go on from any step.

Steps are cut from one endless sequence of positions: step s takes positions s·batch to (s + 1)·batch - 1.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
# What tells the random streams of one seed apart.
_SAMPLES, _CHUNKS, _WITHIN, _RESAMPLED = range(11, 15)


class Epochs:
    """Each of `count` samples exactly once an epoch, every epoch in another order."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self._count, self._batch, self._seed = count, batch, seed
        self._permutation = functools.lru_cache(maxsize=2)(self._permute)

    def rows(self, step: int) -> Numbers:
        """The samples of a step: (batch,). A batch may hold the end of an epoch and the start of the next."""
        positions = np.arange(step * self._batch, (step + 1) * self._batch)
        epochs, places = positions // self._count, positions % self._count
        return np.array(
            [self._permutation(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)]
        )

    def _permute(self, epoch: int) -> Numbers:
        return np.random.default_rng([self._seed, _SAMPLES, epoch]).permutation(self._count)


class Resampled:
    """Every batch drawn anew, without repeats in a batch; sample i with probability ∝ `weights[i]`."""

    def __init__(self, weights: npt.NDArray[np.float64], batch: int, seed: int) -> None:
        self._share, self._batch, self._seed = weights / weights.sum(), batch, seed

    def rows(self, step: int) -> Numbers:
        """The samples of a step: (batch,)."""
        rng = np.random.default_rng([self._seed, step])
        return rng.choice(len(self._share), self._batch, replace=False, p=self._share)


@dataclass(frozen=True)
class Pool:
    """Chunks that are mixed with each other: the samples of `chunks`, in this order, taken as `order` says.

    `start` is the position of the first of them in the endless sequence.
    """

    start: int
    chunks: tuple[int, ...]
    order: Numbers

    @property
    def stop(self) -> int:
        """The position behind the last sample."""
        return self.start + len(self.order)


class PooledEpochs:
    """Each sample once an epoch, of data that do not fit in memory.

    Every epoch shuffles the chunks (runs of samples that lie together on the disk), puts about `shuffle`
    samples at a time into a pool, and shuffles those.
    """

    def __init__(self, sizes: Sequence[int], shuffle: int, seed: int) -> None:
        self._sizes, self._shuffle, self._seed = np.asarray(sizes), shuffle, seed
        self._total = int(self._sizes.sum())
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

    def pool(self, position: int) -> Pool:
        """The pool that holds a position of the endless sequence."""
        epoch, place = divmod(position, self._total)
        chunks, cuts, starts = self._plan(epoch)
        number = bisect.bisect_right(starts, place) - 1
        chosen = chunks[cuts[number] : cuts[number + 1]]
        count = int(self._sizes[chosen].sum())
        order = np.random.default_rng([self._seed, _WITHIN, epoch, number]).permutation(count)
        return Pool(epoch * self._total + starts[number], tuple(chosen.tolist()), order)

    def _make_plan(self, epoch: int) -> tuple[Numbers, list[int], list[int]]:
        """The chunks in the order of an epoch, where each pool begins among them, and its first position."""
        chunks = np.random.default_rng([self._seed, _CHUNKS, epoch]).permutation(len(self._sizes))
        cuts, starts, held, seen = [0], [0], 0, 0
        for place, size in enumerate(self._sizes[chunks].tolist()):
            if held and held + size > self._shuffle:
                cuts.append(place)
                starts.append(seen)
                held = 0
            held, seen = held + size, seen + size
        return chunks, [*cuts, len(chunks)], starts


class PooledResampled:
    """Pools of `shuffle` samples whose chunks are drawn with probability ∝ `weights`, with repeats.

    A chunk comes as a whole, so that each of its samples is as likely as its chunk.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], shuffle: int, batch: int, seed: int
    ) -> None:
        self._sizes, self._seed = np.asarray(sizes), seed
        self._share = np.asarray(weights) / np.sum(weights)
        self._length = max(1, shuffle // batch) * batch
        # Enough chunks nearly always: the mean is what is needed plus a tenth and eight.
        mean = float((self._sizes * self._share).sum())
        self._draws = int(1.1 * self._length / mean) + 8

    def pool(self, position: int) -> Pool:
        """The pool that holds a position of the endless sequence."""
        number = position // self._length
        rng = np.random.default_rng([self._seed, _RESAMPLED, number])
        chunks = rng.choice(len(self._sizes), self._draws, p=self._share)
        while self._sizes[chunks].sum() < self._length:
            chunks = np.concatenate([chunks, rng.choice(len(self._sizes), self._draws, p=self._share)])
        needed = int(np.searchsorted(np.cumsum(self._sizes[chunks]), self._length)) + 1
        chunks = chunks[:needed]
        order = rng.permutation(int(self._sizes[chunks].sum()))[: self._length]
        return Pool(number * self._length, tuple(chunks.tolist()), order)
