"""Rows with CLIP's cosines and queries of both kinds, kept in a folder; how well and how fast they are found.

Photos lie at a cosine of 0.5 to each other, texts at 0.6, a text at 0.15 to a random photo and at about 0.3
to its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from clipsearch.index.exact import ExactSearch
from clipsearch.index.ordering import SCORE_TOLERANCE

K = 10
KINDS = ("text", "image")
QUERIES = 300
"""Of each kind to measure with; as many texts to tune with."""
AT_ONCE = 10_000

Rows = np.ndarray
Ask = Callable[[Rows], Rows]
"""One query (dim,) -> the slots found, −1 for none."""


def unit(rows: Rows) -> Rows:
    """Rows of unit length."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class Clip:
    """Unit vectors of two modalities that share content but lie apart."""

    def __init__(self, dim: int, topics: int, seed: int = 0) -> None:
        self.random, self.dim = np.random.default_rng(seed), dim
        self.spectrum = (1 / np.sqrt(np.arange(1, dim + 1))).astype(np.float32)
        self.spectrum[-2:] = 0  # two axes are kept for the modality
        self.topics = unit(self.random.standard_normal((topics, dim)) * self.spectrum).astype(np.float32)
        self.photo_axis, self.text_axis = np.eye(dim, dtype=np.float32)[[-1, -2]]
        self.text_axis = 0.27 * self.photo_axis + np.float32(np.sqrt(1 - 0.27**2)) * self.text_axis

    @classmethod
    def of(cls, rows: int, dim: int) -> Clip:
        """What a library of so many `rows` shows: 50 photos a topic."""
        return cls(dim, topics=max(20, rows // 50))

    def content(self, n: int) -> Rows:
        """What n pictures show: a topic and something of their own."""
        topics = self.topics[self.random.integers(len(self.topics), size=n)]
        return unit(
            topics + 0.9 * unit(self.random.standard_normal((n, self.dim), np.float32) * self.spectrum)
        )

    def images(self, n: int) -> Rows:
        """Photos, (n, dim) float32."""
        return unit(0.5**0.5 * self.photo_axis + 0.5**0.5 * self.content(n)).astype(np.float32)

    def texts(self, n: int) -> Rows:
        """Captions, (n, dim) float32."""
        noise = unit(self.random.standard_normal((n, self.dim), np.float32))
        meaning = unit(0.336 * self.content(n) + (1 - 0.336**2) ** 0.5 * noise)
        return unit(0.6**0.5 * self.text_axis + 0.4**0.5 * meaning).astype(np.float32)

    def fill(self, rows: Rows) -> None:
        """Photos into all of `rows` (n, dim), some at a time."""
        for start in range(0, len(rows), AT_ONCE):
            rows[start : start + AT_ONCE] = self.images(min(AT_ONCE, len(rows) - start))


class Data:
    """Half-precision rows and queries for tuning and for measuring, made in `folder` unless they are there.

    Attributes:
        vectors: (rows, dim) float16, mapped.
        tuning, held: of each kind (QUERIES, dim) float32 queries, none of which is a row.
    """

    def __init__(self, folder: Path, rows: int, dim: int) -> None:
        self.folder = folder
        if not (folder / "vectors.npy").exists():
            _make(folder, rows, dim)
        self.vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        if self.vectors.shape != (rows, dim):
            raise SystemExit(f"{folder} holds {self.vectors.shape}, not {(rows, dim)}: name another folder")
        queries = np.load(folder / "queries.npz")
        self.tuning = {kind: queries[kind][::2] for kind in KINDS}
        self.held = {kind: queries[kind][1::2] for kind in KINDS}

    @cached_property
    def tuning_kth(self) -> dict[str, Rows]:
        """The exact score of the K-th nearest row of each query for tuning."""
        return self._kth("tuning", self.tuning)

    @cached_property
    def held_kth(self) -> dict[str, Rows]:
        """The same of each query for measuring."""
        return self._kth("held", self.held)

    def _kth(self, name: str, queries: dict[str, Rows]) -> dict[str, Rows]:
        kept = self.folder / f"{name}-kth.npz"
        if not kept.exists():
            rows = np.concatenate([queries[kind] for kind in KINDS])
            least = ExactSearch(self.vectors).search(rows, K)[0][:, -1]
            np.savez(kept, **dict(zip(KINDS, np.split(least, len(KINDS)), strict=True)))
        found = np.load(kept)
        return {kind: found[kind] for kind in KINDS}


def _make(folder: Path, rows: int, dim: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    clip, unfinished = Clip.of(rows, dim), folder / "vectors.part"
    vectors = np.lib.format.open_memmap(unfinished, "w+", np.float16, (rows, dim))
    clip.fill(vectors)
    vectors.flush()
    np.savez(folder / "queries.npz", text=clip.texts(2 * QUERIES), image=clip.images(2 * QUERIES))
    unfinished.rename(folder / "vectors.npy")


@dataclass(frozen=True)
class Times:
    """Milliseconds of a query: median and 95th percentile of the clock's, median of the processor's."""

    median: float
    tail: float
    used: float

    def __str__(self) -> str:
        return f"{self.median:.2f} / {self.tail:.2f} ms ({self.used:.2f})"


def timed(ask: Callable[[Rows], object], queries: Rows) -> Times:
    """One query at a time, after 20 that do not count."""
    taken, used = [], []
    for turn, query in enumerate([*queries[:20], *queries], -20):
        started, working = time.perf_counter(), time.process_time()
        ask(query)
        if turn >= 0:
            taken.append((time.perf_counter() - started) * 1e3)
            used.append((time.process_time() - working) * 1e3)
    return Times(float(np.median(taken)), float(np.quantile(taken, 0.95)), float(np.median(used)))


def recall(ask: Ask, vectors: Rows, queries: Rows, kth: Rows) -> float:
    """Share of the K nearest that are found; a row as near as the K-th is as good."""
    hits = 0
    for query, least in zip(queries, kth, strict=True):
        slots = ask(query)
        scores = vectors[slots[slots >= 0]].astype(np.float32) @ query
        hits += int((scores >= least - 2 * SCORE_TOLERANCE).sum())
    return hits / (len(queries) * K)
