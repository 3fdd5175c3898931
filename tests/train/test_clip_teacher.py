"""Distillation from a CLIP model: the terms against values worked out by hand, and a student that follows."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipsearch.errors import TrainingError
from clipsearch.weights import load_folder
from clipsearch_train.clip_teacher import ClipTeacher, Distill, similarity_divergence
from clipsearch_train.recipe import load_recipe
from clipsearch_train.run import Trainer
from tests.train.conftest import RECIPE, colour_members, make_base, write_tar
from tests.train.test_start import LARGER, quiet, trained


def test_the_divergence_by_hand() -> None:
    student = torch.zeros(2, 2)
    teacher = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]])
    # Every row and column of the teacher's is (3/4, 1/4), of the student's (1/2, 1/2).
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(similarity_divergence(student, teacher)) == pytest.approx(expected, rel=1e-6)
    assert float(similarity_divergence(teacher, teacher)) == pytest.approx(0, abs=1e-7)
    lopsided = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    over_texts = F.kl_div(
        torch.zeros(2, 2).log_softmax(1), lopsided.log_softmax(1), reduction="batchmean", log_target=True
    )
    assert float(similarity_divergence(student, lopsided)) == pytest.approx(float(over_texts), rel=1e-6)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    teacher = ClipTeacher(Distill(str(folder), features=2.0))
    student = load_folder(folder).model
    teacher.attach(student)
    assert not hasattr(student, "distillation"), "sizes are equal"
    pixels = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    image_NT, text_MT = teacher.look(pixels, ["a red square", "blue", "x", "y"], torch.device("cpu"))
    assert torch.allclose(image_NT.norm(dim=-1), torch.ones(4))
    scale = student.logit_scale.exp()
    same = teacher.terms(student, (image_NT, text_MT), image_NT, text_MT, [0, 1, 2], scale)
    assert float(same["features"]) == pytest.approx(0, abs=1e-6)
    opposite = teacher.terms(student, (image_NT, text_MT), -image_NT, text_MT, [0, 1, 2], scale)
    assert float(opposite["features"]) == pytest.approx(2.0, abs=1e-5), (
        "two for the images, none for the texts, times 2 / 2"
    )
    seen = (image_NT, text_MT[:2])
    rows = teacher.terms(student, seen, image_NT, text_MT[:2], [1, 3], 2 * scale)
    logits = scale * image_NT[[1, 3]] @ text_MT[:2].T
    expected = similarity_divergence(2 * logits, logits)
    assert float(expected) > 1e-4
    assert float(rows["similarity"]) == pytest.approx(float(expected), abs=1e-5)


@pytest.fixture
def distil_recipe(tmp_path: Path) -> Callable[..., Any]:
    """A student of 32 px and 32 dimensions; its teacher has 48 px and 24."""
    teacher = make_base(tmp_path / "teacher", LARGER)

    def make(steps: int = 40) -> Any:
        path = tmp_path / "distill.toml"
        text = RECIPE.replace("steps = 6", f"steps = {steps}").replace("min_crop = 0.8", "min_crop = 1.0")
        path.write_text(f'{text}\n[loss]\ncontrastive = 0.0\n[distill]\nmodel = "{teacher}"\n')
        return load_recipe(path)

    return make


def test_a_student_learns_its_teachers_features(
    distil_recipe: Callable[..., Any], colours: Path, tmp_path: Path
) -> None:
    trainer = trained(distil_recipe(), colours, tmp_path / "out")
    assert trainer.model.distillation.weight.shape == (24, 32)
    with (tmp_path / "out" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for term in ("features", "similarity"):
        course = [float(row[term]) for row in rows]
        assert np.mean(course[-5:]) < 0.8 * course[0], term
    saved = load_folder(tmp_path / "out" / "model").model.state_dict()
    assert not [name for name in saved if "distillation" in name]


@pytest.mark.parametrize("stream", ["false", "true"])
def test_images_of_which_nothing_is_said_teach_too(
    distil_recipe: Callable[..., Any], colours: Path, tmp_path: Path, stream: str
) -> None:
    images = {f"x{name}": data for name, data in colour_members(12).items() if not name.endswith("json")}
    write_tar(colours / "train" / "untold.tar", images)
    distil_recipe(steps=3)
    path = tmp_path / "distill.toml"
    path.write_text(path.read_text().replace("[data]", f"[data]\nstream = {stream}"))
    trainer = trained(load_recipe(path), colours, tmp_path / "out")
    assert trainer.data_report.samples == 36
    assert trainer.sources == {"colours": 24, "": 12}
    path.write_text(path.read_text().replace("[distill]", "[distill]\nfeatures = 0"))
    without = Trainer(load_recipe(path), colours, tmp_path / "without", quiet)
    assert without.data_report.samples == 24
    assert len(without.data_report.skipped["without a caption or label"]) == 12


def test_images_alone_teach_a_model_that_has_a_text_tower(colours: Path, tmp_path: Path) -> None:
    images = {name: data for name, data in colour_members(24).items() if not name.endswith("json")}
    write_tar(colours / "train" / "a.tar", images)
    base, teacher = make_base(tmp_path / "base"), make_base(tmp_path / "teacher", LARGER)
    path = tmp_path / "images.toml"
    rest = RECIPE[RECIPE.index("[data]") :] + f'[distill]\nmodel = "{teacher}"\n'
    path.write_text(f'[start]\nmodel = "{base}"\ntext = "lock"\n{rest}')
    trainer = trained(load_recipe(path), colours, tmp_path / "out")
    assert trainer.data_report.samples == 24
    before, after = load_folder(base).model, load_folder(tmp_path / "out" / "model").model
    assert not torch.equal(before.visual.proj, after.visual.proj)
    assert torch.equal(before.text_projection, after.text_projection)
    assert trainer.warning is None
    path.write_text(f"{RECIPE}\n[distill]\nmodel = '{teacher}'\n")
    new = Trainer(load_recipe(path), colours, tmp_path / "new", quiet)
    assert "nothing is said about any image" in str(new.warning)
    assert new.tokenizer.vocab_size == 514, "bytes alone"
    path.write_text(f"{RECIPE}\n[distill]\nmodel = '{teacher}'\nfeatures = 0\n")
    with pytest.raises(TrainingError, match="fewer than a batch"):
        Trainer(load_recipe(path), colours, tmp_path / "untaught", quiet)


def test_the_projection_is_in_the_checkpoint(
    distil_recipe: Callable[..., Any], colours: Path, tmp_path: Path
) -> None:
    whole = trained(distil_recipe(steps=4), colours, tmp_path / "whole")

    def stop(stage: str, done: int, *_: object) -> None:
        if (stage, done) == ("training", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(distil_recipe(steps=4), colours, tmp_path / "halves", stop).train()
    halves = trained(distil_recipe(steps=4), colours, tmp_path / "halves")
    assert torch.equal(whole.model.distillation.weight, halves.model.distillation.weight)
    assert quiet() is None
