from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipsearch.errors import UsageError
from clipsearch_train.recipe import load_recipe
from tests.train.conftest import RECIPE

RECIPES = sorted((Path(__file__).parents[2] / "train" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_reads_and_says_its_command(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert f"clipsearch train train/recipes/{path.name} --data DATA --out" in path.read_text()
    smoke = recipe.smoke()
    assert smoke.optim.steps == min(recipe.optim.steps, 2)
    assert smoke.model == recipe.model
    assert smoke.optim.batch == 8
    for processes in (2, 3):
        dealt = recipe.smoke(processes)
        assert dealt.optim.batch % (processes * dealt.compute.accumulate) == 0
        assert dealt.optim.batch < 24


def test_the_paper_s_recipes_have_the_paper_s_numbers() -> None:
    """arXiv 2103.00020, tables 18 to 20."""
    vit, resnet = (load_recipe(RECIPES[0].parent / f"{name}-paper.toml") for name in ("vit-b32", "rn50"))
    for recipe in (vit, resnet):
        assert (recipe.optim.batch, recipe.optim.lr, recipe.optim.weight_decay) == (32768, 5e-4, 0.2)
        assert recipe.optim.steps == 400_000_000 * 32 // 32768
        assert recipe.optim.warmup == 2000
        assert (recipe.model.text.width, recipe.model.text.heads, recipe.model.text.layers) == (512, 8, 12)
    assert (vit.optim.beta1, vit.optim.beta2, vit.optim.eps) == (0.9, 0.98, 1e-6)
    assert (resnet.optim.beta1, resnet.optim.beta2, resnet.optim.eps) == (0.9, 0.999, 1e-8)
    assert (vit.model.embed_dim, resnet.model.embed_dim) == (512, 1024)
    assert resnet.model.vision.layers == (3, 4, 6, 3)


def test_values_arrive(make_recipe: Callable[..., Any]) -> None:
    recipe = make_recipe(lr="1", batch="7")
    assert recipe.optim.lr == 1.0
    assert recipe.optim.batch == 7
    assert recipe.data.train == ("train/*.tar",)
    assert recipe.model.vision.head_width == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps = 6", "stepz = 6"), "unknown key 'stepz'"),
        (("steps = 6", 'steps = "6"'), "optim: steps must be int"),
        (("steps = 6", "steps = 6.5"), "optim: steps must be int"),
        (("steps = 6", "steps = true"), "optim: steps must be int"),
        (("steps = 6", "steps = -1"), "optim: steps must be a number from 0"),
        (("steps = 6", "steps = 0"), "optim: steps = 0 is for .teacher."),
        (("steps = 6", "steps = 99999999999999999999999"), "optim: steps must be at most 1,000,000,000,000"),
        (("eval_every = 1000", "seed = 99999999999999999999999"), "seed must be below"),
        (("eval_every = 1000", "checkpoint_minutes = nan"), "checkpoint_minutes must be a number from 0"),
        (('train = ["train/*.tar"]', "templates = []"), "templates must name one at least"),
        (('train = ["train/*.tar"]', 'texts = ["a.txt"]'), "texts are for a .teacher. to embed"),
        (("lr = 2e-3", "lr = nan"), "optim: lr must be a number"),
        (("lr = 2e-3", "lr = inf"), "optim: lr must be a number"),
        (("eval_every = 1000", "eval_every = 0"), "eval_every must be"),
        (("min_crop = 0.8", "min_crop = 8"), "min_crop must be between"),
        (("min_crop = 0.8", "crop_size = 64"), "crop_size must be 32 at least, and is for image towers"),
        (('train = ["train/*.tar"]', 'train = "train/*.tar"'), "data: train must be"),
        (('train = ["train/*.tar"]', "train = [1]"), "data: train must be str"),
        (('train = ["train/*.tar"]', 'templates = ["a {x}"]'), "templates must each"),
        (('train = ["train/*.tar"]', 'templates = ["a photo"]'), "templates must each"),
        (('train = ["train/*.tar"]', "weights = {a = -1}"), "weights: a must be"),
        (("layers = 1\nwidth = 32\npatch_size = 16", "layers = [1, 2]\nwidth = 32"), "layers must"),
        (("image_size = 32", "image_size = 33"), "image_size must be a multiple of 16"),
        (("image_size = 32", 'image_size = 33\ntrunk = "resnet"'), "trunk must be"),
        (("head_width = 16", "head_width = 10"), "head_width"),
        (("heads = 2", "heads = 3"), "multiple of heads"),
        (("vocab_size = 600", "vocab_size = 100"), "vocab_size must be 514"),
        (("[model]\n", "[model\n"), "not valid TOML"),
        (("[optim]", "[loss]\nbnk = 1\n[optim]"), "loss has the unknown key 'bnk'"),
        (("[optim]", "[teacher]\nimage = 'x'\n[optim]"), "teacher lacks the key 'text'"),
        ((RECIPE, ""), r"recipe\.toml lacks the key 'model'"),
        (("[model]\nembed_dim = 32", "model = 3"), "model must be a table"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in RECIPE
    path = tmp_path / "recipe.toml"
    text = RECIPE.replace(*change)
    if "model = 3" in text:
        text = text[: text.index("[model.vision]")]
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_a_mark_of_windows_editors_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8-sig")
    assert load_recipe(tmp_path / "recipe.toml").optim.steps == 6


def test_a_missing_or_binary_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_recipe(tmp_path / "binary.toml")


def test_a_model_beyond_all_machines_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[model]\nembed_dim = 10000000000\n")
    with pytest.raises(UsageError, match="parameters, which is too large"):
        load_recipe(recipe)
