"""Distillation from a network that knows images alone."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from clipsearch.errors import TrainingError, UsageError
from clipsearch.weights import load_folder
from clipsearch_train.clip_teacher import Distill
from clipsearch_train.recipe import load_recipe
from clipsearch_train.vision_teacher import VisionTeacher
from tests.train.conftest import RECIPE, colour_members, make_base, write_tar
from tests.train.test_start import quiet, trained

ONNX = "teacher/mobilenet_edgetpu_224.fp16.onnx"


def recipe(path: Path, distill: str, head: str = RECIPE) -> Path:
    path.write_text(f"{head}\n[loss]\ncontrastive = 0.0\n[distill]\n{distill}\n")
    return path


@pytest.mark.shared
def test_the_term_by_hand(shared: Path, tmp_path: Path) -> None:
    teacher = VisionTeacher(Distill(image=ONNX, image_size=65, features=3.0), shared)
    student = load_folder(make_base(tmp_path / "base")).model
    teacher.attach(student)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 65, 65, 3), dtype=np.uint8)
    seen = teacher.look(pixels, ["ignored"], torch.device("cpu"))
    assert seen[0].shape == (2, 1280)
    assert torch.allclose(seen[0].mean(dim=1), torch.zeros(2), atol=1e-5)
    images = torch.nn.functional.normalize(torch.randn(2, 24), dim=-1)
    with torch.no_grad():
        given = teacher.terms(student, seen, images, images, [], torch.tensor(1.0))
        projected = student.get_submodule("distillation")(images)
    cosines = torch.nn.functional.cosine_similarity(projected, seen[0])
    assert given.keys() == {"features"}
    assert float(given["features"]) == pytest.approx(3 * float(1 - cosines.mean()), rel=1e-4)


@pytest.mark.shared
def test_a_student_follows_and_keeps_nothing_of_the_teacher(
    shared: Path, colours: Path, tmp_path: Path
) -> None:
    (colours / "teacher").symlink_to(shared / "teacher")
    path = recipe(tmp_path / "vision.toml", f'image = "{ONNX}"\nimage_size = 65')
    path.write_text(path.read_text().replace("steps = 6", "steps = 30"))
    trainer = trained(load_recipe(path), colours, tmp_path / "out")
    with (tmp_path / "out" / "log.csv").open(newline="") as file:
        course = [float(row["features"]) for row in csv.DictReader(file)]
    assert np.mean(course[-5:]) < 0.7 * course[0]
    assert "the teacher knows images alone and loss.contrastive is 0" in str(trainer.warning)
    saved = load_folder(tmp_path / "out" / "model").model.state_dict()
    assert not [name for name in saved if "distillation" in name]


@pytest.mark.shared
def test_images_alone_make_a_tower_that_a_second_run_gives_words(
    shared: Path, colours: Path, tmp_path: Path
) -> None:
    """Photos of which nothing is said and a teacher that knows no words, then captions of other photos."""
    images = tmp_path / "images"
    untold = {name: data for name, data in colour_members(24).items() if not name.endswith("json")}
    write_tar(images / "train" / "a.tar", untold)
    (images / "teacher").symlink_to(shared / "teacher")
    head = RECIPE.replace('val = ["val/*.tar"]', "val = []")
    path = recipe(tmp_path / "images.toml", f'image = "{ONNX}"\nimage_size = 65', head)
    first = trained(load_recipe(path), images, tmp_path / "first")
    assert "nothing is said about any image" in str(first.warning)
    path.write_text(
        f'[start]\nmodel = "{tmp_path / "first" / "model"}"\nimage = "lock"\ntext = "new"\n'
        "[model.text]\ncontext_length = 12\nvocab_size = 600\nwidth = 32\nheads = 2\nlayers = 1\n"
        + RECIPE[RECIPE.index("[data]") :]
    )
    second = trained(load_recipe(path), colours, tmp_path / "second")
    assert second.warning is None
    assert second.tokenizer.vocab_size > first.tokenizer.vocab_size
    before, after = (load_folder(tmp_path / name / "model").model for name in ("first", "second"))
    assert torch.equal(before.visual.proj, after.visual.proj)


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ("features = 1.0", "name one teacher"),
        ('model = "mini"\nimage = "a.onnx"', "name one teacher"),
        ('image = "a.onnx"\nimage_size = 8', "image_size must be 32 at least"),
    ],
)
def test_a_recipe_names_one_teacher(distill: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(recipe(tmp_path / "bad.toml", distill))


def test_a_teacher_that_is_not_there_is_a_sentence(colours: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path / "vision.toml", 'image = "nowhere.onnx"')
    with pytest.raises(TrainingError, match=r"There is no teacher network .*nowhere\.onnx"):
        trained(load_recipe(path), colours, tmp_path / "out")
    assert quiet() is None
