"""The recipes of train/recipes that adapt models run (test_recipe.py reads them all as they stand)."""

import json
import re
from pathlib import Path

import pytest

from clipsearch.weights import load_folder
from clipsearch_train.recipe import load_recipe
from clipsearch_train.run import Trainer
from tests.train.conftest import make_base

FOLDER = Path(__file__).parents[2] / "train" / "recipes"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def quiet(*_: object) -> None:
    pass


def test_all_are_here_and_documented() -> None:
    assert {"mini", "rn50-paper", "vit-b32-paper", "finetune", "lit", "distill"} <= set(NAMES)
    page = (FOLDER.parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}.toml`" not in page] == []


@pytest.mark.parametrize("name", ["finetune", "lit", "distill"])
def test_those_that_adapt_a_model_run(name: str, colours: Path, tmp_path: Path) -> None:
    """With a tiny model in the place of the bundled one, whose steps take seconds."""
    base = make_base(tmp_path / "base")
    text, count = re.subn(
        '^model = "mini"', f'model = "{base}"', (FOLDER / f"{name}.toml").read_text(), flags=re.M
    )
    assert count == 1
    (tmp_path / f"{name}.toml").write_text(text)
    recipe = load_recipe(tmp_path / f"{name}.toml").smoke()
    trainer = Trainer(recipe, colours, tmp_path / "out", quiet)
    made, began = load_folder(trainer.train()).model, load_folder(base).model
    with (tmp_path / "out" / "eval.jsonl").open() as file:
        steps = [json.loads(line)["step"] for line in file]
    assert steps == ([0, 2] if name == "finetune" else [2])
    if name == "distill":
        assert made.config.embed_dim == 384
    else:
        assert made.config.vision == began.config.vision
    if name == "lit":
        tower = began.visual.state_dict()
        assert all(tensor.equal(tower[key]) for key, tensor in made.visual.state_dict().items())
        assert made.config.text.width == 256
