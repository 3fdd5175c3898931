"""From a query vector to hits in their order, a page at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UsageError
from clipsearch.index.searcher import Searcher
from clipsearch.search.hit import Hit
from clipsearch.search.query import Kind
from clipsearch.search.where import Where
from clipsearch.store.rows import Hit as StoredHit
from clipsearch.store.rows import SlotFilter

Slots = npt.NDArray[np.int64]


class Photos(Protocol):
    """One consistent state of a library's catalog, for the space that is searched."""

    def slots_where(self, wanted: SlotFilter) -> Slots:
        """Slots of visible photos that `wanted` admits: int64, ascending."""

    def hits(self, slots: Sequence[int]) -> list[StoredHit]:
        """What stands behind those of `slots` that are visible, in the order given."""


def rank(
    photos: Photos,
    searcher: Searcher,
    vector: npt.NDArray[np.float32],
    kind: Kind,
    *,
    k: int = 20,
    page: int = 1,
    where: Where | None = None,
    without: Sequence[int] = (),
) -> list[Hit]:
    """The photos nearest to `vector`, best first; equal scores in the order in which they were indexed.

    Args:
        photos: the catalog, in the same state as the searcher's vectors.
        searcher: over the vectors of the space.
        vector: (d,) float32.
        kind: what the vector was made from.
        k: hits a page.
        page: 1 is the first; the one after the last is empty.
        where: filter; `None` admits all.
        without: slots left out, as the photo that others are to be similar to.

    Raises:
        UsageError: `k` or `page` below 1, or an unusable vector.
        ModelMismatch: a vector of another width.
    """
    if isinstance(page, bool) or not isinstance(page, int) or page < 1:
        raise UsageError(f"pages are counted from 1; there is no page {page}")
    where = where or Where()
    allowed = photos.slots_where(where.slot_filter())
    if without:
        allowed = np.setdiff1d(allowed, np.asarray(without, np.int64), assume_unique=False)
    last = k * page if k > 0 else k  # the searcher refuses a k below 1
    scores, slots = searcher.search(vector, last, kind=kind, allowed=allowed)
    best, found = scores[0, k * (page - 1) :], slots[0, k * (page - 1) :]
    if where.min_score is not None:
        found = found[best >= where.min_score]
    by_slot = dict(zip(found.tolist(), best.tolist(), strict=False))
    return [_hit(stored, by_slot[stored.slot], where.under) for stored in photos.hits(found.tolist())]


def _hit(stored: StoredHit, score: float, under: Sequence[bytes]) -> Hit:
    image = stored.image
    shown = next((path for path in stored.paths if not under or _lies_under(path, under)), stored.paths[0])
    return Hit(
        path=os.fsdecode(shown),
        score=min(1.0, max(-1.0, score)),  # half-precision rows are of unit length to three digits
        image_id=image.id,
        slot=stored.slot,
        width=image.width,
        height=image.height,
        format=image.format,
        taken_at=image.taken_at,
        latitude=image.latitude,
        longitude=image.longitude,
        camera=image.camera,
        lens=image.lens,
        caption=image.caption,
        keywords=tuple(image.keywords),
        copies=tuple(os.fsdecode(path) for path in stored.paths if path != shown),
    )


def _lies_under(path: bytes, folders: Sequence[bytes]) -> bool:
    stems = [folder.rstrip(b"/") for folder in folders]
    return any(path == stem or path.startswith(stem + b"/") for stem in stems)
