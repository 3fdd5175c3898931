"""What cosine means a match: how the scores of matching and of other pairs are distributed.

A cosine has no meaning of its own: it depends on the model, and on how many of a library's photos match. So
the scores of pairs that belong together (an image and its caption, or its class) are held against those of
all other pairs, and every cut-off is told by what it keeps of the first and lets through of the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.search.cutoff import suggest_cutoff

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]

PREVALENCE = 0.01
"""The share of a library that an ordinary query is taken to match, where nothing else is said."""
BINS = 2000
EDGES = np.linspace(-1.0, 1.0, BINS + 1)
"""Cosines are counted in steps of 0.001."""
QUANTILES = (0.05, 0.5, 0.95)
QUERIES = 1000
"""The most queries that the search's own cut-off is tried on."""
_CHUNK = 1024


@dataclass(frozen=True)
class SearchCutoff:
    """How the cut-off that a search suggests (`suggest_cutoff`, for each query its own) does here.

    `precision` of all photos shown (None where none is) and `recall` of all that match, as shares; `shown`
    photos a query on average. `suggested` is the median of the suggestions.
    """

    queries: int
    suggested: float
    precision: float | None
    recall: float
    shown: float


@dataclass(frozen=True)
class Calibration:
    """Cosines of matching and of other pairs, counted in `BINS` steps from -1 to 1."""

    matching: Counts
    others: Counts
    search: SearchCutoff | None = None

    @property
    def prevalence(self) -> float:
        """The share of matching pairs in this data."""
        return float(self.matching.sum() / (self.matching.sum() + self.others.sum()))

    def auc(self) -> float:
        """The chance that a matching pair scores above another one; half of the ties."""
        below = np.concatenate([[0], np.cumsum(self.others)[:-1]]) + self.others / 2
        return float((self.matching * below).sum() / (self.matching.sum() * self.others.sum()))

    def quantiles(self, counts: Counts) -> dict[float, float]:
        """Cosines below which these shares of the counted pairs lie, to 0.001."""
        share = np.cumsum(counts) / counts.sum()
        return {q: float(EDGES[int(np.searchsorted(share, q)) + 1]) for q in QUANTILES}

    def recall(self) -> npt.NDArray[np.float64]:
        """(BINS + 1,): the share of matching pairs that score at or above each of `EDGES`."""
        return _at_or_above(self.matching)

    def fall_out(self) -> npt.NDArray[np.float64]:
        """(BINS + 1,): the share of other pairs that score at or above each of `EDGES`."""
        return _at_or_above(self.others)

    def precision(self, prevalence: float | None = None) -> npt.NDArray[np.float64]:
        """(BINS + 1,): the share of matches among what scores at or above each of `EDGES`.

        By Bayes' rule for a library of which `prevalence` matches (this data's if None); 1 where nothing
        is shown.
        """
        prior = self.prevalence if prevalence is None else prevalence
        right, wrong = prior * self.recall(), (1 - prior) * self.fall_out()
        with np.errstate(invalid="ignore"):
            return np.where(right + wrong > 0, right / (right + wrong), 1.0)

    def suggested(self, prevalence: float = PREVALENCE) -> float:
        """The cut-off with the best F1 (harmonic mean of precision and recall) in such a library."""
        precision, recall = self.precision(prevalence), self.recall()
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        return float(EDGES[int(np.argmax(f1))])

    def at(self, cutoff: float, prevalence: float = PREVALENCE) -> dict[str, float]:
        """Recall, fall-out and precision, as shares, at a cut-off (rounded to 0.001)."""
        place = int(np.clip(round((cutoff + 1) / 2 * BINS), 0, BINS))
        return {
            "cutoff": float(EDGES[place]),
            "recall": float(self.recall()[place]),
            "fall_out": float(self.fall_out()[place]),
            "precision": float(self.precision(prevalence)[place]),
        }

    def table(self, prevalence: float = PREVALENCE) -> list[dict[str, float]]:
        """Every 0.05 of cosine at which the cut-off still matters: some but not all pairs are above."""
        rows = [self.at(cutoff / 20, prevalence) for cutoff in range(-20, 21)]
        return [row for row in rows if row["recall"] > 0 and row["fall_out"] < 1]


def calibrate(
    image_ND: Vectors, text_MD: Vectors, group_N: Rows, group_M: Rows, *, seed: int = 0
) -> Calibration:
    """Count the cosines of all pairs; those of one group match. Unit rows in.

    For captions the group of an image is its row and that of a caption its image's row; for classes it is
    the class. Captions of other images may fit as well, so the fall-out is an upper bound.
    """
    matching, others = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    for start in range(0, len(text_MD), _CHUNK):
        scores_BN = text_MD[start : start + _CHUNK] @ image_ND.T
        bins_BN = np.clip(((scores_BN + 1) * (BINS / 2)).astype(np.int64), 0, BINS - 1)
        match_BN = group_M[start : start + _CHUNK, None] == group_N[None, :]
        matching += np.bincount(bins_BN[match_BN], minlength=BINS)
        others += np.bincount(bins_BN[~match_BN], minlength=BINS)
    return Calibration(matching, others, _search_cutoff(image_ND, text_MD, group_N, group_M, seed))


def _search_cutoff(
    image_ND: Vectors, text_MD: Vectors, group_N: Rows, group_M: Rows, seed: int
) -> SearchCutoff | None:
    """Ask as the search does, over half-precision rows. None where it suggests nothing, as for few images."""
    chosen = np.arange(len(text_MD))
    if len(chosen) > QUERIES:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, QUERIES, replace=False))
    stored, slots = image_ND.astype(np.float16), np.arange(len(image_ND))
    suggestions, right, shown, matches = [], 0, 0, 0
    for query in chosen:
        cutoff = suggest_cutoff(stored, text_MD[query], slots, seed=seed)
        if cutoff is None:
            continue
        above = image_ND @ text_MD[query] >= cutoff
        suggestions.append(cutoff)
        right += int((above & (group_N == group_M[query])).sum())
        shown += int(above.sum())
        matches += int((group_N == group_M[query]).sum())
    if not suggestions or not matches:
        return None
    return SearchCutoff(
        len(suggestions),
        float(np.median(suggestions)),
        right / shown if shown else None,
        right / matches,
        shown / len(suggestions),
    )


def _at_or_above(counts: Counts) -> npt.NDArray[np.float64]:
    above = np.concatenate([np.cumsum(counts[::-1])[::-1], [0]])
    return np.asarray(above / max(1, counts.sum()), dtype=np.float64)
