from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import ModelInvalid, TrainingError
from clipsearch_train.evaluation.datasets import Dataset, from_class_folders
from clipsearch_train.evaluation.features import Features
from clipsearch_train.evaluation.shifts import Shift
from tests.train.evaluation.conftest import ColourModel

GREY = Shift("grayscale")


@pytest.fixture
def dataset(paint: Callable[..., Path]) -> Dataset:
    names = {f"all/{name}/{number}.png": name for name in ("red", "green", "blue") for number in range(3)}
    return from_class_folders(paint(names) / "all")


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_each_image_is_embedded_once_a_version(model: ColourModel, dataset: Dataset, batch: int) -> None:
    told = []
    features = Features(model, lambda *report: told.append(report), batch)
    embedded = features.images(dataset, [GREY])
    assert model.images == 18
    assert embedded.original.tolist() == [[0, 0, 1]] * 3 + [[0, 1, 0]] * 3 + [[1, 0, 0]] * 3
    assert embedded.vectors[GREY] == pytest.approx(np.full((9, 3), 3**-0.5), abs=1e-6)
    assert embedded.dataset is dataset
    assert told[-1] == ("embedding all", 18, 18)


def test_images_that_cannot_be_read_are_left_out_and_named(model: ColourModel, dataset: Dataset) -> None:
    for name in ("blue/1.png", "red/2.png"):
        item = next(item for item in dataset.items if item.key == name)
        Path(str(item.image)).write_bytes(b"not an image")
    embedded = Features(model, batch=2).images(dataset, [GREY])
    assert embedded.skipped == ("blue/1.png", "red/2.png")
    assert embedded.dataset.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert embedded.original.argmax(axis=1).tolist() == [2, 2, 1, 1, 1, 0, 0]
    assert len(embedded.vectors[GREY]) == 7


def test_no_image_at_all(model: ColourModel, dataset: Dataset) -> None:
    for item in dataset.items:
        Path(str(item.image)).write_bytes(b"")
    with pytest.raises(TrainingError, match="None of the 9 images of all can be read"):
        Features(model).images(dataset)


def test_embeddings_that_are_no_numbers_are_refused(model: ColourModel, paint: Callable[..., Path]) -> None:
    folder = paint({"all/dark/a.png": (0, 0, 0), "all/red/b.png": "red"}) / "all"
    with pytest.raises(ModelInvalid, match=r"no number for 1 of 2 inputs \(such as 'dark/a.png'\)"):
        Features(model).images(from_class_folders(folder))


def test_texts_and_classes_are_embedded_once(model: ColourModel) -> None:
    features = Features(model)
    for _ in range(2):
        features.texts(["red", "green"])
        features.classes(["red"], ["a {}", "the {}"])
    assert model.asked == ["red", "green", "a red", "the red"]
