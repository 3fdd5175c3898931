"""Embeddings for an evaluation: every image once per version, every list of texts once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ImageError, ModelInvalid, TrainingError
from clipsearch.images import decode
from clipsearch.preprocess import Preprocess
from clipsearch_train.evaluation.datasets import Dataset, Item
from clipsearch_train.evaluation.shifts import Shift
from clipsearch_train.evaluation.zeroshot import class_embeddings

Vectors = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Report = Callable[[str, int, int], None]
"""Told a stage's name, what of it is done, and its total."""

Version = Shift | None
"""A shifted copy, or None for the image as it is."""

_TEXTS = 1024


class Model(Protocol):
    """What can be evaluated: `clipsearch.Encoder`, or anything else that embeds pixels and texts."""

    preprocess: Preprocess

    def encode_pixels(self, pixels_NYXC: Pixels, /) -> Vectors:
        """uint8 (n, size, size, 3) -> float32 (n, d), unit rows."""

    def encode_text(self, texts: Sequence[str], /) -> Vectors:
        """Texts -> float32 (n, d), unit rows."""


@dataclass(frozen=True)
class Embedded:
    """The images of a data set that could be read, their embeddings by version, and the keys of the others.

    Each of `vectors` is float32 (N, d), unit rows, in the order of `dataset.items`.
    """

    dataset: Dataset
    vectors: dict[Version, Vectors]
    skipped: tuple[str, ...]

    @property
    def original(self) -> Vectors:
        """The embeddings of the images as they are, (N, d)."""
        return self.vectors[None]


class Features:
    """Embeds with one model and keeps the texts' embeddings for the next evaluation that asks for them."""

    def __init__(self, model: Model, report: Report = lambda *_: None, batch: int = 64) -> None:
        """`batch` is the number of pictures that the image tower is given at once."""
        self.model, self.report, self.batch = model, report, batch
        self._texts: dict[tuple[str, ...], Vectors] = {}
        self._classes: dict[tuple[tuple[str, ...], tuple[str, ...]], Vectors] = {}

    def images(
        self, dataset: Dataset, shifts: Sequence[Shift] = (), seed: int = 0, purpose: str = ""
    ) -> Embedded:
        """Embed all images, as they are and in every shifted copy; each is decoded once.

        `purpose` tells two stages of one name apart in what is reported. An image that cannot be read is left
        out of every version. Raises TrainingError where none can be, ModelInvalid for embeddings that are no
        numbers.
        """
        versions: tuple[Version, ...] = (None, *shifts)
        kept: list[int] = []
        rows: dict[Version, list[Vectors]] = {version: [] for version in versions}
        done, stage = 0, f"embedding {dataset.name} {purpose}".rstrip()
        for chosen, pixels_BVYXC in self._decoded(dataset, versions, seed):
            good = [row for row, pixels in zip(chosen, pixels_BVYXC, strict=True) if pixels is not None]
            stacked = [pixels for pixels in pixels_BVYXC if pixels is not None]
            for number, version in enumerate(versions):
                if stacked:
                    made = self.model.encode_pixels(np.stack([pixels[number] for pixels in stacked]))
                    rows[version].append(_checked(made, [dataset.items[row].key for row in good]))
            kept += good
            done += len(chosen) * len(versions)
            self.report(stage, done, len(dataset.items) * len(versions))
        if not kept:
            raise TrainingError(f"None of the {len(dataset.items):,} images of {dataset.name} can be read.")
        there = set(kept)
        skipped = tuple(item.key for row, item in enumerate(dataset.items) if row not in there)
        vectors = {version: np.concatenate(parts) for version, parts in rows.items()}
        return Embedded(dataset.keep(kept) if skipped else dataset, vectors, skipped)

    def texts(self, texts: Sequence[str]) -> Vectors:
        """Embed texts: float32 (n, d), unit rows. Raises ModelInvalid for embeddings that are no numbers."""
        asked = tuple(texts)
        if asked not in self._texts:
            parts = []
            for start in range(0, len(asked), _TEXTS):
                chosen = asked[start : start + _TEXTS]
                parts.append(_checked(self.model.encode_text(chosen), chosen))
                self.report("embedding texts", start + len(chosen), len(asked))
            self._texts[asked] = np.concatenate(parts)
        return self._texts[asked]

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> Vectors:
        """Embed classes as `class_embeddings` does: float32 (classes, d), unit rows."""
        asked = (tuple(names), tuple(templates))
        if asked not in self._classes:
            stage = f"embedding {len(names):,} classes in {len(templates)} templates"
            self._classes[asked] = class_embeddings(
                self.model, names, templates, lambda done, total: self.report(stage, done, total)
            )
        return self._classes[asked]

    def _decoded(
        self, dataset: Dataset, versions: Sequence[Version], seed: int
    ) -> Iterator[tuple[range, list[list[Pixels] | None]]]:
        """Rows and their pixels, batch by batch; while one batch is embedded, threads decode the next."""
        items = dataset.items
        step = max(1, self.batch // len(versions)) if len(versions) > 1 else self.batch

        def pixels(row: int) -> list[Pixels] | None:
            return _pixels(items[row], versions, self.model.preprocess, seed)

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            batches = [range(start, min(start + step, len(items))) for start in range(0, len(items), step)]
            waiting = [threads.submit(pixels, row) for row in batches[0]]
            for number, batch in enumerate(batches):
                now = waiting
                following = batches[number + 1] if number + 1 < len(batches) else ()
                waiting = [threads.submit(pixels, row) for row in following]
                yield batch, [future.result() for future in now]


def _pixels(
    item: Item, versions: Sequence[Version], preprocess: Preprocess, seed: int
) -> list[Pixels] | None:
    try:
        image = decode(item.image)[0]
    except ImageError:
        return None  # counted and named by the caller
    return [
        preprocess.pixels(image if version is None else version.apply(image, item.key, seed))
        for version in versions
    ]


def _checked(rows: Vectors, names: Sequence[str]) -> Vectors:
    good = np.isfinite(rows).all(axis=1)
    bad = [names[int(row)] for row in np.flatnonzero(~good)]
    if bad:
        raise ModelInvalid(
            f"The model gave an embedding that is no number for {len(bad)} of {len(names)} inputs "
            f"(such as {bad[0]!r}); its weights are damaged."
        )
    return rows
