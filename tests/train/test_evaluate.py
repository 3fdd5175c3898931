from collections.abc import Sequence

import numpy as np
import pytest

from clipsearch_train.evaluate import class_embeddings, recall_at, zero_shot


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_recall(images: np.ndarray, texts: np.ndarray, owner: np.ndarray, k: int) -> tuple[float, float]:
    similarity = texts @ images.T
    forth = [owner[t] in np.argsort(-similarity[t])[:k] for t in range(len(texts))]
    back = [any(owner[t] == i for t in np.argsort(-similarity[:, i])[:k]) for i in sorted(set(owner))]
    return float(np.mean(forth) * 100), float(np.mean(back) * 100)


def test_recall_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    images = unit(rng.normal(size=(40, 8)))
    owner = rng.permutation(np.repeat(np.arange(40), 3))
    texts = unit(images[owner] + rng.normal(size=(120, 8)) * 0.6)
    scores = recall_at(images, texts, owner, ks=(1, 5, 10))
    for k in (1, 5, 10):
        forth, back = brute_recall(images, texts, owner, k)
        assert scores[f"text_to_image_r{k}"] == pytest.approx(forth)
        assert scores[f"image_to_text_r{k}"] == pytest.approx(back)
    assert 5 < scores["text_to_image_r1"] < 95


def test_recall_by_hand() -> None:
    images = np.eye(3, dtype=np.float32)
    # Text 0 and 1 are of image 0, the second of them lies nearer to image 1; text 2 is of image 1.
    texts = unit(np.array([[1, 0.1, 0], [0.5, 0.9, 0], [0, 1, 0.1]]))
    scores = recall_at(images, texts, np.array([0, 0, 1]), ks=(1, 2))
    assert scores == pytest.approx(
        {
            "text_to_image_r1": 200 / 3,
            "text_to_image_r2": 100.0,
            "image_to_text_r1": 100.0,
            "image_to_text_r2": 100.0,
        }
    )


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_a_collapsed_or_broken_model_scores_nothing(value: float) -> None:
    images = np.full((20, 4), value, np.float32) / 2
    owner = np.repeat(np.arange(20), 2)
    assert set(recall_at(images, images[owner], owner).values()) == {0.0}
    assert set(zero_shot(images, images[:10], np.zeros(20, np.int64)).values()) == {0.0}


def test_zero_shot_equals_brute_force() -> None:
    rng = np.random.default_rng(1)
    classes = unit(rng.normal(size=(12, 6)))
    labels = rng.integers(12, size=200)
    images = unit(classes[labels] + rng.normal(size=(200, 6)) * 0.7)
    scores = zero_shot(images, classes, labels)
    order = np.argsort(-(images @ classes.T), axis=1)
    assert scores["top1"] == pytest.approx(float((order[:, 0] == labels).mean() * 100))
    assert scores["top5"] == pytest.approx(float((order[:, :5] == labels[:, None]).any(axis=1).mean() * 100))
    assert 20 < scores["top1"] < scores["top5"] < 100


class Lettered:
    """Embeds a text as the counts of the letters a, b and c."""

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return unit(np.array([[text.count(letter) for letter in "abc"] for text in texts], dtype=np.float64))


def test_prompts_are_averaged_in_embedding_space() -> None:
    classes = class_embeddings(Lettered(), ["a", "b"], ["{}", "{}c"])
    half = np.sqrt(0.5)
    first = np.array([1 + half, 0, half])
    assert classes == pytest.approx(unit(np.stack([first, first[[1, 0, 2]]])), rel=1e-6)
    assert classes.dtype == np.float32
