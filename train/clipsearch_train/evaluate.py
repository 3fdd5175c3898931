"""Retrieval recall and zero-shot classification of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

# Seven templates of the eighty in openai/CLIP's Prompt_Engineering_for_ImageNet notebook, the subset
# its authors name as nearly as good.
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


class TextEncoder(Protocol):
    """Anything that embeds texts as unit rows."""

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Texts -> float32 (n, d)."""


def recall_at(
    image_ND: Vectors, text_MD: Vectors, image_of_text: npt.NDArray[np.int64], ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall@k in both directions, as the literature counts it, in percent.

    Unit rows in; `image_of_text` (M,) names the image of each text. Text to image: the share of texts whose
    image is among the first k. Image to text: the share of images (that have texts) with any of their texts
    among the first k. Ties, and scores that are no numbers, count against the model.
    """
    similarity_MN = text_MD @ image_ND.T
    text_ranks = _ranks(similarity_MN, image_of_text)
    described = np.unique(image_of_text)
    image_ranks = np.empty(len(described), dtype=np.int64)
    for row, image in enumerate(described):
        own = image_of_text == image
        scores = similarity_MN[:, image]
        image_ranks[row] = (~(scores[~own] < scores[own].max())).sum()
    recalls = {f"text_to_image_r{k}": float((text_ranks < k).mean() * 100) for k in ks}
    return recalls | {f"image_to_text_r{k}": float((image_ranks < k).mean() * 100) for k in ks}


def _ranks(scores_NM: Vectors, wanted_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many others of each row do not score below the wanted one: 0 is the best."""
    own_N = scores_NM[np.arange(len(scores_NM)), wanted_N]
    ranks: npt.NDArray[np.int64] = (~(scores_NM < own_N[:, None])).sum(axis=1) - 1
    return ranks


def class_embeddings(encoder: TextEncoder, names: Sequence[str], templates: Sequence[str]) -> Vectors:
    """Prompt ensembling in embedding space (paper §3.1.4): float32 (classes, d), unit rows."""
    prompts = encoder.encode_text([template.format(name) for name in names for template in templates])
    mean_CD = prompts.reshape(len(names), len(templates), -1).mean(axis=1)
    return np.asarray(mean_CD / np.linalg.norm(mean_CD, axis=1, keepdims=True), dtype=np.float32)


def zero_shot(
    image_ND: Vectors, class_CD: Vectors, labels_N: npt.NDArray[np.int64], ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Top-k accuracy in percent of nearest-class classification; unit rows in. Ties count as misses."""
    ranks = _ranks(image_ND @ class_CD.T, labels_N)
    return {f"top{k}": float((ranks < k).mean() * 100) for k in ks}
