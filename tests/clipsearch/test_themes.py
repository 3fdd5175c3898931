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


def test_every_photo_is_in_one_theme_the_most_typical_first() -> None:
    vectors = photos([("dogs", 300), ("boats", 301)])
    vectors[3] = (vectors[3] + axis(400)) / np.linalg.norm(vectors[3] + axis(400))
    found = themes(vectors, words, count=2)
    assert sorted(row for theme in found for row in theme.rows.tolist()) == list(range(40))
    assert next(theme for theme in found if theme.name == "dogs").rows[-1] == 3


@pytest.mark.parametrize("count", [0, FEWEST - 1])
def test_a_few_photos_have_no_themes(count: int) -> None:
    assert themes(photos([("dogs", 300)])[:count], words) == []
