"""Looking around in a library: ranking as a whole, counts for filters, photos by id, look-alikes.

`Library.look` gives a `View`; what it answers belongs to one state of the library. A page of results asks for
a `Ranking` once and then for the few photos that it shows: thousands of results cost thousands of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clipsearch.folder import Snapshot
from clipsearch.index import Searcher
from clipsearch.search import Query, Where, suggest_cutoff
from clipsearch.search.compose import compose
from clipsearch.search.query import Kind
from clipsearch.store.overview import Overview
from clipsearch.store.rows import Hit as StoredHit

Slots = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_PHOTO = "photo:"
_COLLAPSED = 2_000
"""Results among which look-alikes are put together; nobody pages further to see copies."""
_BLOCK = 500
_ALL_PAIRS = 20_000
"""Photos up to which every pair is compared for duplicates."""


@dataclass(frozen=True)
class Photo:
    """A photo of the library and all that is known of it; `path` is the first of `paths`, as bytes."""

    image_id: int
    slot: int
    content_hash: bytes
    size: int
    path: bytes
    paths: tuple[bytes, ...]
    width: int
    height: int
    format: str
    taken_at: str | None
    dated_at: str | None
    latitude: float | None
    longitude: float | None
    camera: str | None
    lens: str | None
    caption: str | None
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class Ranking:
    """Results in their order: slots, and their cosines where a query was asked (else empty)."""

    slots: Slots
    scores: Floats
    total: int
    """Photos that the filter admits."""
    cutoff: float | None = None
    """Below this score a photo is there by chance; None where the library is too small to tell."""

    def by_date(self, dated: npt.NDArray[np.datetime64]) -> Ranking:
        """The same results, newest first; `dated` holds the date of each."""
        order = np.argsort(_descending(dated), kind="stable")
        scores = self.scores[order] if self.scores.size else self.scores
        return replace(self, slots=self.slots[order], scores=scores)


@dataclass(frozen=True)
class Counts:
    """How many photos each choice of a filter would leave, all other filters staying as they are."""

    total: int
    cameras: dict[str, int]
    formats: dict[str, int]
    folders: dict[bytes, int]
    """In each folder or below it."""
    placed: int
    unplaced: int
    first: np.datetime64
    last: np.datetime64


class View:
    """One state of a library, to look around in; valid within the block of `Library.look`."""

    def __init__(self, photos: Snapshot, searcher: Searcher, overview: Callable[[], Overview]) -> None:
        self._photos = photos
        self._searcher = searcher
        self._overview = overview
        self.generation = photos.generation

    @cached_property
    def overview(self) -> Overview:
        """What filters, counts, dates and the map need of every photo; a query in words needs none of it."""
        return self._overview()

    @property
    def slots(self) -> Slots:
        """The slots of all photos that can be found: ascending."""
        return self._photos.visible

    def vector(
        self, query: Query, embed_text: Callable[[list[str]], Floats], pictures: Callable[[str], Floats]
    ) -> tuple[Floats, Kind]:
        """The vector of a query whose pictures are photos of the library (``photo:12``), or of `pictures`.

        Raises UsageError where the terms cancel out, KeyError for a photo that is not here.
        """

        def embed(names: list[str]) -> Floats:
            rows = [self._vector(name) if name.startswith(_PHOTO) else pictures(name) for name in names]
            return np.stack(rows).astype(np.float32)

        return compose(query, embed_text, embed)

    def _vector(self, name: str) -> Floats:
        slot = self._slot(int(name.removeprefix(_PHOTO)))
        if slot is None:
            raise KeyError(name)
        return np.asarray(self._photos.vectors[slot], np.float32)

    def rank(
        self, vector: Floats, kind: Kind, *, k: int, where: Where, without: Sequence[int] = ()
    ) -> Ranking:
        """The `k` photos nearest to `vector`, best first; `without` are image ids to leave out."""
        allowed = self.allowed(where)
        left_out = [slot for slot in (self._slot(image) for image in without) if slot is not None]
        allowed = np.setdiff1d(allowed, np.array(left_out, np.int64)) if left_out else allowed
        if not allowed.size:
            return Ranking(np.empty(0, np.int64), np.empty(0, np.float32), 0)
        scores, slots = self._searcher.search(vector, min(k, allowed.size), kind=kind, allowed=allowed)
        best, found = scores[0], slots[0]
        if where.min_score is not None:
            best, found = best[best >= where.min_score], found[best >= where.min_score]
        cutoff = suggest_cutoff(self._photos.vectors, vector, allowed) if kind == "text" else None
        return Ranking(found, best, int(allowed.size), cutoff)

    def newest(self, where: Where) -> Ranking:
        """All photos that `where` admits, newest first."""
        slots = self.allowed(where)
        everything = Ranking(slots, np.empty(0, np.float32), int(slots.size))
        return everything.by_date(self.dated(slots))

    def allowed(self, where: Where) -> Slots:
        """The slots that `where` admits: ascending.

        The whole name of a camera means that camera alone, not those whose names go on from there.
        """
        wanted = where.slot_filter()
        if wanted.is_empty():
            return self.slots
        slots = self._photos.slots_where(wanted)
        if where.camera is None:
            return slots
        camera = self.overview.camera
        if where.camera in camera.values:
            rows = self.overview.rows_of(slots)
            slots = self.overview.slots[rows[camera.codes[rows] == camera.values.index(where.camera)]]
        return slots

    def dated(self, slots: Slots) -> npt.NDArray[np.datetime64]:
        """When each of `slots` was taken."""
        dates: npt.NDArray[np.datetime64] = self.overview.dated[np.searchsorted(self.overview.slots, slots)]
        return dates

    def counts(self, where: Where) -> Counts:
        """How many photos the choices of each filter would leave."""
        seen: dict[Where, npt.NDArray[np.int64]] = {}

        def rows(**changed: object) -> npt.NDArray[np.int64]:
            narrowed = replace(where, min_score=None, **changed)  # type: ignore[arg-type]
            if narrowed not in seen:
                seen[narrowed] = self.overview.rows_of(self.allowed(narrowed))
            return seen[narrowed]

        without_place = np.isnan(self.overview.latitude[rows(has_gps=None, box=None)])
        dates = self.overview.dated[rows(after=None, before=None)]
        dates = dates[~np.isnat(dates)]
        nothing = np.datetime64("NaT", "s")
        return Counts(
            total=len(rows()),
            cameras=self.overview.camera.counts(rows(camera=None)),
            formats=self.overview.format.counts(rows(formats=())),
            folders=self.overview.folder_counts(rows(under=())),
            placed=int(np.count_nonzero(~without_place)),
            unplaced=int(np.count_nonzero(without_place)),
            first=dates.min() if len(dates) else nothing,
            last=dates.max() if len(dates) else nothing,
        )

    def photos(self, slots: Sequence[int] | Slots) -> list[Photo]:
        """What stands behind `slots`, in the order given."""
        return [_photo(stored) for stored in self._photos.hits([int(slot) for slot in slots])]

    def photo(self, image_id: int) -> Photo | None:
        """The photo with that id; None where there is none that can be found."""
        return photo(self._photos, image_id)

    def _slot(self, image_id: int) -> int | None:
        return _slot_of(self._photos, image_id)

    def collapse(self, slots: Slots, alike: float) -> list[Slots]:
        """Put look-alikes (cosine of `alike` or more) behind the first of them, in the order of `slots`."""
        groups: list[Slots] = []
        for start in range(0, min(len(slots), _COLLAPSED), _BLOCK):
            part = slots[start : start + _BLOCK]
            groups += [part[members] for members in _stars(self._rows(part), alike)]
        return groups + [slots[i : i + 1] for i in range(_COLLAPSED, len(slots))]

    def duplicates(self, alike: float) -> list[Slots]:
        """Groups of photos that are nearly the same, largest first; up to 20,000 photos every pair is met.

        Above that a photo is compared with those next to it in time and along eight random directions.
        """
        slots = self.slots
        rows = self._rows(slots)
        pairs = _all_pairs(rows, alike) if len(rows) <= _ALL_PAIRS else self._near_pairs(rows, alike)
        groups = _joined(len(rows), pairs)
        return [slots[group] for group in sorted(groups, key=len, reverse=True)]

    def vectors(self, slots: Slots) -> Floats:
        """The unit vectors of `slots` (n, d)."""
        return self._rows(slots)

    def _near_pairs(self, rows: Floats, alike: float) -> npt.NDArray[np.int64]:
        directions = np.random.default_rng(0).standard_normal((8, rows.shape[1])).astype(np.float32)
        orders = [np.argsort(rows @ direction) for direction in directions]
        orders.append(np.argsort(self.overview.dated, kind="stable"))
        pairs = [np.empty((0, 2), np.int64)]
        for order in orders:
            arranged = rows[order]
            for step in range(1, 9):
                close = np.einsum("ij,ij->i", arranged[:-step], arranged[step:]) >= alike
                pairs.append(np.stack([order[:-step][close], order[step:][close]], axis=1))
        return np.concatenate(pairs)

    def _rows(self, slots: Slots) -> Floats:
        return np.asarray(self._photos.vectors[slots], np.float32)


def photo(photos: Snapshot, image_id: int) -> Photo | None:
    """The photo of one state of a library with that id; None where there is none that can be found."""
    slot = _slot_of(photos, image_id)
    found = [] if slot is None else photos.hits([slot])
    return _photo(found[0]) if found else None


def _slot_of(photos: Snapshot, image_id: int) -> int | None:
    if not 0 <= image_id < 1 << 63:
        return None
    return photos.catalog.search.slot_of_image(photos.space.id, image_id)


def _photo(stored: StoredHit) -> Photo:
    image = stored.image
    return Photo(
        image_id=image.id,
        slot=stored.slot,
        content_hash=image.hash,
        size=image.size,
        path=stored.paths[0],
        paths=stored.paths,
        width=image.width,
        height=image.height,
        format=image.format,
        taken_at=image.taken_at,
        dated_at=image.dated_at,
        latitude=image.latitude,
        longitude=image.longitude,
        camera=image.camera,
        lens=image.lens,
        caption=image.caption,
        keywords=image.keywords,
    )


def _descending(dated: npt.NDArray[np.datetime64]) -> npt.NDArray[np.int64]:
    """Keys that sort newest first and what has no date last."""
    seconds = dated.astype(np.int64)
    keys: npt.NDArray[np.int64] = np.where(np.isnat(dated), np.iinfo(np.int64).max, -seconds)
    return keys


def _stars(rows: Floats, alike: float) -> list[npt.NDArray[np.int64]]:
    """Each row joins the first one before it that is like it and leads; the leaders' order is kept."""
    close = rows @ rows.T >= alike
    np.fill_diagonal(close, True)
    alone = np.count_nonzero(close, axis=1) == 1
    free = np.ones(len(rows), bool)
    groups = []
    for leader in range(len(rows)):
        if alone[leader]:  # nearly all of them, mostly
            groups.append(np.array([leader]))
        elif free[leader]:
            members = np.flatnonzero(close[leader] & free)
            free[members] = False
            groups.append(members)
    return groups


def _all_pairs(rows: Floats, alike: float) -> npt.NDArray[np.int64]:
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(rows), 1024):
        block = rows[start : start + 1024]
        one, other = np.nonzero(block @ rows[start:].T >= alike)
        later = other > one
        pairs.append(np.stack([one[later] + start, other[later] + start], axis=1))
    return np.concatenate(pairs)


def _joined(count: int, pairs: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The groups of two or more that `pairs` tie together, members ascending."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for one, other in pairs.tolist():
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    members: dict[int, list[int]] = {}
    for node in sorted({int(node) for node in pairs.ravel()}):
        members.setdefault(root(node), []).append(node)
    return [np.array(group, np.int64) for group in members.values()]
