from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from clipsearch.errors import ModelMismatch, UsageError
from clipsearch.halves import WIDENED, widen
from clipsearch.index import exact, many
from clipsearch.index.exact import ExactSearch, scan_over


@pytest.fixture(params=["numpy", "faiss", "gather"])
def way(request, monkeypatch):
    """Each of the ways, forced: the answer may not depend on which one was taken."""
    by_faiss = request.param == "faiss"
    monkeypatch.setattr(ExactSearch, "_by_faiss", lambda self, count, queries: by_faiss)
    if request.param == "gather":
        monkeypatch.setattr(exact, "ROWS_AT_A_TIME", 7)
        monkeypatch.setattr(exact, "SCORES_AT_A_TIME", 1)
    return request.param


@pytest.fixture(scope="module")
def vectors():
    random = np.random.default_rng(1)
    rows = random.standard_normal((3_000, 48))
    rows[500:540] = rows[7]  # copies of one photo
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16)


SELECTIONS = {
    "all": None,
    "one": [2_999],
    "few": [0, 7, 501, 1_500],
    "copies": list(range(500, 540)),
    "third": list(range(0, 3_000, 3)),
    "all but one": [i for i in range(3_000) if i != 7],
}


@pytest.mark.parametrize("k", [1, 10, 41, 5_000])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_is_brute_force(vectors, brute, way, selection, k):
    queries = np.random.default_rng(2).standard_normal((5, 48))
    queries[4] = vectors[7]  # forty equal scores at the top
    allowed = SELECTIONS[selection]
    scores, slots = ExactSearch(vectors).search(queries, k, allowed)
    expected_scores, expected_slots = brute(vectors, queries, k, allowed)
    np.testing.assert_array_equal(slots, expected_slots)
    np.testing.assert_array_equal(scores, expected_scores)
    assert scores.dtype == np.float32
    assert slots.dtype == np.int64
    assert slots.shape == (5, min(k, 3_000 if allowed is None else len(allowed)))


def test_equal_rows_come_in_the_order_of_their_slots(way):
    vectors = np.zeros((4_000, 16), np.float16)
    vectors[:, 0] = 1
    scores, slots = ExactSearch(vectors).search(np.eye(16)[0], 12, np.arange(100, 4_000))
    assert slots.tolist() == [list(range(100, 112))]
    assert scores.tolist() == [[1.0] * 12]


def test_scores_can_be_computed_by_hand(way):
    vectors = np.array([[1, 0], [0, 1], [-1, 0], [0.6, 0.8]], np.float16)
    scores, slots = ExactSearch(vectors).search([3.0, 4.0], 4)  # not of unit length: 0.6, 0.8 after all
    assert slots.tolist() == [[3, 1, 0, 2]]
    np.testing.assert_allclose(scores, [[1.0, 0.8, 0.6, -0.6]], atol=5e-4)  # 0.6 and 0.8 rounded to half


def test_every_finite_half_is_widened_exactly():
    halves = np.arange(65_536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 64)
    wide = widen(halves, np.empty(halves.shape, np.int32)) / WIDENED
    np.testing.assert_array_equal(wide.view(np.uint32), halves.astype(np.float32).view(np.uint32))


def test_the_scan_uses_the_rows_where_they_lie(vectors):
    rows = vectors.copy()
    scan = scan_over(rows)
    rows[1_234] = 0
    rows[1_234, 5] = 1
    _, slots = scan.search(np.eye(48, dtype=np.float32)[5:6], 1)
    assert slots.tolist() == [[1_234]]


def test_the_scan_keeps_the_rows_alive(vectors):
    import gc

    scan = scan_over(vectors.copy())
    gc.collect()
    expected = ExactSearch(vectors).search(vectors[11], 1)[1]
    assert scan.search(vectors[11:12].astype(np.float32), 1)[1].tolist() == expected.tolist()


def test_a_read_only_memory_map_is_searched(tmp_path, vectors, brute, way):
    (tmp_path / "v").write_bytes(vectors.tobytes())
    mapped = np.memmap(tmp_path / "v", dtype="<f2", mode="r", shape=vectors.shape)
    _, slots = ExactSearch(mapped).search(vectors[:3], 5)
    np.testing.assert_array_equal(slots, brute(vectors, vectors[:3], 5)[1])


