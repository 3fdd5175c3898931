from __future__ import annotations

import numpy as np
import pytest

from clipsearch.errors import ModelMismatch, UsageError
from clipsearch.search.cutoff import suggest_cutoff

N = 10_000


def with_scores(scores):
    """Unit rows in the plane whose dot product with the first axis is as given."""
    return np.stack([scores, np.sqrt(1 - scores**2)], axis=1).astype(np.float16)


@pytest.fixture
def background():
    return np.random.default_rng(0).normal(0.2, 0.02, N)


def test_without_a_match_about_one_photo_passes(background):
    cutoff = suggest_cutoff(with_scores(background), [1, 0], np.arange(N))
    assert (background >= cutoff).sum() <= 8
    assert cutoff == pytest.approx(0.2 + 3.72 * 0.02, abs=0.005)  # 1 in 10,000 lies 3.72 deviations above


def test_matches_pass(background):
    background[:50] = 0.32
    cutoff = suggest_cutoff(with_scores(background), [1, 0], np.arange(N))
    assert set(range(50)) <= set(np.flatnonzero(background >= cutoff).tolist())
    assert (background >= cutoff).sum() <= 58


def test_a_query_that_everything_resembles_has_a_higher_cutoff(background):
    low = suggest_cutoff(with_scores(background), [1, 0], np.arange(N))
    high = suggest_cutoff(with_scores(background + 0.1), [1, 0], np.arange(N))
    assert high == pytest.approx(low + 0.1, abs=0.005)


def test_only_the_given_slots_are_the_background(background):
    background[: N // 2] += 0.3
    cutoff = suggest_cutoff(with_scores(background), [1, 0], np.arange(N // 2, N))
    assert cutoff < 0.3


def test_no_suggestion_without_a_background(background):
    assert suggest_cutoff(with_scores(background), [1, 0], np.arange(99)) is None
    assert suggest_cutoff(with_scores(np.full(N, 0.2)), [1, 0], np.arange(N)) is None


def test_unusable_queries(background):
    with pytest.raises(UsageError):
        suggest_cutoff(with_scores(background), [0, 0], np.arange(N))
    with pytest.raises(ModelMismatch):
        suggest_cutoff(with_scores(background), [1, 0, 0], np.arange(N))
