"""A locked trunk looks at every image once; its pooled features stand for the images from then on.

Features are cheap to keep and to draw from, so a run spends its time on the text tower and the projection of
the image tower. What random crops would have given is lost; mirrored and shrunk copies of the images of some
sources make up for some of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from clipsearch.devices import cpu_has_bf16
from clipsearch.errors import UsageError
from clipsearch.model import fold_batch_norms
from clipsearch.preprocess import Preprocess
from clipsearch_train.augment import shrunk
from clipsearch_train.cache import cached_rows, sample_keys
from clipsearch_train.data import Sample, decode

Report = Callable[[str, int, int], None]
Rows = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]
BATCH = 32


@dataclass(frozen=True)
class Frozen:
    """What the locked trunk sees besides the images as they are.

    Images of the sources `mirrored` are also seen mirrored; every second image of the sources `shrunk` also
    at so many pixels, as in thumbnails. `dropout` is the share of a drawn image's features that is replaced
    by their mean.
    """

    mirrored: tuple[str, ...] = ()
    shrunk: dict[str, int] = field(default_factory=dict)
    dropout: float = 0.0


def check_frozen(frozen: Frozen, where: str) -> None:
    """Raise UsageError for a value that makes no sense."""
    if not 0 <= frozen.dropout < 1:
        raise UsageError(f"{where}: frozen: dropout must be from 0 to under 1, not {frozen.dropout}.")
    for source, edge in frozen.shrunk.items():
        if edge < 8:
            raise UsageError(f"{where}: frozen: shrunk: {source} must have 8 pixels at least, not {edge}.")


@dataclass(frozen=True)
class _View:
    row: int
    mirrored: bool = False
    edge: int | None = None

    def key(self, keys: Sequence[str]) -> str:
        return keys[self.row] + " mirrored" * self.mirrored + (f" {self.edge} px" if self.edge else "")

    def apply(self, image: Image.Image) -> Image.Image:
        if self.edge is not None:
            image = shrunk(image, self.edge)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else image


class TrunkViews:
    """Pooled features of every sample's views; the first N views are the samples as they are."""

    def __init__(self, features_VF: npt.NDArray[np.float16], samples: Sequence[int], dropout: float) -> None:
        """`features_VF` are float16 (views, F); `samples` says whose each is, the first 0, 1, … N - 1."""
        self._features_VF, self._dropout = features_VF, dropout
        self._views: dict[int, list[int]] = {}
        for view, row in enumerate(samples):
            self._views.setdefault(row, []).append(view)
        self._mean_F: Features = features_VF[: len(self._views)].astype(np.float32).mean(axis=0)

    @property
    def plain(self) -> npt.NDArray[np.float16]:
        """Features of the samples as they are: (N, F)."""
        return self._features_VF[: len(self._views)]

    def some(self, rows: Rows, rng: np.random.Generator) -> Features:
        """Features of a random view of each of these samples: (n, F)."""
        of_each = [self._views[row] for row in rows.tolist()]
        chosen = [views[int(rng.integers(len(views)))] for views in of_each]
        features: Features = self._features_VF[chosen].astype(np.float32)
        return features

    def draw(self, row: int, rng: np.random.Generator) -> Features:
        """Features of a random view of a sample, some of them dropped: (F,)."""
        features: Features = self.some(np.array([row]), rng)[0]
        if not self._dropout:
            return features
        kept = rng.random(len(features)) >= self._dropout
        changed = self._mean_F + (features - self._mean_F) * (kept / (1 - self._dropout))
        rounded: Features = changed.astype(np.float32)
        return rounded


class FrozenTrunk:
    """A trunk that is locked, and what it sees of the samples."""

    def __init__(
        self,
        trunk: nn.Module,
        preprocess: Preprocess,
        samples: Sequence[Sample],
        settings: Frozen,
        cache: Path,
        report: Report,
    ) -> None:
        """Run the trunk over every view of the samples, or read what an earlier run kept at `cache`.

        It runs with its batch norms folded, in bfloat16 where the CPU has it.
        """
        # A copy: the weights of the trunk itself go on to the model.
        self._trunk = copy.deepcopy(trunk).eval()
        fold_batch_norms(self._trunk)
        self._trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._preprocess = preprocess
        views = [_View(row) for row in range(len(samples))]
        views += [_View(row, mirrored=True) for row, s in enumerate(samples) if s.source in settings.mirrored]
        for source, edge in settings.shrunk.items():
            of_source = [row for row, sample in enumerate(samples) if sample.source == source]
            views += [_View(row, edge=edge) for row in of_source[::2]]
        keys = sample_keys(samples)
        features = cached_rows(
            cache,
            [view.key(keys) for view in views],
            lambda wanted, told: self._look([(samples[views[k].row], views[k]) for k in wanted], told),
            report,
        )
        self.views = TrunkViews(features, [view.row for view in views], settings.dropout)

    def features(self, samples: Sequence[Sample], report: Report) -> npt.NDArray[np.float16]:
        """Pooled features of samples as they are: float16 (n, F). A corrupt image gets a row of zeros."""
        return self._look([(sample, _View(row)) for row, sample in enumerate(samples)], report)

    @torch.inference_mode()
    def _look(self, seen: Sequence[tuple[Sample, _View]], report: Report) -> npt.NDArray[np.float16]:
        parts = []
        with ThreadPoolExecutor(1) as pool, torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
            pending = pool.submit(self._pixels, seen[:BATCH])
            for start in range(0, len(seen), BATCH):
                pixels, good = pending.result()
                pending = pool.submit(self._pixels, seen[start + BATCH : start + 2 * BATCH])
                rows = self._trunk(self._preprocess.normalise(pixels)).float().numpy().astype(np.float16)
                rows[~good] = 0
                parts.append(rows)
                report("image trunk", min(start + BATCH, len(seen)), len(seen))
        return np.concatenate(parts)

    def _pixels(
        self, seen: Sequence[tuple[Sample, _View]]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        size = self._preprocess.size
        pixels, good = np.zeros((len(seen), size, size, 3), np.uint8), np.zeros(len(seen), bool)
        for place, (sample, view) in enumerate(seen):
            try:
                pixels[place] = self._preprocess.pixels(view.apply(decode(sample.image)))
                good[place] = True
            except ValueError:
                continue  # it keeps its row of zeros
        return pixels, good
