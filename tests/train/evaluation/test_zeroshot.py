from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import ModelInvalid, UsageError
from clipsearch_train.evaluation import zeroshot
from clipsearch_train.evaluation.templates import IMAGENET_7, IMAGENET_80, ONE, load_templates
from clipsearch_train.evaluation.zeroshot import class_embeddings, classify


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_zero_shot_equals_brute_force() -> None:
    rng = np.random.default_rng(1)
    classes = unit(rng.normal(size=(12, 6)))
    labels = rng.integers(12, size=200)
    images = unit(classes[labels] + rng.normal(size=(200, 6)) * 0.7)
    scores = classify(images, classes, labels).scores()
    order = np.argsort(-(images @ classes.T), axis=1)
    assert scores["top1"] == pytest.approx(float((order[:, 0] == labels).mean() * 100))
    assert scores["top5"] == pytest.approx(float((order[:, :5] == labels[:, None]).any(axis=1).mean() * 100))
    assert 20 < scores["top1"] < scores["top5"] < 100


class Lettered:
    """Embeds a text as the counts of the letters a, b and c."""

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return unit(np.array([[text.count(letter) for letter in "abc"] for text in texts], dtype=np.float64))


@pytest.mark.parametrize("chunk", [4096, 2, 1])
def test_prompts_are_averaged_in_embedding_space(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeroshot, "CHUNK", chunk)
    classes = class_embeddings(Lettered(), ["a", "b"], ["{}", "{}c"])
    half = np.sqrt(0.5)
    first = np.array([1 + half, 0, half])
    assert classes == pytest.approx(unit(np.stack([first, first[[1, 0, 2]]])), rel=1e-6)
    assert classes.dtype == np.float32


def test_per_class_accuracy_by_hand() -> None:
    # Three of class 0, all right; one of class 1, wrong; class 2 has no image and does not count.
    images = np.eye(3, dtype=np.float32)[[0, 0, 0, 0]]
    found = classify(images, np.eye(3, dtype=np.float32), np.array([0, 0, 0, 1]))
    assert found.per_class() == {0: 100.0, 1: 0.0}
    assert found.scores() == {"top1": 75.0, "top5": 100.0, "mean_per_class": 50.0}


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_a_collapsed_or_broken_model_scores_nothing(value: float) -> None:
    images = np.full((20, 4), value, np.float32) / 2
    assert classify(images, images[:10], np.zeros(20, np.int64)).scores()["top5"] == 0.0


def test_prompts_that_are_no_numbers_are_named() -> None:
    class Broken(Lettered):
        def encode_text(self, texts: Sequence[str]) -> np.ndarray:
            return np.where(np.array(["b" in text for text in texts])[:, None], np.nan, np.ones((1, 3)))

    with pytest.raises(ModelInvalid, match="prompts of 'b' have no usable mean"):
        class_embeddings(Broken(), ["a", "b"], ["{}"])


def test_the_templates_are_the_published_ones() -> None:
    assert len(set(IMAGENET_80)) == 80
    assert set(IMAGENET_7) <= set(IMAGENET_80)
    assert set(ONE) <= set(IMAGENET_80)
    assert (IMAGENET_80[0], IMAGENET_80[-1]) == ("a bad photo of a {}.", "a tattoo of the {}.")
    for template in IMAGENET_80:
        assert template.count("{}") == 1
        assert template.endswith(".")


def test_templates_by_name_or_file(tmp_path: Path) -> None:
    assert load_templates("imagenet-80") == IMAGENET_80
    own = tmp_path / "own.txt"
    own.write_text("a {} at home\n\n  {}!\n")
    assert load_templates(str(own)) == ("a {} at home", "{}!")
    for content, message in (
        ("", "holds no template"),
        ("a dog", "must have one"),
        ("{} {0}", "must have one"),
    ):
        own.write_text(content)
        with pytest.raises(UsageError, match=message):
            load_templates(str(own))
    with pytest.raises(
        UsageError, match="neither a file of templates nor one of imagenet-80, imagenet-7, one"
    ):
        load_templates("imagenet-9")


def test_a_class_may_be_called_anything() -> None:
    assert class_embeddings(Lettered(), ["a {} {0}"], ["{} b"]) == pytest.approx(
        unit(np.array([[1.0, 1.0, 0.0]]))
    )
