import numpy as np
import pytest

from clipsearch_train.evaluation.calibration import BINS, EDGES, Calibration, calibrate


def at(*cosines: float) -> np.ndarray:
    """Counts of cosines, each in the middle of its step."""
    return np.histogram(cosines, EDGES)[0]


def test_pairs_are_counted_by_cosine() -> None:
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[1, 0, 0], [0.6, 0.8, 0]], np.float32)
    found = calibrate(images, texts, np.arange(3), np.array([0, 0]))
    assert np.repeat(EDGES[:-1], found.matching) == pytest.approx([0.6, 0.999], abs=1.1e-3)
    assert np.repeat(EDGES[:-1], found.others) == pytest.approx([0, 0, 0, 0.8], abs=1.1e-3)
    assert found.prevalence == pytest.approx(2 / 6)
    assert found.search is None  # three images are no background


def test_recall_fall_out_and_precision_by_hand() -> None:
    found = Calibration(at(0.5005, 0.5005, 0.3005, 0.1005), at(*[0.0005] * 8, 0.2005, 0.4005))
    told = found.at(0.3, prevalence=0.5)
    assert told == pytest.approx({"cutoff": 0.3, "recall": 0.75, "fall_out": 0.1, "precision": 0.75 / 0.85})
    # One in a hundred matches: 0.01 · 0.75 rightly against 0.99 · 0.1 wrongly.
    assert found.at(0.3)["precision"] == pytest.approx(0.0075 / (0.0075 + 0.099))
    assert found.at(0.3, found.prevalence)["precision"] == pytest.approx(3 / 4)
    assert found.at(1.0)["precision"] == 1.0  # nothing is shown
    assert found.suggested() == pytest.approx(0.401, abs=1e-3)  # two of four, and nothing wrong any more
    assert found.suggested(prevalence=0.9) <= 0.101
    # Of 40 pairs (matching, other) 8·4 + 3 + 2 are in order.
    assert found.auc() == pytest.approx(37 / 40)
    assert found.quantiles(found.matching)[0.5] == pytest.approx(0.301, abs=1e-3)


def test_ties_are_half_right() -> None:
    assert Calibration(at(0.1005), at(0.1005)).auc() == 0.5


def test_the_table_shows_where_cut_offs_matter() -> None:
    found = Calibration(at(0.31, 0.42), at(0.08, 0.12))
    assert [row["cutoff"] for row in found.table()] == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4])


def test_the_searchs_own_cut_off_is_scored() -> None:
    """Two hundred images in ten heaps; a query lies on a heap's axis: the heap is well above the rest."""
    rng = np.random.default_rng(0)
    heaps = np.repeat(np.arange(10), 20)
    images = np.eye(64)[heaps] * 2 + rng.normal(size=(200, 64)) * 0.2
    images = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
    found = calibrate(images, np.eye(64, dtype=np.float32)[:10], heaps, np.arange(10))
    assert found.search is not None
    assert found.search.queries == 10
    assert found.search.recall > 0.95
    assert found.search.precision is not None
    assert found.search.precision > 0.8
    assert found.search.shown == pytest.approx(20 * found.search.recall / found.search.precision)
    assert found.auc() > 0.99
    assert 0.2 < found.search.suggested < 0.7


def test_cosines_just_outside_are_counted_at_the_ends() -> None:
    rows = np.array([[1.000001], [-1.000001]], np.float32)
    found = calibrate(rows, np.array([[1.000001]], np.float32), np.arange(2), np.array([0]))
    assert (found.matching[BINS - 1], found.others[0]) == (1, 1)
