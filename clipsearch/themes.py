"""What a library is about: clusters of its photos, each with a name from a list of everyday words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SAMPLE = 5_000
ROUNDS = 20
FEWEST = 8
"""A library of fewer photos has no themes."""
SHARPNESS = 40.0
"""How much more a photo votes for a name that is nearer by a cosine of 1/40: e times as much."""
USUAL = 0.5
"""How much of a name's mean nearness to the library does not count for it."""
SURE = 0.25
"""The share of its photos' votes below which a cluster has no name."""
FIRST = 6
"""A photo belongs to a theme whose name is among as many that fit it best."""
SMALLEST, MOST = 3, 24
"""Photos of a theme, and themes."""

# fmt: off
NAMES = (
    "dogs", "cats", "birds", "horses", "insects", "fish", "wild animals", "farm animals", "babies",
    "children", "portraits", "groups of people", "weddings", "parties", "birthday cakes", "concerts",
    "dancing", "sports", "football", "swimming", "skiing", "cycling", "running", "climbing",
    "playgrounds", "crowds", "selfies", "beaches", "the sea", "lakes", "rivers", "waterfalls",
    "mountains", "forests", "fields", "deserts", "snow", "sunsets", "clouds", "night skies",
    "the moon and stars", "fireworks", "rain", "autumn leaves", "flowers", "gardens", "trees",
    "mushrooms", "fruit", "vegetables", "meals", "desserts", "coffee", "drinks", "restaurants",
    "kitchens", "living rooms", "bedrooms", "bathrooms", "offices", "stairs", "windows", "doors",
    "houses", "city streets", "skyscrapers", "city skylines at night", "bridges", "churches", "castles",
    "ruins", "towers", "statues", "museums", "paintings", "graffiti", "markets", "shops", "cars",
    "trucks", "motorcycles", "bicycles", "trains", "boats", "airplanes", "airports", "roads",
    "train stations", "rockets and space", "receipts", "documents", "handwriting", "books",
    "screenshots", "computer screens", "phones", "maps", "charts", "signs", "drawings", "cartoons",
    "logos", "clothes", "shoes", "bags", "jewellery", "toys", "musical instruments", "tools", "coins",
    "textures", "patterns", "bricks", "black and white photos",
)
# fmt: on


@dataclass(frozen=True)
class Theme:
    """Clusters of one name: the name and the rows that belong to it, the most typical first."""

    name: str
    rows: Ints


def themes(
    vectors: Floats, embed_text: Callable[[list[str]], Floats], count: int | None = None
) -> list[Theme]:
    """Cluster unit `vectors` (n, d) and name the clusters, largest first.

    Spherical k-means on up to `SAMPLE` rows; `count` clusters, or about √2n: many, for no name fits a cluster
    of several things. The photos of a cluster vote for its name; where they do not agree it has none. A photo
    that its cluster's name does not fit is left out, so a photo is in one theme or in none.
    """
    if len(vectors) < FEWEST:
        return []
    clusters = count or int(np.clip(np.sqrt(2 * len(vectors)), 4, 48))
    rng = np.random.default_rng(0)
    sample = vectors[rng.permutation(len(vectors))[:SAMPLE]]
    centres = _centres(sample, clusters, rng)
    fits = _Fits(sample, embed_text)
    names = fits.names((sample @ centres.T).argmax(axis=1), len(centres))
    nearness = vectors @ centres.T
    owner, typical = nearness.argmax(axis=1), nearness.max(axis=1)
    found = []
    for name in np.unique(names[names >= 0]):
        rows = np.flatnonzero(names[owner] == name)
        rows = rows[fits.among_first(vectors[rows], int(name))]
        if len(rows) >= SMALLEST:
            found.append(Theme(NAMES[name], rows[np.argsort(-typical[rows], kind="stable")]))
    return sorted(found, key=lambda theme: len(theme.rows), reverse=True)[:MOST]


def _centres(sample: Floats, clusters: int, rng: np.random.Generator) -> Floats:
    """Spherical k-means, started with rows far from each other."""
    chosen = [int(rng.integers(len(sample)))]
    nearest = sample @ sample[chosen[0]]
    while len(chosen) < min(clusters, len(sample)):
        distance = np.maximum(1 - nearest, 0) ** 2 + 1e-12
        chosen.append(int(rng.choice(len(sample), p=distance / distance.sum())))
        nearest = np.maximum(nearest, sample @ sample[chosen[-1]])
    centres = sample[chosen]
    for _ in range(ROUNDS):
        owner = (sample @ centres.T).argmax(axis=1)
        sums = np.stack([sample[owner == cluster].sum(axis=0) for cluster in range(len(centres))])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-6), centres).astype(np.float32)
    return centres


class _Fits:
    """How well the `NAMES` fit photos, beside how well they fit the `sample` of the library as a whole."""

    def __init__(self, sample: Floats, embed_text: Callable[[list[str]], Floats]) -> None:
        self._words = np.asarray(embed_text([f"a photo of {name}" for name in NAMES]), np.float32)
        # Some words are near to everything; half of that, for a library may well be of one thing.
        self._usual = USUAL * (sample @ self._words.T).mean(axis=0, keepdims=True)
        self._sample = sample

    def names(self, owner: Ints, clusters: int) -> Ints:
        """For each cluster of the sample the number of the name that its photos vote for; -1 for none."""
        fit = self._of(self._sample)
        votes = np.exp(SHARPNESS * (fit - fit.max(axis=1, keepdims=True)))
        votes /= votes.sum(axis=1, keepdims=True)
        total = np.stack([votes[owner == cluster].sum(axis=0) for cluster in range(clusters)])
        sure = total.max(axis=1) >= SURE * np.maximum(np.bincount(owner, minlength=clusters), 1)
        names: Ints = np.where(sure, total.argmax(axis=1), -1)
        return names

    def among_first(self, vectors: Floats, name: int) -> npt.NDArray[np.bool_]:
        """For each of `vectors` whether fewer than `FIRST` names fit it better than this one."""
        fit = self._of(vectors)
        better: npt.NDArray[np.bool_] = (fit > fit[:, name : name + 1]).sum(axis=1) < FIRST
        return better

    def _of(self, vectors: Floats) -> Floats:
        fit: Floats = vectors @ self._words.T - self._usual
        return fit
