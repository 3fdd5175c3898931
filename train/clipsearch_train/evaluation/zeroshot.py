"""Zero-shot classification: the class whose prompts lie nearest (paper §3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ModelInvalid
from clipsearch_train.evaluation.retrieval import label_ranks

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]

CHUNK = 4096
"""Prompts embedded before their class means are taken: 1,000 classes by 80 templates are 80,000."""


class TextEncoder(Protocol):
    """Anything that embeds texts as unit rows."""

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Texts -> float32 (n, d)."""


def class_embeddings(
    encoder: TextEncoder,
    names: Sequence[str],
    templates: Sequence[str],
    progress: Progress = lambda done, total: None,
) -> Vectors:
    """Prompt ensembling in embedding space (paper §3.1.4): float32 (classes, d), unit rows.

    A class is the mean of its prompts' unit vectors, made a unit vector again. Raises ModelInvalid for a
    model whose prompts cancel out or are no numbers.
    """
    step = max(1, CHUNK // len(templates))
    means = []
    for start in range(0, len(names), step):
        chosen = names[start : start + step]
        # replace, not format: a class may be called "{}".
        prompts = encoder.encode_text([t.replace("{}", name) for name in chosen for t in templates])
        means.append(prompts.reshape(len(chosen), len(templates), -1).mean(axis=1))
        progress(min(start + step, len(names)), len(names))
    mean_CD = np.concatenate(means)
    norms = np.linalg.norm(mean_CD, axis=1, keepdims=True)
    if not (norms > 0).all():  # also where it is NaN
        raise ModelInvalid(
            f"The prompts of {names[int(np.argmin(norms > 0))]!r} have no usable mean embedding; "
            "the model's weights are damaged."
        )
    return np.asarray(mean_CD / norms, dtype=np.float32)


@dataclass(frozen=True)
class Classification:
    """The rank of its class for each image (N,), 0 is the best; `labels` (N,) of `classes` classes."""

    ranks: Rows
    labels: Rows
    classes: int

    def scores(self, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
        """Top-k accuracy and the mean of the classes' top-1 accuracies, in percent."""
        told = {f"top{k}": float((self.ranks < k).mean() * 100) for k in ks}
        told["mean_per_class"] = float(np.mean(list(self.per_class().values())))
        return told

    def per_class(self) -> dict[int, float]:
        """Top-1 accuracy in percent of every class that has images."""
        seen = np.bincount(self.labels, minlength=self.classes)
        hits = np.bincount(self.labels[self.ranks < 1], minlength=self.classes)
        return {int(label): float(hits[label] / seen[label] * 100) for label in np.flatnonzero(seen)}


def classify(image_ND: Vectors, class_CD: Vectors, labels_N: Rows) -> Classification:
    """Nearest-class classification; unit rows in. Ties, and scores that are no numbers, count as misses."""
    return Classification(label_ranks(image_ND, class_CD, labels_N), labels_N, len(class_CD))
