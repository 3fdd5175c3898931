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
    """A cluster: its name and the rows that belong to it, the most typical first."""

    name: str
    rows: Ints


def themes(
    vectors: Floats, embed_text: Callable[[list[str]], Floats], count: int | None = None
) -> list[Theme]:
    """Cluster unit `vectors` (n, d) and name the clusters, largest first.

    Spherical k-means on up to `SAMPLE` rows; `count` clusters, or about √(n/4). The photos of a cluster vote
    for its name; clusters of the same name are one theme, so there may be fewer of them.
    """
    if len(vectors) < FEWEST:
        return []
    clusters = count or int(np.clip(np.sqrt(len(vectors) / 4), 3, 24))
    rng = np.random.default_rng(0)
    sample = vectors[rng.permutation(len(vectors))[:SAMPLE]]
    centres = _centres(sample, clusters, rng)
    nearness = vectors @ centres.T
    owner = nearness.argmax(axis=1)
    named = _names(sample, (sample @ centres.T).argmax(axis=1), len(centres), embed_text)[owner]
    typical = nearness.max(axis=1)
    found = []
    for name in np.unique(named):
        rows = np.flatnonzero(named == name)
        found.append(Theme(NAMES[name], rows[np.argsort(-typical[rows], kind="stable")]))
    return sorted(found, key=lambda theme: len(theme.rows), reverse=True)


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


def _names(sample: Floats, owner: Ints, clusters: int, embed_text: Callable[[list[str]], Floats]) -> Ints:
    """For each cluster the number in `NAMES` of the name that its photos of the `sample` vote for."""
    words = np.asarray(embed_text([f"a photo of {name}" for name in NAMES]), np.float32)
    fit = sample @ words.T
    # Some words are near to everything; half of that, for a library may well be of one thing.
    fit -= USUAL * fit.mean(axis=0, keepdims=True)
    votes = np.exp(SHARPNESS * (fit - fit.max(axis=1, keepdims=True)))
    votes /= votes.sum(axis=1, keepdims=True)
    total = np.stack([votes[owner == cluster].sum(axis=0) for cluster in range(clusters)])
    names: Ints = total.argmax(axis=1)
    return names
