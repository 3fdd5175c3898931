import numpy as np
import pytest

from clipsearch_train.evaluation.bootstrap import Interval, interval, paired_difference, resampled_means


def test_the_interval_of_a_share_is_as_wide_as_theory_says() -> None:
    hits = np.array([1.0] * 200 + [0.0] * 800)
    draws = resampled_means(hits[:, None])[:, 0]
    found = interval(hits.mean(), draws)
    spread = 1.96 * np.sqrt(0.2 * 0.8 / 1000)
    assert (found.low, found.high) == pytest.approx((0.2 - spread, 0.2 + spread), abs=0.003)
    assert draws.mean() == pytest.approx(0.2, abs=0.002)


def test_observations_of_one_image_are_drawn_together() -> None:
    # Each image's five captions are all found or none: five times the observations, not the knowledge.
    hits = np.repeat([5.0, 0.0], 100)
    alone = resampled_means(hits[:, None] / 5)[:, 0]
    together = resampled_means(hits[:, None], np.full(200, 5))[:, 0]
    assert together.std() == pytest.approx(alone.std())
    assert together.std() == pytest.approx(np.sqrt(0.25 / 200), rel=0.1)


def test_a_paired_difference_is_narrower_than_an_unpaired_one() -> None:
    rng = np.random.default_rng(0)
    a = (rng.random(1000) < 0.5) * 100.0
    b = a.copy()
    b[np.flatnonzero(a == 0)[:30]] = 100.0  # b has what a has, and thirty more
    found = paired_difference(a, b)
    assert found.value == pytest.approx(3.0)
    assert 1.8 < found.low < 3.0 < found.high < 4.2
    assert found.is_clear
    assert not paired_difference(a, a).is_clear
    assert paired_difference(a, a) == Interval(0, 0, 0)
    assert str(found).startswith("3.0 [")


def test_images_without_captions_count_for_nothing() -> None:
    found = paired_difference([0.0, 0.0, 0.0], [100.0, 0.0, 0.0], [1, 1, 0])
    assert found.value == pytest.approx(50.0)
    assert 0 <= found.low <= found.high <= 100


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="same images"):
        paired_difference([1.0], [1.0, 2.0])
