from __future__ import annotations

import numpy as np
import pytest

from clipsearch.themes import FEWEST, NAMES, Floats, themes

DIM = 512


def axis(number: int) -> Floats:
    return np.eye(DIM, dtype=np.float32)[number]


def words(texts: list[str]) -> Floats:
    """Each name of its own direction, and "cats" near to everything."""
    found = np.stack([axis(number) for number in range(len(texts))])
    found[NAMES.index("cats")] += axis(DIM - 1)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def photos(kinds: list[tuple[str, int]], each: int = 20) -> Floats:
    """`each` photos of every (name, look): near to a name, and alike where their look is the same."""
    rng = np.random.default_rng(0)
    found = [
        axis(NAMES.index(name)) + 2 * axis(look) + axis(DIM - 1) + 0.05 * rng.standard_normal(DIM)
        for name, look in kinds
        for _ in range(each)
    ]
    rows = np.asarray(found, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_theme_has_the_name_its_photos_are_nearest_to() -> None:
    found = themes(photos([("dogs", 300), ("boats", 301), ("flowers", 302)]), words, count=3)
    assert {theme.name: sorted(theme.rows.tolist()) for theme in found} == {
        "dogs": list(range(20)),
        "boats": list(range(20, 40)),
        "flowers": list(range(40, 60)),
    }


def test_clusters_of_one_name_are_one_theme() -> None:
    found = themes(photos([("dogs", 300), ("dogs", 301), ("boats", 302)]), words, count=3)
    assert [(theme.name, len(theme.rows)) for theme in found] == [("dogs", 40), ("boats", 20)]


def test_the_most_typical_comes_first() -> None:
    vectors = photos([("dogs", 300), ("boats", 301)])
    vectors[3] = (vectors[3] + axis(400)) / np.linalg.norm(vectors[3] + axis(400))
    found = themes(vectors, words, count=2)
    assert sorted(row for theme in found for row in theme.rows.tolist()) == list(range(40))
    assert next(theme for theme in found if theme.name == "dogs").rows[-1] == 3


def test_a_cluster_whose_photos_do_not_agree_has_no_name() -> None:
    apart = [(name, 300) for name in ("boats", "flowers", "trains", "coins", "maps")]
    vectors = photos([("dogs", 301), *((name, look) for name, look in apart)], each=4)
    found = themes(vectors, words, count=2)
    assert [(theme.name, theme.rows.tolist()) for theme in found] == [("dogs", [*found[0].rows])]
    assert sorted(found[0].rows.tolist()) == [0, 1, 2, 3]


def test_a_photo_that_the_name_does_not_fit_is_left_out() -> None:
    vectors = photos([("dogs", 300), ("boats", 301)])
    looks_alike = 2 * axis(300) + sum((axis(NAMES.index(name)) for name in NAMES[50:60]), 0 * axis(0))
    vectors[3] = looks_alike / np.linalg.norm(looks_alike)
    found = themes(vectors, words, count=2)
    assert sorted(row for theme in found for row in theme.rows.tolist()) == [0, 1, 2, *range(4, 40)]


@pytest.mark.parametrize("count", [0, FEWEST - 1])
def test_a_few_photos_have_no_themes(count: int) -> None:
    assert themes(photos([("dogs", 300)])[:count], words) == []
