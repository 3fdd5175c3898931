"""Confidence intervals by the bootstrap: what another draw of the same images might have given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SAMPLES = 2000
LEVEL = 0.95
_CELLS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% percentile interval."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def resampled_means(
    values_NK: npt.ArrayLike, counts_N: npt.ArrayLike | None = None, *, samples: int = SAMPLES, seed: int = 0
) -> Floats:
    """(samples, K): the means of columns over images that are drawn anew, with replacement.

    `values_NK` are sums over the `counts_N` observations of each image (one each if None), such as the hits
    among its captions: observations of one image are drawn together, since they are not independent.
    """
    values = np.asarray(values_NK, dtype=np.float64)
    count = len(values)
    counts = np.ones(count) if counts_N is None else np.asarray(counts_N, dtype=np.float64)
    rng = np.random.default_rng(seed)
    out = np.empty((samples, values.shape[1]))
    step = max(1, _CELLS // count)
    for start in range(0, samples, step):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(step, samples - start))
        totals = np.maximum(drawn @ counts, 1e-12)  # a draw of images without any observation
        out[start : start + step] = (drawn @ values) / totals[:, None]
    return out


def interval(value: float, draws: npt.ArrayLike) -> Interval:
    """The percentile interval (Efron 1979) of an estimate from its bootstrap draws."""
    low, high = np.quantile(np.asarray(draws), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def paired_difference(
    a_N: npt.ArrayLike, b_N: npt.ArrayLike, counts_N: npt.ArrayLike | None = None, *, seed: int = 0
) -> Interval:
    """How much more the mean of b is than that of a, on the same images, which are drawn for both at once.

    Raises ValueError where they are not of the same length.
    """
    a, b = np.asarray(a_N, dtype=np.float64), np.asarray(b_N, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError("paired values must be of the same images")
    counts = np.ones(len(a)) if counts_N is None else np.asarray(counts_N, dtype=np.float64)
    draws = resampled_means(np.stack([a, b], axis=1), counts, seed=seed)
    return interval((b.sum() - a.sum()) / counts.sum(), draws[:, 1] - draws[:, 0])
