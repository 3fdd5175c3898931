"""Drawing batches: which samples, what is said of each, and their augmented pixels.

Everything random about place k of step s comes from a generator seeded with (seed, s, k), so a resumed run
draws what an uninterrupted one would have, and several processes draw together what one would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.errors import TrainingError
from clipsearch_train import recipe as recipes
from clipsearch_train.corpus import say
from clipsearch_train.data import Sample, decode, random_resized_crop, shrunk


@dataclass(frozen=True)
class Batch:
    """One step's input.

    `rows` index the samples; `pixels` are uint8 (n, size, size, 3); `texts` one each, or None; `extra` are
    texts without images.
    """

    rows: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]
    texts: list[str | None]
    extra: list[str]


class BatchSource:
    """Draws the batch of any step; the next one is prepared in a thread while the towers work.

    `corrupt` names the images that could not be decoded and were left out of their batches.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        corpus: Sequence[str],
        config: recipes.Recipe,
        part: Callable[[int], slice] = slice,
    ) -> None:
        """`part` says which of n places of the whole batch are made here, where processes share it."""
        self._samples = samples
        self._corpus = corpus
        self._config = config
        self._part = part
        self._pool = ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[Batch]] = {}
        weights = np.array([config.data.weights.get(sample.source, 1.0) for sample in samples])
        usable = int((weights > 0).sum())
        if usable < config.optim.batch:
            raise TrainingError(f"{usable} samples are fewer than a batch of {config.optim.batch}.")
        self._share = weights / weights.sum()
        self.corrupt: set[str] = set()

    def get(self, step: int) -> Batch:
        """The batch of a step; starts on the next one."""
        pending = self._ahead.pop(step, None) or self._pool.submit(self._draw, step)
        self._ahead = {step + 1: self._pool.submit(self._draw, step + 1)}
        return pending.result()

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _draw(self, step: int) -> Batch:
        config = self._config
        rng = np.random.default_rng([config.seed, step])
        rows = rng.choice(len(self._samples), config.optim.batch, replace=False, p=self._share).tolist()
        kept: list[int] = []
        pixels: list[npt.NDArray[np.uint8]] = []
        texts: list[str | None] = []
        for place in range(len(rows))[self._part(len(rows))]:
            row, rng = rows[place], np.random.default_rng([config.seed, step, 1 + place])
            image = self._pixels(self._samples[row], rng)
            if image is not None:
                kept.append(row)
                pixels.append(image)
                texts.append(say(self._samples[row], config.data.templates, rng))
        if not kept:
            raise TrainingError("No image of a whole batch could be decoded; are these shards of images?")
        extra_texts = config.optim.extra_texts if self._corpus else 0
        rng = np.random.default_rng([config.seed, step, 0])
        drawn = rng.integers(len(self._corpus), size=extra_texts).tolist() if extra_texts else []
        extra = [self._corpus[row] for row in drawn[self._part(extra_texts)]]
        return Batch(np.array(kept), np.stack(pixels), texts, extra)

    def _pixels(self, sample: Sample, rng: np.random.Generator) -> npt.NDArray[np.uint8] | None:
        data = self._config.data
        try:
            image = decode(sample.image)
        except ValueError:
            self.corrupt.add(sample.key)
            return None
        if data.low_res and rng.random() < data.low_res:
            image = shrunk(image, int(rng.integers(24, 97)))
        pixels = random_resized_crop(image, self._config.model.vision.image_size, data.min_crop, rng)
        return pixels[:, ::-1] if data.flip and rng.random() < 0.5 else pixels
