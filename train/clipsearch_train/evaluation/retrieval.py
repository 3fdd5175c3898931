"""Retrieval: does a caption find its image among all images, and an image one of its captions?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

KS = (1, 5, 10)
CHUNK = 1024
"""Rows of the similarity matrix that are in memory at once: 25,000 captions by 5,000 images are 500 MB."""


@dataclass(frozen=True)
class Retrieval:
    """Ranks, 0 is the best: of its image for each text (M,), of its nearest text for each image (N',).

    `described` (N',) are the images that have texts. A rank counts the others that do not score below, so
    ties, and scores that are no numbers, count against the model.
    """

    text_ranks: Rows
    image_ranks: Rows
    described: Rows

    def scores(self, ks: Sequence[int] = KS) -> dict[str, float]:
        """Recall@k both ways in percent, and the median ranks (1 is the best)."""
        told: dict[str, float] = {}
        for way, ranks in (("text_to_image", self.text_ranks), ("image_to_text", self.image_ranks)):
            told |= {f"{way}_r{k}": float((ranks < k).mean() * 100) for k in ks}
            told[f"{way}_median_rank"] = float(np.median(ranks) + 1)
        return told


def retrieve(image_ND: Vectors, text_MD: Vectors, image_of_text: Rows) -> Retrieval:
    """Rank both ways as the literature does where an image has several texts; unit rows in.

    `image_of_text` (M,) names the image of each text. Text to image: the rank of the text's one image. Image
    to text: the rank of the image's best text among the texts of other images, so that its own others do not
    stand in the way.
    """
    text_ranks = label_ranks(text_MD, image_ND, image_of_text)
    described = np.unique(image_of_text)
    image_ranks = np.empty(len(described), dtype=np.int64)
    for start in range(0, len(described), CHUNK):
        images = described[start : start + CHUNK]
        scores_BM = image_ND[images] @ text_MD.T
        own_BM = images[:, None] == image_of_text[None, :]
        best_B = np.where(own_BM, scores_BM, -np.inf).max(axis=1)
        not_below_BM = ~(scores_BM < best_B[:, None]) & ~own_BM
        image_ranks[start : start + CHUNK] = not_below_BM.sum(axis=1)
    return Retrieval(text_ranks, image_ranks, described)


def label_ranks(row_ND: Vectors, candidate_CD: Vectors, wanted_N: Rows) -> Rows:
    """(N,): how many other candidates of each row do not score below the wanted one; 0 is the best."""
    ranks = np.empty(len(row_ND), dtype=np.int64)
    for start in range(0, len(row_ND), CHUNK):
        scores_BC = row_ND[start : start + CHUNK] @ candidate_CD.T
        wanted_B = wanted_N[start : start + CHUNK]
        own_B = scores_BC[np.arange(len(scores_BC)), wanted_B]
        ranks[start : start + CHUNK] = (~(scores_BC < own_B[:, None])).sum(axis=1) - 1
    return ranks
