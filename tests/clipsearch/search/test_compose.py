from __future__ import annotations

import numpy as np
import pytest

from clipsearch.errors import ModelInvalid, UsageError
from clipsearch.search.compose import compose
from clipsearch.search.query import Query

AXES = {
    "horse": [1, 0, 0],
    "stripes": [0, 1, 0],
    "grass": [0, 0, 1],
    "zebra.jpg": [3, 4, 0],
    "nothing": [0, 0, 0],
}


class Fake:
    """Each word has its own axis, so that every sum can be computed by hand."""

    def __init__(self):
        self.calls = []

    def __call__(self, values):
        self.calls.append(values)
        return np.array([AXES[value] for value in values], np.float32)


def composed(query):
    texts, images = Fake(), Fake()
    vector, kind = compose(query, texts, images)
    assert vector.dtype == np.float32
    return vector, kind, texts.calls, images.calls


def test_one_word():
    vector, kind, texts, images = composed(Query.text("horse"))
    np.testing.assert_array_equal(vector, [1, 0, 0])
    assert (kind, texts, images) == ("text", [["horse"]], [])


def test_a_sum_by_hand():
    query = Query.text("horse") + 2 * Query.text("stripes") - 2 * Query.text("grass")
    vector, kind, texts, _ = composed(query)
    np.testing.assert_allclose(vector, [1 / 3, 2 / 3, -2 / 3], rtol=1e-6)
    assert kind == "text"
    assert texts == [["horse", "stripes", "grass"]]


def test_pictures_count_as_unit_vectors():
    vector, kind, texts, images = composed(Query.image("zebra.jpg"))
    np.testing.assert_allclose(vector, [0.6, 0.8, 0], rtol=1e-6)
    assert (kind, texts, images) == ("image", [], [["zebra.jpg"]])


def test_a_mixed_sum_keeps_the_order_of_its_terms():
    query = Query.image("zebra.jpg") - Query.text("stripes") + Query.image("zebra.jpg")
    vector, kind, _, images = composed(query)
    np.testing.assert_allclose(vector, np.array([1.2, 0.6, 0]) / np.hypot(1.2, 0.6), rtol=1e-6)
    assert kind == "text"
    assert images == [["zebra.jpg", "zebra.jpg"]]


def test_only_negative():
    np.testing.assert_array_equal(composed(-Query.text("horse"))[0], [-1, 0, 0])


@pytest.mark.parametrize("factor", [1e-300, 1e300])
def test_weights_are_relative(factor):
    vector = composed(factor * (Query.text("horse") + Query.text("stripes")))[0]
    np.testing.assert_allclose(vector, [0.5**0.5, 0.5**0.5, 0], rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_terms_that_cancel_out_are_refused(factor):
    with pytest.raises(UsageError, match="cancel"):
        composed(factor * (Query.text("horse") - Query.text("horse")))


def test_a_model_that_gives_nothing_is_refused():
    with pytest.raises(ModelInvalid):
        composed(Query.text("nothing"))
    with pytest.raises(ModelInvalid, match="shape"):
        compose(Query.text("horse"), lambda values: np.ones(3, np.float32), Fake())
