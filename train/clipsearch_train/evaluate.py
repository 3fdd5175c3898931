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
    image is among the first k. Image to text: the share of images with any of their texts among the first k.
    """
    similarity_MN = text_MD @ image_ND.T
    own_M = similarity_MN[np.arange(len(text_MD)), image_of_text]
    text_ranks = (similarity_MN > own_M[:, None]).sum(axis=1)
    best_N = np.full(len(image_ND), len(text_MD))
    for text, image in enumerate(image_of_text):
        rank = int((similarity_MN[:, image] > own_M[text]).sum())
        best_N[image] = min(best_N[image], rank)
    recalls = {f"text_to_image_r{k}": float((text_ranks < k).mean() * 100) for k in ks}
    return recalls | {f"image_to_text_r{k}": float((best_N < k).mean() * 100) for k in ks}


def class_embeddings(encoder: TextEncoder, names: Sequence[str], templates: Sequence[str]) -> Vectors:
    """Prompt ensembling in embedding space (paper §3.1.4): float32 (classes, d), unit rows."""
    rows = [encoder.encode_text([template.format(name) for template in templates]).mean(axis=0) for name in names]
    stacked = np.stack(rows)
    return np.asarray(stacked / np.linalg.norm(stacked, axis=1, keepdims=True), dtype=np.float32)


def zero_shot(
    image_ND: Vectors, class_CD: Vectors, labels_N: npt.NDArray[np.int64], ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Top-k accuracy in percent of nearest-class classification; unit rows in."""
    order = np.argsort(-(image_ND @ class_CD.T), axis=1)
    hits = order == labels_N[:, None]
    return {f"top{k}": float(hits[:, :k].any(axis=1).mean() * 100) for k in ks}
