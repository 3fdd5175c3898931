"""What decays, how rates fall from layer to layer and from step to step, and the average of the weights."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clipsearch.errors import UsageError
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch_train.optimiser import WeightAverage, make_optimiser, set_rates
from clipsearch_train.recipe import load_recipe
from clipsearch_train.schedule import Optim, check_optim, rate_factor
from tests.train.conftest import VISIONS


def clip(vision: VisionConfig) -> Clip:
    return Clip(ClipConfig(16, vision, TextConfig(8, 100, 32, 2, 3)))


def settings(model: Clip, optim: Optim) -> dict[str, dict[str, Any]]:
    """The group that each parameter is in, by its name."""
    groups = make_optimiser(model, optim).param_groups
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    return {name: of[id(parameter)] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_gains_biases_embeddings_and_the_logit_scale_do_not_decay(tower: str) -> None:
    groups = settings(clip(VISIONS[tower]), Optim(weight_decay=0.3))
    decayed = {name for name, group in groups.items() if group["weight_decay"]}
    assert {groups[name]["weight_decay"] for name in decayed} == {0.3}
    for name in groups:
        matrix = (
            name.endswith("weight")
            and ".ln_" not in name
            and ".bn" not in name
            and "downsample.1" not in name
        )
        matrix |= name.endswith((".proj", "text_projection"))
        wanted = matrix and "embedding" not in name and not name.endswith("ln_final.weight")
        assert (name in decayed) == wanted, name
    assert "logit_scale" not in decayed


def test_rates_fall_layer_by_layer_from_the_top_of_each_tower() -> None:
    groups = settings(clip(VISIONS["vit"]), Optim(lr=1.0, image_lr=0.5, layer_decay=0.1))
    rates = {name: group["peak_lr"] for name, group in groups.items()}
    text = [rates[f"transformer.resblocks.{layer}.mlp.c_fc.weight"] for layer in range(3)]
    assert text == pytest.approx([1e-3, 1e-2, 1e-1])
    assert rates["token_embedding.weight"] == pytest.approx(1e-4)
    assert rates["text_projection"] == rates["logit_scale"] == 1.0
    image = [rates[f"visual.transformer.resblocks.{layer}.mlp.c_fc.weight"] for layer in range(3)]
    assert image == pytest.approx([0.5e-3, 0.5e-2, 0.5e-1])
    assert rates["visual.conv1.weight"] == pytest.approx(0.5e-4)
    assert rates["visual.proj"] == 0.5


def test_the_cosine_begins_with_a_warm_up_and_ends_at_zero() -> None:
    optim = Optim(steps=110, warmup=10)
    course = [rate_factor(step, optim) for step in range(110)]
    assert course[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert course[10] == 1.0
    assert course[60] == pytest.approx(0.5)
    assert course[109] == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2)


def test_a_constant_rate_cools_down_at_the_end() -> None:
    course = [rate_factor(s, Optim(steps=20, warmup=2, schedule="constant", cooldown=4)) for s in range(20)]
    assert course[:2] == [0.5, 1.0]
    assert set(course[2:16]) == {1.0}
    assert course[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    with pytest.raises(UsageError, match="a cosine ends at zero anyway"):
        check_optim(Optim(cooldown=4), "r.toml")


def test_a_step_sets_the_rate_of_every_group() -> None:
    optim = Optim(lr=2.0, image_lr=1.0, warmup=4)
    optimiser = make_optimiser(clip(VISIONS["vit"]), optim)
    assert set_rates(optimiser, 1, optim) == 1.0
    assert {group["lr"] for group in optimiser.param_groups} == {0.5, 1.0}


def test_the_average_follows_the_weights_slowly_after_a_warm_up() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0)
        average = WeightAverage(model, 0.9)
        model.weight.fill_(1)
    average.update(model, 0)
    assert average.state()["weight"].item() == pytest.approx(0.9), "at first it keeps a tenth"
    with torch.no_grad():
        model.weight.fill_(2)
    average.update(model, 1000)
    assert average.state()["weight"].item() == pytest.approx(0.9 * 0.9 + 0.1 * 2)
    assert model.weight.item() == 2


def test_the_papers_embeddings_decay() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "train" / "recipes" / "vit-b32-paper.toml")
    groups = settings(clip(VISIONS["vit"]), recipe.optim)
    plain = {name for name, group in groups.items() if not group["weight_decay"]}
    assert {"token_embedding.weight", "positional_embedding", "visual.positional_embedding"}.isdisjoint(plain)
    assert {"logit_scale", "ln_final.weight"} <= plain
