"""Where the hits of one query end: a suggestion, never applied unless it is asked for.

One number for all queries does not work: "a photo" scores 0.25 with everything, "a violin" 0.24 with violins
only. So a query is measured against the library's own background: how far above the scores of randomly chosen
photos must one lie to be there by more than chance?
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from clipsearch.index.checks import Vectors, unit_queries
from clipsearch.index.ordering import score_rows

FEWEST = 100
"""Below so many photos there is no background to speak of."""
SAMPLE = 4_000


def suggest_cutoff(
    vectors: Vectors,
    query: npt.ArrayLike,
    slots: npt.NDArray[np.int64],
    *,
    by_chance: float = 1.0,
    seed: int = 0,
) -> float | None:
    """The score that about `by_chance` of the photos in `slots` would reach if none of them matched.

    The background is taken as normal around the median of up to `SAMPLE` random photos. Its width is the
    distance from the median up to the 84th percentile: that is one standard deviation of a normal
    distribution, and neither the matches themselves (few) nor the lower side (another shape) move it. Where
    more than a sixth of the photos match, the suggestion comes out too high.

    Args:
        vectors: (n, d) float16 unit rows.
        query: (d,).
        slots: the photos that may be found, int64 ascending.
        by_chance: expected number of photos above the cut-off by chance, > 0.
        seed: of the sample.

    Returns:
        a cosine, or `None` where there are fewer than `FEWEST` photos or all score alike.

    Raises:
        UsageError, ModelMismatch: an unusable query.
    """
    row = unit_queries(query, vectors.shape[1])[0]
    if slots.size < FEWEST:
        return None
    if slots.size > SAMPLE:
        chosen = np.random.default_rng(seed).choice(slots, SAMPLE, replace=False)
    else:
        chosen = slots
    middle, upper = np.quantile(score_rows(vectors, np.sort(chosen), row), [0.5, NormalDist().cdf(1)])
    if upper <= middle:
        return None
    share = min(0.5, by_chance / slots.size)
    return float(middle + NormalDist().inv_cdf(1 - share) * (upper - middle))
