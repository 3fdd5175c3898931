import sys

import numpy as np
import pytest

from clipsearch.errors import MissingExtra, TrainingError
from clipsearch_train.evaluation.probe import STRENGTHS, held_out, linear_probe, strongest


def test_the_sweep_is_the_papers() -> None:
    assert len(STRENGTHS) - 1 == 96
    assert (STRENGTHS[0], STRENGTHS[-1]) == pytest.approx((1e-6, 1e6))
    assert STRENGTHS[8] / STRENGTHS[0] == pytest.approx(10)


@pytest.mark.parametrize("peak", [0, 1, 37, 48, 55, 95, 96])
def test_the_search_finds_the_peak_of_a_hill_in_few_tries(peak: int) -> None:
    tried = []

    def accuracy(step: int) -> float:
        tried.append(step)
        return -abs(step - peak)

    assert strongest(accuracy) == peak
    assert len(tried) == len(set(tried)) <= 15
    assert tried[:7] == [0, 16, 32, 48, 64, 80, 96]  # 1e-6, 1e-4, … 1e6


def test_of_equals_the_strongest_penalty_is_taken() -> None:
    assert strongest(lambda step: float(step <= 40)) == 40


def test_a_fifth_of_each_class_is_held_out() -> None:
    labels = np.repeat([0, 1, 2, 3], [10, 5, 2, 1])
    held = held_out(labels, seed=0)
    assert np.bincount(labels[held], minlength=4).tolist() == [2, 1, 1, 0]
    assert np.array_equal(held, held_out(labels, seed=0))
    assert not np.array_equal(held, held_out(labels, seed=1))


def clouds(count: int, seed: int, spread: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows around three axes of eight."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    rows = np.eye(8)[labels] + rng.normal(size=(count, 8)) * spread
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def test_a_probe_learns_what_is_linear() -> None:
    train, labels = clouds(90, 0)
    test, wanted = clouds(60, 1)
    told: list[int] = []
    found = linear_probe(train, labels + 5, test, wanted + 5, progress=told.append)
    assert found.top1 >= 95
    assert found.top1 == pytest.approx(found.hits.mean() * 100)
    assert found.mean_per_class == pytest.approx(found.top1)  # as many of each
    assert found.train_images == 90
    assert found.tried[found.strength] == max(found.tried.values())
    assert told == list(range(1, len(found.tried) + 1))


def test_a_probe_of_noise_is_at_chance() -> None:
    train, labels = clouds(90, 0)
    noise, wanted = clouds(300, 1)
    found = linear_probe(train, labels, np.random.default_rng(2).permutation(noise), wanted)
    assert 20 < found.top1 < 47


def test_what_cannot_be_probed() -> None:
    rows, labels = clouds(12, 0)
    with pytest.raises(TrainingError, match="1 classes of the test images have no training image"):
        linear_probe(rows[labels < 2], labels[labels < 2], rows, labels)
    with pytest.raises(TrainingError, match="two classes at least"):
        linear_probe(rows, np.zeros(12, np.int64), rows, labels)
    with pytest.raises(TrainingError, match="two training images of some class"):
        linear_probe(rows[:3], labels[:3], rows, labels)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    rows, labels = clouds(12, 0)
    with pytest.raises(MissingExtra, match=r"pip install 'clipsearch\[train\]'"):
        linear_probe(rows, labels, rows, labels)
