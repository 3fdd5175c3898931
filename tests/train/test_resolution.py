"""A model at another resolution."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipsearch.errors import UsageError
from clipsearch.weights import load_folder
from clipsearch.zoo import resolve
from clipsearch_train.recipe import load_recipe
from clipsearch_train.resolution import at_resolution, interpolated
from clipsearch_train.start import Start, load_start
from tests.train.conftest import VISIONS, make_base


@pytest.mark.parametrize("kind", sorted(VISIONS))
def test_a_larger_image_is_taken_and_means_about_the_same(kind: str, tmp_path: Path) -> None:
    base = load_folder(make_base(tmp_path / "base", VISIONS[kind]))
    before = base.model.config.vision.image_size
    larger = at_resolution(base, 2 * before)
    assert larger.preprocess.size == larger.model.config.vision.image_size == 2 * before
    assert larger.fingerprint != base.fingerprint
    # One colour looks the same at any size.
    plain = [torch.full((1, 3, size, size), 0.5) for size in (before, 2 * before)]
    with torch.inference_mode():
        old, new = base.model.encode_image(plain[0]), larger.model.encode_image(plain[1])
    assert old.shape == new.shape
    assert torch.nn.functional.cosine_similarity(old, new).item() > 0.8


def test_positions_keep_their_places() -> None:
    across = torch.arange(4.0).repeat(4)
    positions = torch.cat([torch.tensor([9.0]), across])[:, None]
    finer = interpolated(positions, 8)
    assert finer.shape == (65, 1)
    assert finer[0] == 9, "the class token has no place"
    grid = finer[1:, 0].reshape(8, 8)
    assert (grid.diff(dim=1) > 0).all(), "what grew to the right still does"
    assert torch.allclose(grid, grid[:1].expand(8, 8), atol=1e-5)
    assert torch.equal(interpolated(positions, 4), positions)


def test_the_same_size_is_the_same_model(tmp_path: Path) -> None:
    base = load_folder(make_base(tmp_path / "base"))
    assert at_resolution(base, base.preprocess.size) is base


def test_mini_sees_the_same_at_another_resolution() -> None:
    folder = resolve("mini").folder
    loaded = load_folder(folder)
    larger = load_start(Start(str(folder), image_size=loaded.preprocess.size + 32))
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    image = Image.fromarray(noise).resize((800, 600))
    with torch.inference_mode():
        old, new = (
            model.model.encode_image(model.preprocess.normalise(np.stack([model.preprocess.pixels(image)])))
            for model in (loaded, larger)
        )
    assert torch.nn.functional.cosine_similarity(old, new).item() > 0.8


@pytest.mark.parametrize("size", [17, 24, 50])
def test_a_size_that_does_not_fit_is_a_sentence(size: int, tmp_path: Path) -> None:
    base = load_folder(make_base(tmp_path / "base"))
    with pytest.raises(UsageError, match=r"start: image_size = \d+ does not fit"):
        at_resolution(base, size)


def test_a_new_tower_has_its_size_elsewhere(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[start]\nmodel = "mini"\nimage = "new"\nimage_size = 64\n')
    with pytest.raises(UsageError, match="that of a new one stands in model: vision"):
        load_recipe(recipe)
