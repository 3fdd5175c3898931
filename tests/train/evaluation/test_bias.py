from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import UsageError
from clipsearch_train.evaluation.bias import bias_rates, load_bias

AXES = np.eye(3, dtype=np.float32)


def test_rates_and_gaps_by_hand() -> None:
    groups = {"young": AXES[[0] * 30 + [1] * 10], "old": AXES[[0] * 10 + [2] * 10]}
    labels = {"kind": AXES[:1], "crime": AXES[1:]}  # two prompts: whichever is nearest counts
    found = {(rate.group, rate.label): rate for rate in bias_rates(groups, labels)}
    assert {key: rate.rate.value for key, rate in found.items()} == {
        ("young", "kind"): 75.0,
        ("young", "crime"): 25.0,
        ("old", "kind"): 50.0,
        ("old", "crime"): 50.0,
    }
    young = found["young", "crime"]
    assert young.rate_gap.value == pytest.approx(-25.0)
    assert young.score.value == pytest.approx(0.25 / 2)  # one of the two prompts at cosine 1, the other at 0
    assert young.score_gap.value == pytest.approx(0.25 / 2 - 0.5 / 2)
    assert found["old", "crime"].rate_gap.value == pytest.approx(25.0)
    # Binomial: √(0.25 · 0.75 / 40) is 6.8 points; the gap adds the other group's √(0.25 / 20), 11.2.
    assert young.rate.high - young.rate.low == pytest.approx(2 * 1.96 * 6.8, rel=0.15)
    assert young.rate_gap.high - young.rate_gap.low == pytest.approx(2 * 1.96 * np.hypot(6.8, 11.2), rel=0.15)
    assert young.rate.low < 25 < young.rate.high


def test_a_group_is_held_against_all_others() -> None:
    groups = {"a": AXES[[0] * 10], "b": AXES[[1] * 10], "c": AXES[[0] * 30]}
    found = {(r.group, r.label): r for r in bias_rates(groups, {"x": AXES[:1], "y": AXES[1:2]})}
    assert found["a", "x"].rate_gap.value == pytest.approx(100 - 75)
    assert found["a", "x"].rate_gap.is_clear
    assert found["b", "x"].rate_gap == pytest.approx(found["b", "x"].rate_gap)
    assert found["b", "x"].rate_gap.value == -100.0


def question(folder: Path, labels: str = 'a = ["x"]\nb = ["y", "z"]', groups: str = "") -> Path:
    path = folder / "bias.toml"
    path.write_text(f"[labels]\n{labels}\n[groups]\n{groups}")
    return path


def test_a_question_is_read(paint: Callable[..., Path]) -> None:
    folder = paint({"faces/young/1.png": "red", "faces/old/deep/2.png": "blue"})
    found = load_bias(question(folder, groups='young = "faces/young"\n"very old" = "faces/old"'))
    assert found.labels == {"a": ("x",), "b": ("y", "z")}
    assert found.prompts == ["x", "y", "z"]
    assert [(group.name, len(group.items)) for group in found.groups] == [("young", 1), ("very old", 1)]


def test_questions_that_cannot_be_asked(paint: Callable[..., Path]) -> None:
    folder = paint({"young/1.png": "red", "old/2.png": "blue"})
    (folder / "empty").mkdir()
    both = 'y = "young"\no = "old"'
    for path, message in (
        (folder / "none.toml", "cannot be read as TOML"),
        (question(folder, "a = ["), "cannot be read as TOML"),
    ):
        with pytest.raises(UsageError, match=message):
            load_bias(path)
    path = question(folder, groups=both)
    path.write_text('templates = ["a {}"]\n' + path.read_text())
    with pytest.raises(UsageError, match="unknown key 'templates'"):
        load_bias(path)
    for labels, groups, message in (
        ('a = ["x"]', both, r"table \[labels\] with two entries"),
        ('a = "x"\nb = ["y"]', both, "label 'a' must be a list of prompts"),
        ('a = []\nb = ["y"]', both, "label 'a' must be a list of prompts"),
        ('a = ["x"]\nb = ["y"]', 'y = "young"', r"table \[groups\] with two entries"),
        ('a = ["x"]\nb = ["y"]', 'y = "young"\no = "gone"', "group 'o' must be a folder of images"),
        ('a = ["x"]\nb = ["y"]', 'y = "young"\no = 3', "group 'o' must be a folder of images"),
        ('a = ["x"]\nb = ["y"]', 'y = "young"\no = "empty"', "folder of the group 'o' holds no image"),
    ):
        with pytest.raises(UsageError, match=message):
            load_bias(question(folder, labels, groups))


def test_a_group_of_one_has_no_clear_gap() -> None:
    groups = {"one": AXES[:1], "more": np.repeat(AXES[1:2], 9, axis=0)}
    for rate in bias_rates(groups, {"x": AXES[:1], "y": AXES[1:2]}):
        assert not rate.rate_gap.is_clear
        assert not rate.score_gap.is_clear
