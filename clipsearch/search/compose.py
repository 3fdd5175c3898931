"""From a query to the one vector that is searched for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ModelInvalid, UsageError
from clipsearch.search.query import Kind, Query

Floats = npt.NDArray[np.float32]
Embed = Callable[[list[str]], Floats]

SMALLEST_SUM = 1e-4
"""A sum shorter than this is rounding: its direction says nothing."""


def compose(query: Query, embed_text: Embed, embed_images: Embed) -> tuple[Floats, Kind]:
    """Embed the terms of `query` and add them up.

    The vector is Σ wᵢ·eᵢ / |Σ wᵢ·eᵢ| over the unit embeddings eᵢ: the arithmetic that one would do by hand.
    CLIP's pictures and texts lie apart (Liang et al. 2022, "Mind the Gap"), and a picture's embedding is
    nearer to every photo than any text's: in a sum of both the picture has the say unless the text is given
    more weight (3:"at night"). The sum is not corrected for that.

    Args:
        query: what to look for.
        embed_text: n texts to (n, d) float32; called once if there is a text, with all of them.
        embed_images: n paths to (n, d) float32; called once if there is a picture.

    Returns:
        the unit vector (d,) float32, and "image" if it was made from pictures alone, else "text" (a text in
        the sum takes it away from where pictures lie, so it is searched for with a text's effort).

    Raises:
        UsageError: the terms cancel each other out.
        ModelInvalid: an embedding is zero, NaN or infinite.
    """
    parts: dict[int, npt.NDArray[np.float64]] = {}
    embedders: tuple[tuple[Kind, Embed], ...] = (("text", embed_text), ("image", embed_images))
    for kind, embed in embedders:
        places = [i for i, term in enumerate(query.terms) if term.kind == kind]
        if places:
            rows = _unit(embed([query.terms[i].value for i in places]), len(places))
            parts.update(zip(places, rows, strict=True))
    heaviest = max(abs(term.weight) for term in query.terms)
    weights = np.array([term.weight / heaviest for term in query.terms])
    total = weights @ np.stack([parts[i] for i in range(len(query.terms))])
    length = np.linalg.norm(total)
    if not length > SMALLEST_SUM:
        raise UsageError("the terms of the query cancel each other out, so nothing is left to look for")
    pictures_only = all(term.kind == "image" for term in query.terms)
    return (total / length).astype(np.float32), "image" if pictures_only else "text"


def _unit(rows: Floats, count: int) -> npt.NDArray[np.float64]:
    wide = np.asarray(rows, dtype=np.float64)
    if wide.ndim != 2 or len(wide) != count:
        raise ModelInvalid(f"the model gave embeddings of shape {wide.shape} for {count} inputs")
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ModelInvalid("the model gave an embedding that is zero, NaN or infinite")
    unit: npt.NDArray[np.float64] = wide / lengths
    return unit
