"""A locked trunk looks once; the head and a new text tower learn from what it saw."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from clipsearch.errors import UsageError
from clipsearch.model import Clip
from clipsearch.preprocess import Preprocess
from clipsearch.weights import load_folder
from clipsearch_train.batches import BatchSource
from clipsearch_train.data import Sample, find_shards, read_shards
from clipsearch_train.frozen import Frozen, FrozenTrunk, TrunkViews, check_frozen
from clipsearch_train.recipe import load_recipe
from clipsearch_train.sources import MemorySource
from clipsearch_train.start import Start, begin, load_start
from tests.train.conftest import VISIONS, encoded, make_base


def quiet(*_: object) -> None:
    pass


class Corners(nn.Module):
    """A trunk that sees the mean of the left and of the right half, and how sharp the image is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        sharp = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2, 3))
        return torch.stack([x[..., :half].mean(dim=(1, 2, 3)), x[..., half:].mean(dim=(1, 2, 3)), sharp], 1)


def half_white(source: str, key: str) -> Sample:
    """White on the left; fine stripes on the right."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32] = 255
    pixels[:, 32::2] = 100
    return Sample(key, encoded(Image.fromarray(pixels), "png"), source, ("a",), ())


SAMPLES = [half_white("m", "0"), half_white("s", "1"), half_white("s", "2"), half_white("x", "3")]
SETTINGS = Frozen(mirrored=("m",), shrunk={"s": 8})


def look(tmp_path: Path, trunk: nn.Module, samples: list[Sample]) -> FrozenTrunk:
    return FrozenTrunk(trunk, Preprocess(64), samples, SETTINGS, tmp_path / "trunk", quiet)


def test_views_of_the_samples(tmp_path: Path) -> None:
    views = look(tmp_path, Corners(), SAMPLES).views
    assert views.plain.shape == (4, 3)
    kept = len(np.load(tmp_path / "trunk.npy"))
    assert kept == 4 + 1 + 1, "one mirrored; every second one of the shrunk source"
    rng = np.random.default_rng(0)
    seen = {row: {tuple(views.draw(row, rng).tolist()) for _ in range(30)} for row in range(4)}
    assert [len(seen[row]) for row in range(4)] == [2, 2, 1, 1]
    plain, mirrored = sorted(seen[0], reverse=True)
    assert (plain[0], plain[1]) == pytest.approx((mirrored[1], mirrored[0]), abs=1e-2)
    sharp = sorted(row[2] for row in seen[1])
    assert sharp[0] < sharp[1] / 2, "shrunk and enlarged again, the stripes are gone"
    # A second run reads what the first one kept; this trunk could not look at all.
    assert np.array_equal(look(tmp_path, nn.Module(), SAMPLES).views.plain, views.plain)


def test_a_corrupt_image_is_a_row_of_zeros(tmp_path: Path) -> None:
    frozen = look(tmp_path, Corners(), [*SAMPLES, Sample("4", b"junk", "x", (), ())])
    assert frozen.views.plain[4].tolist() == [0, 0, 0]
    assert frozen.features([SAMPLES[0]], quiet).tolist() == [frozen.views.plain[0].tolist()]


def test_dropout_puts_the_mean_in_place_of_features() -> None:
    features = np.random.default_rng(0).random((2, 1000)).astype(np.float16)
    mean = features.astype(np.float32).mean(axis=0)
    drawn = TrunkViews(features, [0, 1], 0.5).draw(0, np.random.default_rng(1))
    dropped = np.isclose(drawn, mean, atol=1e-6)
    assert 400 < dropped.sum() < 600
    expected = mean + 2 * (features[0].astype(np.float32) - mean)
    np.testing.assert_allclose(drawn[~dropped], expected[~dropped], atol=1e-5)


def test_batches_hold_features(colours: Path, make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    samples, report = read_shards(find_shards(colours, ("train/*.tar",)))
    views = TrunkViews(np.arange(48).reshape(24, 2).astype(np.float16), list(range(24)), 0)
    batches = BatchSource(MemorySource(samples, report, make_recipe()), [], make_recipe(), frozen=views)
    batch = batches.get(0)
    assert batch.pixels.dtype == np.float32
    assert batch.pixels[:, 0].tolist() == [2 * row for row in batch.rows.tolist()]
    assert all(batch.texts)
    batches.close()


def test_the_trunk_is_locked_and_the_head_is_new(tmp_path: Path) -> None:
    start = Start(str(make_base(tmp_path / "base", VISIONS["mobilenet"])), image="head")
    loaded = load_start(start)
    torch.manual_seed(5)
    model = Clip(loaded.model.config)
    fresh = {name: tensor.clone() for name, tensor in model.visual.get_submodule("head").state_dict().items()}
    begin(model, start, loaded)
    learning = {name for name, parameter in model.visual.named_parameters() if parameter.requires_grad}
    assert learning == {f"head.{name}" for name in fresh}
    theirs = load_folder(tmp_path / "base").model.visual.state_dict()
    for name, tensor in model.visual.state_dict().items():
        same = fresh[name.removeprefix("head.")] if name.startswith("head.") else theirs[name]
        assert tensor.equal(same), name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Frozen(dropout=1.0), "dropout must be from 0 to under 1"),
        (Frozen(shrunk={"s": 4}), "8 pixels at least"),
    ],
)
def test_numbers_that_make_no_sense(settings: Frozen, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_frozen(settings, "r.toml")


TEACHER = '[teacher]\nimage = "i.onnx"\ntext = "t"\n'
HEAD = '[start]\nmodel = "mini"\nimage = "head"\ntext = "new"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD, "None of them goes without the others"),
        (HEAD + "[frozen]\n", "None of them goes without the others"),
        (TEACHER + "[frozen]\n[model]\n", "None of them goes without the others"),
        (HEAD + TEACHER + "[frozen]\n[distill]\nmodel = 'mini'\n", "shows the model no pixels"),
        ("[bag]\n[model]\n", "begins a new text tower at the texts of a .teacher."),
        (HEAD.replace("new", "train") + TEACHER + "[frozen]\n[bag]\n", "begins a new text tower"),
        (HEAD + TEACHER + "[frozen]\n[bag]\n", "must be as wide as the embedding"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        load_recipe(tmp_path / "r.toml")