@pytest.mark.parametrize(
    "query",
    [np.full(48, np.nan), np.zeros(48), [np.inf] + [1.0] * 47, ["a"] * 48, np.ones((1, 1, 48))],
    ids=["nan", "zero", "inf", "words", "three axes"],
)
def test_unusable_queries_are_refused(vectors, query):
    with pytest.raises(UsageError):
        ExactSearch(vectors).search(query, 5)


def test_one_unusable_row_among_good_ones_is_refused(vectors):
    queries = np.ones((3, 48))
    queries[1, 4] = np.nan
    with pytest.raises(UsageError, match="NaN"):
        ExactSearch(vectors).search(queries, 5)


def test_huge_and_tiny_queries_are_directions(vectors):
    search = ExactSearch(vectors)
    direction = np.random.default_rng(0).standard_normal(48)
    expected = search.search(direction, 5)[1].tolist()
    assert search.search(direction * 1e100, 5)[1].tolist() == expected
    assert search.search(direction * 1e-100, 5)[1].tolist() == expected


def test_another_width_is_another_model(vectors):
    with pytest.raises(ModelMismatch, match="47 numbers"):
        ExactSearch(vectors).search(np.ones(47), 5)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3", None])
def test_k_is_a_positive_number(vectors, k):
    with pytest.raises(UsageError):
        ExactSearch(vectors).search(np.ones(48), k)


@pytest.mark.parametrize("allowed", [[-1], [3_000], [[1, 2]], [0.5]])
def test_slots_that_do_not_exist_are_refused(vectors, allowed):
    with pytest.raises(UsageError):
        ExactSearch(vectors).search(np.ones(48), 5, allowed)


def test_an_empty_selection_gives_an_empty_answer(vectors):
    for empty in ([], np.empty(0, np.int64)):
        scores, slots = ExactSearch(vectors).search(np.ones((2, 48)), 5, empty)
        assert scores.shape == slots.shape == (2, 0)


def test_an_empty_matrix_gives_an_empty_answer():
    scores, slots = ExactSearch(np.empty((0, 48), np.float16)).search(np.ones(48), 5)
    assert scores.shape == slots.shape == (1, 0)


def test_unsorted_and_repeated_slots_are_a_set(vectors):
    _, slots = ExactSearch(vectors).search(np.ones(48), 10, [9, 3, 3, 9, 1])
    assert sorted(slots[0].tolist()) == [1, 3, 9]


def test_vectors_of_another_type_are_refused(vectors):
    with pytest.raises(ValueError, match="float16"):
        ExactSearch(vectors.astype(np.float32))
    with pytest.raises(ValueError, match="contiguous"):
        ExactSearch(vectors[:, ::2])


RENT = """
import sys
import numpy as np
from clipsearch.index import exact
exact.NUMPY_BUDGET = 2_500 * 48
search = exact.ExactSearch(np.eye(1_000, 48, dtype=np.float16))
loaded = []
for _ in range(4):
    search.search(np.ones(48), 5)
    loaded.append("faiss" in sys.modules)
print(loaded, "torch" in sys.modules, "sqlalchemy" in sys.modules)
"""


def test_faiss_is_imported_once_numpy_has_cost_as_much():
    done = subprocess.run([sys.executable, "-c", RENT], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[False, False, True, True] False False"


@pytest.mark.parametrize("k", [1, 10, 41])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_many_queries_at_once_are_answered_as_one_by_one(vectors, brute, monkeypatch, selection, k):
    """In blocks far smaller than the matrix, with forty equal rows at the top of some answers."""
    monkeypatch.setattr(many, "BLOCK_ROWS", 100)
    monkeypatch.setattr(many, "SCORES", 100 * 16)
    queries = np.random.default_rng(4).standard_normal((40, 48))
    queries[3] = queries[33] = vectors[7]
    allowed = SELECTIONS[selection]
    scores, slots = ExactSearch(vectors).search(queries, k, allowed)
    expected_scores, expected_slots = brute(vectors, queries, k, allowed)
    np.testing.assert_array_equal(slots, expected_slots)
    np.testing.assert_array_equal(scores, expected_scores)


def test_thousands_of_equal_rows_are_held_for_many_queries_too():
    vectors = np.zeros((9_000, 16), np.float16)
    vectors[:, 0] = 1
    scores, slots = ExactSearch(vectors).search(np.tile(np.eye(16)[0], (20, 1)), 12, np.arange(50, 9_000))
    assert slots.tolist() == [list(range(50, 62))] * 20
    assert (scores == 1).all()
