"""What recall is measured against: queries, and how near the k-th best row of each is by exact search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UsageError
from clipsearch.index.checks import Floats, Slots, Vectors, positive_k
from clipsearch.index.exact import ExactSearch

NO_ROW = -1


@dataclass(frozen=True)
class Truth:
    """Queries with their exact answers. A query that is a row itself does not count as its own neighbour.

    Attributes:
        rows: (q, d) float32, unit.
        own: (q,) int64, the slot of the row that a query is; −1 where it is none.
        kth: (q,) float32, the exact score of the k-th best row beside `own`.
        k: neighbours wanted of each.
    """

    rows: Floats
    own: Slots
    kth: Floats
    k: int

    @staticmethod
    def of(vectors: Vectors, rows: Floats, k: int, own: npt.ArrayLike | None = None) -> Truth:
        """Compare (q, d) unit `rows` with all `vectors`; fewer than `k` rows give a smaller `k`.

        Raises UsageError for k < 1, or other than one `own` for each query.
        """
        slots = own_slots(own, len(rows))
        within = bool((slots >= 0).any())
        k = min(positive_k(k), len(vectors) - within)
        scores, found = ExactSearch(vectors).search(rows, k + within)
        among_best = (found[:, :k] == slots[:, None]).any(axis=1)
        kth = np.where(among_best, scores[:, -1], scores[:, k - 1]).astype(np.float32)
        return Truth(rows, slots, kth, k)


def own_slots(own: npt.ArrayLike | None, count: int) -> Slots:
    """`own` as (count,) int64, −1 throughout for None; UsageError for another number of them."""
    if own is None:
        return np.full(count, NO_ROW, np.int64)
    slots = np.asarray(own, np.int64)
    if slots.shape != (count,):
        raise UsageError(f"{count} queries need {count} slots of their own, not {slots.shape}")
    return slots


def without(slots: Slots, own: int, wanted: int) -> Slots:
    """Up to `wanted` of (m,) candidate `slots`, `own` and the −1 of missing ones left out."""
    others: Slots = slots[(slots >= 0) & (slots != own)]
    return others[:wanted]
