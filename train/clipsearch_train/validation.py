"""Scores of a model on held-out shards.

Retrieval where samples have captions, classification where they have labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from clipsearch.errors import TrainingError
from clipsearch.model import Clip
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch_train.data import Sample, decode, read_shards
from clipsearch_train.evaluate import TEMPLATES, TextEncoder, class_embeddings, recall_at, zero_shot

Vectors = npt.NDArray[np.float32]
Results = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Classes:
    """The class names of a labelled source, in order, and the class of each of its samples."""

    names: list[str]
    labels: npt.NDArray[np.int64]


@dataclass
class Validation:
    """Held-out samples by source; `teacher_results` are the bridge's scores where there is one."""

    sources: dict[str, list[Sample]]
    class_names: dict[str, list[str]] = field(default_factory=dict)
    teacher_results: Results = field(default_factory=dict)

    @classmethod
    def read(cls, shards: Sequence[Path], limit: int | None = None) -> Validation:
        """Read shards; a `<prefix>_names.json` beside them lists the classes of sources that start so.

        Images that cannot be decoded are left out. Raises TrainingError.
        """
        validation = cls({})
        validation.add(read_shards(shards, limit)[0] if shards else [])
        for folder in {path.parent for path in shards}:
            for path in sorted(folder.glob("*_names.json")):
                for source in validation.sources:
                    if source.startswith(path.stem.removesuffix("_names")):
                        validation.class_names[source] = _read_names(path)
        return validation

    def add(self, samples: Sequence[Sample]) -> None:
        """Take in samples that were held out of the training set, but for images that cannot be decoded."""
        for sample in samples:
            if _is_image(sample):
                self.sources.setdefault(sample.source, []).append(sample)

    def evaluate(self, model: Clip, preprocess: Preprocess, tokenizer: ClipTokenizer) -> Results:
        """Scores by source, in percent."""

        class Texts:
            @torch.inference_mode()
            def encode_text(self, texts: Sequence[str]) -> Vectors:
                rows = [
                    model.encode_text(torch.from_numpy(tokenizer(texts[start : start + 256])))
                    for start in range(0, len(texts), 256)
                ]
                return np.asarray(F.normalize(torch.cat(rows), dim=-1).numpy())

        @torch.inference_mode()
        def images(samples: Sequence[Sample]) -> Vectors:
            rows = []
            for start in range(0, len(samples), 64):
                pixels = np.stack([preprocess.pixels(decode(s.image)) for s in samples[start : start + 64]])
                rows.append(F.normalize(model.encode_image(preprocess.normalise(pixels)), dim=-1))
            return np.asarray(torch.cat(rows).numpy())

        return self.score(images, Texts())

    def score(self, images: Callable[[Sequence[Sample]], Vectors], texts: TextEncoder) -> Results:
        """Scores by source of any pair of image and text embedders."""
        results: Results = {}
        for source, samples in self.sources.items():
            embedded = images(samples)
            if any(sample.captions for sample in samples):
                owner = [row for row, sample in enumerate(samples) for _ in sample.captions]
                captions = [caption for sample in samples for caption in sample.captions]
                results[source] = recall_at(embedded, texts.encode_text(captions), np.array(owner))
            elif all(sample.labels for sample in samples):
                classes = self._classes(source, samples)
                weights = class_embeddings(texts, classes.names, TEMPLATES)
                results[source] = zero_shot(embedded, weights, classes.labels)
        return results

    def _classes(self, source: str, samples: Sequence[Sample]) -> Classes:
        names = self.class_names.get(source) or sorted({sample.labels[0] for sample in samples})
        number = {name: index for index, name in enumerate(names)}
        labels = [
            number.get(sample.labels[0], -1) if sample.label_index is None else sample.label_index
            for sample in samples
        ]
        for sample, label in zip(samples, labels, strict=True):
            if not 0 <= label < len(names):
                raise TrainingError(
                    f"{sample.key} of {source} is of the class {sample.labels[0]!r} (number "
                    f"{sample.label_index}), which is none of the {len(names)} classes."
                )
        return Classes(names, np.array(labels, dtype=np.int64))


def _is_image(sample: Sample) -> bool:
    try:
        decode(sample.image)
    except ValueError:
        return False
    return True


def _read_names(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read: {error}.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TrainingError(f"{path} is not a list of class names.")
    return names
