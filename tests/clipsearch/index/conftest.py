"""Vectors with CLIP's geometry, small: image-image cosine 0.5, text-text 0.6, image-text 0.15 to 0.3."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import pytest

from clipsearch.index.ivfpq import IvfPq, build
from clipsearch.index.params import IvfPqParams
from clipsearch.index.tuning import tune

DIM, ROWS, COVERED = 64, 6_000, 5_000


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class Gap:
    def __init__(self, dim: int, seed: int, topics: int = 60) -> None:
        self.random = np.random.default_rng(seed)
        self.dim = dim
        self.spectrum = 1 / np.sqrt(np.arange(1, dim + 1))
        self.spectrum[-2:] = 0  # the last two axes carry the modality, the others the content
        self.centres = unit(self.random.standard_normal((topics, dim)) * self.spectrum)
        self.image_axis = np.eye(dim)[-1]
        self.text_axis = 0.27 * np.eye(dim)[-1] + np.sqrt(1 - 0.27**2) * np.eye(dim)[-2]

    def content(self, n):
        centres = self.centres[self.random.integers(len(self.centres), size=n)]
        return unit(centres + 0.9 * unit(self.random.standard_normal((n, self.dim)) * self.spectrum))

    def images(self, n):
        return unit(np.sqrt(0.5) * self.image_axis + np.sqrt(0.5) * self.content(n)).astype(np.float32)

    def texts(self, n):
        noise = unit(self.random.standard_normal((n, self.dim)))
        own = unit(0.336 * self.content(n) + np.sqrt(1 - 0.336**2) * noise)
        return unit(np.sqrt(0.6) * self.text_axis + np.sqrt(0.4) * own).astype(np.float32)


@dataclass(frozen=True)
class World:
    vectors: np.ndarray
    index: IvfPq
    tuning: dict[str, np.ndarray]
    fresh: dict[str, np.ndarray]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """FAISS' threads wait by spinning: on a busy machine two of them take six times as long as one."""
    faiss.omp_set_num_threads(1)


@pytest.fixture(scope="session")
def world(one_thread) -> World:
    """6,000 × 64 vectors, an index tuned for both kinds over the first 5,000, and queries never tuned on."""
    gap = Gap(DIM, seed=5)
    vectors = gap.images(ROWS).astype(np.float16)
    vectors.setflags(write=False)
    index = build(vectors[:COVERED], IvfPqParams(code_bytes=16), seed=3)
    tuning = {"image": gap.images(80), "text": gap.texts(80)}
    for kind, queries in tuning.items():
        tune(index, vectors, queries, kind, target_recall=0.95)
    return World(vectors, index, tuning, {"image": gap.images(80), "text": gap.texts(80)})


def brute_force(vectors, queries, k, allowed=None):
    """The definition: every admitted row in float64, sorted by score and then slot."""
    slots = np.arange(len(vectors)) if allowed is None else np.asarray(allowed)
    rows = unit(np.asarray(queries, np.float64)).astype(np.float32).astype(np.float64)
    scores, found = [], []
    for row in rows:
        dots = (vectors[slots].astype(np.float64) * row).sum(axis=1).astype(np.float32)
        order = sorted(range(len(slots)), key=lambda i: (-dots[i], slots[i]))[:k]
        scores.append(dots[order])
        found.append(slots[order])
    return np.array(scores, np.float32), np.array(found, np.int64)


@pytest.fixture(scope="session")
def brute():
    return brute_force
