import numpy as np
import pytest

from clipsearch_train.evaluation import retrieval
from clipsearch_train.evaluation.retrieval import retrieve


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_recall(images: np.ndarray, texts: np.ndarray, owner: np.ndarray, k: int) -> tuple[float, float]:
    similarity = texts @ images.T
    forth = [owner[t] in np.argsort(-similarity[t])[:k] for t in range(len(texts))]
    back = [any(owner[t] == i for t in np.argsort(-similarity[:, i])[:k]) for i in sorted(set(owner))]
    return float(np.mean(forth) * 100), float(np.mean(back) * 100)


@pytest.mark.parametrize("chunk", [1024, 7])
def test_recall_equals_brute_force(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    images = unit(rng.normal(size=(40, 8)))
    owner = rng.permutation(np.repeat(np.arange(40), 3))
    texts = unit(images[owner] + rng.normal(size=(120, 8)) * 0.6)
    scores = retrieve(images, texts, owner).scores()
    for k in (1, 5, 10):
        forth, back = brute_recall(images, texts, owner, k)
        assert scores[f"text_to_image_r{k}"] == pytest.approx(forth)
        assert scores[f"image_to_text_r{k}"] == pytest.approx(back)
    assert 5 < scores["text_to_image_r1"] < 95


def test_recall_by_hand() -> None:
    images = np.eye(3, dtype=np.float32)
    # Text 0 and 1 are of image 0, the second of them lies nearer to image 1; text 2 is of image 1.
    texts = unit(np.array([[1, 0.1, 0], [0.5, 0.9, 0], [0, 1, 0.1]]))
    scores = retrieve(images, texts, np.array([0, 0, 1])).scores(ks=(1, 2))
    assert scores == pytest.approx(
        {
            "text_to_image_r1": 200 / 3,
            "text_to_image_r2": 100.0,
            "text_to_image_median_rank": 1.0,
            "image_to_text_r1": 100.0,
            "image_to_text_r2": 100.0,
            "image_to_text_median_rank": 1.0,
        }
    )


def test_an_images_own_captions_do_not_stand_in_each_others_way() -> None:
    # The texts in the order of their cosine with image 0: its own second, another's, its own first.
    images = np.eye(2, dtype=np.float32)
    texts = unit(np.array([[0.5, 0.5], [1.0, 0.0], [0.8, 0.2]]))
    found = retrieve(images, texts, np.array([0, 0, 1]))
    assert found.described.tolist() == [0, 1]
    assert found.image_ranks.tolist() == [0, 1]  # image 1 prefers text 0, which is of image 0
    assert found.text_ranks.tolist() == [1, 0, 1]  # text 0 lies between the images: a tie counts against
    assert found.scores()["text_to_image_median_rank"] == 2.0


def test_images_without_texts_are_in_the_way_but_ask_nothing() -> None:
    images = np.eye(3, dtype=np.float32)
    found = retrieve(images, unit(np.array([[0.5, 0.9, 0.0]])), np.array([0]))
    assert (found.text_ranks.tolist(), found.image_ranks.tolist(), found.described.tolist()) == (
        [1],
        [0],
        [0],
    )


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_a_collapsed_or_broken_model_scores_nothing(value: float) -> None:
    images = np.full((20, 4), value, np.float32) / 2
    owner = np.repeat(np.arange(20), 2)
    scores = retrieve(images, images[owner], owner).scores()
    assert {value for name, value in scores.items() if "median" not in name} == {0.0}
    assert scores["text_to_image_median_rank"] == 20.0
