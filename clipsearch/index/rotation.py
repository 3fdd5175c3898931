"""The rotation before product quantisation: principal directions, dealt out evenly to the codes.

Ge et al. 2013 ("Optimized product quantization") give two ways: rounds of training, and for data that are
roughly Gaussian a closed form, "eigenvalue allocation". On a million vectors with CLIP's cosines the closed
form takes seconds instead of minutes and proposes more of a text query's true neighbours: 86% in the first
200 candidates at 64 bytes and 512 lists read, where eight rounds reached 76%.

Directions of little variance are left out altogether: what photos have in common says nothing about which of
them is nearer, and what little differs there is put right by exact re-ranking.
"""

from __future__ import annotations

import numpy as np

from clipsearch.index.checks import Floats


def principal_directions(sample: Floats, width: int) -> Floats:
    """The `width` directions in which (n, d) `sample` rows differ most: (width, d) float32, orthonormal."""
    centred = sample - sample.mean(axis=0)
    _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))  # ascending
    return np.ascontiguousarray(vectors[:, ::-1][:, :width].T, dtype=np.float32)


def balanced(residuals: Floats, codes: int) -> Floats:
    """A rotation (w, w) of (n, w) `residuals` in whose `codes` parts products of variances are about equal.

    Eigenvalue allocation: the directions, largest variance first, each go to the part whose product is the
    smallest so far and that still has room.
    """
    width = residuals.shape[1]
    variances, vectors = np.linalg.eigh((residuals.T @ residuals).astype(np.float64) / len(residuals))
    parts: list[list[int]] = [[] for _ in range(codes)]
    products = np.zeros(codes)
    for direction in range(width)[::-1]:
        room = [part for part in range(codes) if len(parts[part]) < width // codes]
        part = min(room, key=lambda each: (bool(parts[each]), products[each]))
        parts[part].append(direction)
        products[part] += np.log(max(variances[direction], 1e-12))
    order = [direction for part in parts for direction in part]
    return np.ascontiguousarray(vectors[:, order].T, dtype=np.float32)
