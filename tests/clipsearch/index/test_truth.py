"""What recall is measured against, and that photos which ask for themselves do not make it look better."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from clipsearch.errors import UsageError
from clipsearch.index.curve import curve
from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import Effort, IvfPq, build
from clipsearch.index.params import IvfPqParams
from clipsearch.index.truth import Truth, own_slots, without
from clipsearch.index.tuning import tune, tune_and_measure
from tests.clipsearch.index.conftest import unit

DIM, ROWS, TARGET = 16, 30_000, 0.95


@dataclass(frozen=True)
class Photos:
    """Rows without clusters, so that a row's neighbours lie in other lists than it does, and unseen ones."""

    vectors: np.ndarray
    index: IvfPq
    own: np.ndarray
    unseen: np.ndarray

    def found(self, effort: Effort, k: int) -> float:
        """Recall of the unseen, by the definition."""
        kth = ExactSearch(self.vectors).search(self.unseen, k)[0][:, k - 1]
        answers = self.index.search(self.vectors, self.unseen, k, effort)
        return float(
            np.mean(
                [(scores >= least - 1e-6).mean() for (scores, _), least in zip(answers, kth, strict=True)]
            )
        )

    @property
    def rows(self) -> np.ndarray:
        return self.vectors[self.own].astype(np.float32)


@pytest.fixture(scope="module")
def photos(one_thread) -> Photos:
    random = np.random.default_rng(0)
    spectrum = np.arange(1, DIM + 1) ** -0.25
    rows = unit(random.standard_normal((ROWS + 500, DIM)) * spectrum).astype(np.float32)
    vectors = rows[:ROWS].astype(np.float16)
    index = build(vectors, IvfPqParams(lists=600, code_bytes=4))
    return Photos(vectors, index, random.choice(ROWS, 400, replace=False), rows[ROWS:])


def test_photos_that_find_themselves_promise_what_others_do_not_get(photos):
    """One result wanted: each photo is its own, in the first list that is read."""
    arguments = {"target_recall": TARGET, "k": 1}
    flattered = tune(photos.index, photos.vectors, photos.rows, "image", **arguments)
    assert flattered.recall >= TARGET
    assert photos.found(flattered, 1) < TARGET / 2
    honest = tune(photos.index, photos.vectors, photos.rows, "image", own=photos.own, **arguments)
    assert honest.recall >= TARGET
    assert photos.found(honest, 1) >= TARGET


@pytest.mark.parametrize("k", [3, 10])
def test_the_target_is_reached_for_unseen_photos(photos, k):
    effort = tune(photos.index, photos.vectors, photos.rows, "image", own=photos.own, k=k)
    assert effort.recall >= TARGET
    assert photos.found(effort, k) >= TARGET


def test_what_is_measured_holds_for_unseen_photos(photos):
    effort = tune_and_measure(photos.index, photos.vectors, photos.rows, "image", own=photos.own)
    assert effort.recall == pytest.approx(photos.found(effort, 10), abs=0.02)
    assert photos.found(effort, 10) >= TARGET
    points = curve(photos.index, photos.vectors, photos.rows[1::2], "image", own=photos.own[1::2])
    assert [point.recall for point in points if point.tuned] == [effort.recall]
    one_list = points[1]
    assert one_list.probes == 1
    assert one_list.recall == pytest.approx(photos.found(Effort(1, effort.spread), 10), abs=0.05)


def test_the_kth_best_is_told_without_the_query_itself(world, brute):
    vectors = np.concatenate([world.vectors[:300], np.repeat(world.vectors[:1], 5, axis=0)])
    own = np.array([0, 7, -1, 302])  # five others are like 0 and like 302
    rows = vectors[[0, 7, 9, 302]].astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    truth = Truth.of(vectors, rows, 4, own)
    for number, slot in enumerate(own):
        others = np.setdiff1d(np.arange(len(vectors)), [slot])
        expected = brute(vectors, rows[number : number + 1], 4, others)[0][0, -1]
        assert truth.kth[number] == pytest.approx(expected, abs=1e-6)


def test_fewer_rows_than_wanted_are_all_neighbours(world):
    truth = Truth.of(world.vectors[:5], world.vectors[:2].astype(np.float32), 10, [0, 1])
    assert truth.k == 4
    assert Truth.of(world.vectors[:5], world.vectors[:2].astype(np.float32), 10).k == 5


def test_own_slots_belong_to_queries(world):
    with pytest.raises(UsageError, match="3 queries need 3 slots"):
        own_slots([1, 2], 3)
    np.testing.assert_array_equal(own_slots(None, 2), [-1, -1])
    np.testing.assert_array_equal(without(np.array([4, -1, 7, 9, 2]), 7, 2), [4, 9])
