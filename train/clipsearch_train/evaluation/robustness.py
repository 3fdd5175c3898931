"""Effective robustness: accuracy under a shift beyond what accuracy without it foretells (Taori et al. 2020).

Among models of one kind the accuracy on a shifted test set is nearly a line of the accuracy on the original,
once both are put on logit axes. A model is *effectively* robust as far as it lies above that line; to be
better on both sets alone does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_LEAST = 0.1
"""Percent: accuracies of 0 and 100 have no logit, so they are moved this far inside."""


def logit(percent: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """log(p / (1 − p)) of accuracies in percent, cut to 0.1–99.9."""
    share = np.clip(np.asarray(percent, dtype=np.float64), _LEAST, 100 - _LEAST) / 100
    return np.asarray(np.log(share / (1 - share)), dtype=np.float64)


def inverse_logit(value: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Percent from logits."""
    return np.asarray(100 / (1 + np.exp(-np.asarray(value, dtype=np.float64))), dtype=np.float64)


@dataclass(frozen=True)
class Trend:
    """The line through some models' accuracies on logit axes: what accuracy under shift is to be expected.

    `models` are the accuracies that it was fitted to, in percent: on the original, under the shift.
    """

    slope: float
    offset: float
    models: tuple[tuple[float, float], ...] = ()

    @classmethod
    def fit(cls, original: Sequence[float], shifted: Sequence[float]) -> Trend:
        """Least squares on logits of accuracies in percent. Raises ValueError for less than two different."""
        x, y = logit(original), logit(shifted)
        if len(x) < 2 or float(np.ptp(x)) == 0:
            raise ValueError("a trend needs two models of different accuracy")
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
        models = tuple(zip(map(float, original), map(float, shifted), strict=True))
        return cls(slope, float(y.mean() - slope * x.mean()), models)

    def expected(self, original: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Accuracy under shift, in percent, that the trend foretells."""
        return inverse_logit(self.offset + self.slope * logit(original))

    def effective(self, original: float, shifted: float) -> float:
        """Points of accuracy under shift beyond the trend."""
        return shifted - float(self.expected(original))
