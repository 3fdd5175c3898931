"""Making batches: what is said of each sample of a step, and its augmented pixels.

Everything random about sample k of step s comes from a generator seeded with (seed, s, k), so a resumed run
draws what an uninterrupted one would have, however many threads decode, and several processes draw together
what one would.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.errors import TrainingError
from clipsearch_train import recipe as recipes
from clipsearch_train.augment import augmented, reworded
from clipsearch_train.corpus import say
from clipsearch_train.data import Sample, decode
from clipsearch_train.frozen import TrunkViews
from clipsearch_train.sources import Source

# Batches that are made before they are asked for.
AHEAD = 2
MOST_WORKERS = 8


@dataclass(frozen=True)
class Batch:
    """One step's input, always as many as the recipe says, or a process's part of it.

    `rows` number the samples; `pixels` are uint8 (n, size, size, 3), or what a locked trunk made of them,
    float32 (n, features); `texts` one each, or None; `extra` are texts without images. `teacher_pixels` show
    the same views at a teacher's size, where there is one.
    """

    rows: npt.NDArray[np.int64]
    pixels: npt.NDArray[Any]
    texts: list[str | None]
    extra: list[str]
    teacher_pixels: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Views:
    """Edges in pixels of what a batch shows: the student's and perhaps a teacher's; squashed or square."""

    size: int
    teacher_size: int | None = None
    squash: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """The student's size, then the teacher's."""
        return (self.size,) if self.teacher_size is None else (self.size, self.teacher_size)


@dataclass(frozen=True)
class _Drawn:
    row: int
    views: list[npt.NDArray[Any]]
    text: str | None


class BatchSource:
    """Makes the batch of any step; the next ones are decoded in threads while the towers work.

    `corrupt` names the images that could not be decoded; in their places stand others of their batches.
    `waited` is how many seconds `get` has spent waiting for a batch.
    """

    def __init__(
        self,
        source: Source,
        corpus: Sequence[str],
        config: recipes.Recipe,
        views: Views | None = None,
        part: Callable[[int], slice] = slice,
        frozen: TrunkViews | None = None,
    ) -> None:
        """`part` says which of n places of a batch are made here, where several processes share it.

        With `frozen` no image is decoded: what a locked trunk saw stands for it.
        """
        self._frozen = frozen
        self._part = part
        self._source = source
        self._corpus = corpus
        self._config = config
        self._views = views or Views(config.model.vision.image_size)
        self._decoders = ThreadPoolExecutor(config.data.workers or min(MOST_WORKERS, os.cpu_count() or 1))
        self._maker = ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[Batch]] = {}
        self.corrupt: set[str] = set()
        self.waited = 0.0

    def get(self, step: int) -> Batch:
        """The batch of a step; starts on the next ones.

        Raises TrainingError where no image of it can be decoded or a shard has changed.
        """
        wanted = range(step, step + 1 + AHEAD)
        for number, pending in self._ahead.items():
            if number not in wanted:
                pending.cancel()
        self._ahead = {
            number: self._ahead.get(number) or self._maker.submit(self._make, number) for number in wanted
        }
        asked = time.monotonic()
        batch = self._ahead.pop(step).result()
        self.waited += time.monotonic() - asked
        return batch

    def close(self) -> None:
        """Stop the threads."""
        for pool in (self._maker, self._decoders):
            pool.shutdown(wait=False, cancel_futures=True)
        self._source.close()

    def _make(self, step: int) -> Batch:
        config = self._config
        drawn = list(enumerate(self._source.draw(step)))
        pending = [
            self._decoders.submit(
                self._draw, row, sample, np.random.default_rng([config.seed, step, 1 + place])
            )
            for place, (row, sample) in drawn[self._part(len(drawn))]
        ]
        made = [future.result() for future in pending]
        good = [one for one in made if one is not None]
        if not good:
            raise TrainingError("No image of a whole batch could be decoded; are these images?")
        # A batch keeps its size, which compiled steps and gathered features count on. What stands twice has
        # the same text, so neither is a negative of the other.
        full = [one if one is not None else good[place % len(good)] for place, one in enumerate(made)]
        views = [np.stack(shown) for shown in zip(*(one.views for one in full), strict=True)]
        return Batch(
            np.array([one.row for one in full]),
            views[0],
            [one.text for one in full],
            self._extra(step),
            views[1] if len(views) > 1 else None,
        )

    def _extra(self, step: int) -> list[str]:
        if not self._corpus:
            return []
        rng = np.random.default_rng([self._config.seed, step, len(self._corpus), 1])
        rows = rng.integers(len(self._corpus), size=self._config.optim.extra_texts)
        return [self._corpus[row] for row in rows.tolist()[self._part(len(rows))]]

    def _draw(self, row: int, sample: Sample, rng: np.random.Generator) -> _Drawn | None:
        data = self._config.data
        if self._frozen is not None:
            return _Drawn(row, [self._frozen.draw(row, rng)], say(sample, data.templates, rng))
        # A crop shows a part of the image: the whole has to be that much larger.
        cover = round(max(self._views.sizes) / max(data.min_crop, 0.01) ** 0.5)
        try:
            image = decode(sample.image, cover)
        except ValueError:
            self.corrupt.add(sample.key)
            return None
        text = say(sample, data.templates, rng)
        if text is not None and (data.one_sentence or data.drop_words):
            text = reworded(text, data, rng)
        return _Drawn(row, augmented(image, self._views.sizes, data, self._views.squash, rng), text)
