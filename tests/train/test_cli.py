import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from clipsearch.weights import load_folder
from clipsearch.zoo import resolve
from tests.train.conftest import COLOURS, RECIPE, colour_members, make_base, write_tar

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from clipsearch.cli.main import run; run()"]


def clipsearch(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def test_train_then_eval(recipe: Path, colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = clipsearch("train", recipe, "--data", colours, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "24 samples; skipped: none." in done.stderr
    assert "training: 6 of 6" in done.stderr
    assert "| colours | 12 | 24 |" in done.stderr
    assert "6 steps done. The model is in" in done.stderr
    assert load_folder(out / "model").model.config.embed_dim == 32

    table = clipsearch("eval", out / "model", "--data", colours / "val" / "b.tar")
    assert table.returncode == 0, table.stderr
    assert re.search(r"\| colours \| 12 \| 24 \| \d+\.\d / \d+\.\d / \d+\.\d \|", table.stdout)
    scores = clipsearch("eval", out / "model", "--data", colours / "val" / "b.tar", "--json")
    told = json.loads(scores.stdout)["colours"]
    assert set(told) == {"images", "captions"} | {
        f"{way}_{score}"
        for way in ("text_to_image", "image_to_text")
        for score in ("r1", "r5", "r10", "median_rank")
    }
    assert 0 < told["text_to_image_r1"] <= told["text_to_image_r10"] <= 100

    again = clipsearch("train", recipe, "--data", colours, "--out", out)
    assert again.returncode == 0, "a run that is done says so again"
    assert "6 steps done" in again.stderr


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint(
    recipe: Path, colours: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    recipe.write_text(RECIPE.replace("steps = 6", "steps = 1000000"))
    out = tmp_path / "out"
    # A shell starts what runs behind its back with SIGINT ignored, and children inherit that.
    listening = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {COMMAND[2]}"
    command = [*COMMAND[:2], listening, "train", str(recipe), "--data", str(colours), "--out", str(out)]
    log = out / "log.csv"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None and not (log.is_file() and log.read_text().count("\n") > 3):
                time.sleep(0.02)
            process.send_signal(sent)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["step"] >= 3
    assert not (out / "model").exists()
    recipe.write_text(RECIPE.replace("steps = 6", f"steps = {state['step'] + 2}"))
    done = clipsearch("train", recipe, "--data", colours, "--out", out)
    assert done.returncode == 0, done.stderr
    steps = [int(line.split(",")[0]) for line in log.read_text().splitlines()[1:]]
    assert steps == list(range(1, state["step"] + 3))


def test_a_killed_run_goes_on_as_if_it_had_not_been(recipe: Path, colours: Path, tmp_path: Path) -> None:
    """Killed in mid-epoch between two checkpoints; all losses are those of a run that nothing stopped."""
    text = "checkpoint_minutes = 0.001\n" + RECIPE.replace("steps = 6", "steps = 40")
    recipe.write_text(text.replace("[data]", '[data]\norder = "epochs"'))
    command = [*COMMAND, "train", str(recipe), "--data", str(colours), "--out", str(tmp_path / "killed")]
    log = tmp_path / "killed" / "log.csv"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (log.is_file() and log.read_text().count("\n") > 10):
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it was killed before its end"
    state = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)
    assert 0 < state["step"] < 40
    for name in ("killed", "whole"):
        done = clipsearch("train", recipe, "--data", colours, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    courses = []
    for name in ("killed", "whole"):
        with (tmp_path / name / "log.csv").open() as file:
            courses.append([(row["step"], row["loss"]) for row in csv.DictReader(file)])
    assert len(courses[1]) == 40
    assert courses[0] == courses[1]


def test_mistakes_are_sentences_with_exit_codes(recipe: Path, colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe.write_text(RECIPE.replace("lr = 2e-3", "lrr = 2e-3"))
    for wanted, message, arguments in (
        (2, "unknown key 'lrr'", ("train", recipe, "--data", colours, "--out", out)),
        (2, "cannot be read", ("train", tmp_path / "none.toml", "--data", colours, "--out", out)),
        (11, "no model or folder", ("eval", "no-such-model", "--data", colours / "val" / "b.tar")),
    ):
        result = clipsearch(*arguments)
        assert result.returncode == wanted, result.stderr
        assert message in result.stderr.replace("\n", " ")
        assert "Traceback" not in result.stderr
    assert not out.exists()


def test_data_errors_are_sentences_with_exit_codes(recipe: Path, colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shard = colours / "train" / "a.tar"
    shard.write_bytes(shard.read_bytes()[:4000])
    damaged = clipsearch("train", recipe, "--data", colours, "--out", out)
    assert (damaged.returncode, "not a whole tar shard" in damaged.stderr) == (16, True), damaged.stderr
    shard.unlink()
    missing = clipsearch("train", recipe, "--data", colours, "--out", out)
    assert (missing.returncode, "No file matches" in missing.stderr) == (16, True), missing.stderr


def test_bad_samples_are_named_and_the_run_goes_on(recipe: Path, colours: Path, tmp_path: Path) -> None:
    image = colour_members(1)["0000.png"]
    members = {
        "untold.png": image,
        "unreadable.png": image,
        "unreadable.json": b"{",
        "alone.json": b'{"captions": "no image"}',
        "broken.jpg": b"\xff\xd8 this is no JPEG",
        "broken.txt": b"a broken image",
        "pickled.png": image,
        "pickled.pkl": b"cos\nsystem\n(S'touch touched'\ntR.",
        "pickled.txt": b"a square",
    }
    write_tar(colours / "train" / "bad.tar", members)
    recipe.write_text(RECIPE.replace("min_crop = 0.8", 'min_crop = 0.8\norder = "epochs"'))
    done = clipsearch("train", recipe, "--data", colours, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for told in (
        "26 samples; skipped:",
        "1 with unreadable text (unreadable)",
        "1 without an image (alone)",
        "1 without a caption or label (untold)",
        "1 image could not be decoded (broken).",
        "6 steps done.",
    ):
        assert told in done.stderr
    assert not list(tmp_path.rglob("touched"))


def test_a_library_is_trained_on(tmp_path: Path) -> None:
    """Commands as people type them: index, train on the library, search with what came of it."""
    for number in range(24):
        name = list(COLOURS)[number % 6]
        place = tmp_path / "photos" / f"2020 {name} walls"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60 + number, 40), COLOURS[name]).save(place / f"{number}.png")
    library, base, out = tmp_path / "library", make_base(tmp_path / "base"), tmp_path / "out"
    indexed = clipsearch("index", tmp_path / "photos", "-l", library, "--model", base, "--workers", 1)
    assert indexed.returncode == 0, indexed.stderr
    done = clipsearch("train", "--from", library, "--out", out, "--smoke")
    assert done.returncode == 0, done.stderr
    assert "22 samples; skipped: none." in done.stderr
    assert "| library_labels, at the start | 2 | 2 |" in done.stderr
    assert "2 steps done." in done.stderr
    again = clipsearch("index", tmp_path / "photos", "-l", library, "--model", out / "model", "--workers", 1)
    assert again.returncode == 0, again.stderr
    idle = clipsearch("train", "--from", library, "--data", tmp_path, "--out", tmp_path / "other")
    assert (idle.returncode, "Only a recipe says what to do with" in idle.stderr) == (2, True), idle.stderr
    assert f"It began as `{base}`" in (out / "model" / "README.md").read_text()
    nothing = clipsearch("train", "--out", tmp_path / "other")
    assert (nothing.returncode, "Name a recipe and its data" in nothing.stderr) == (2, True), nothing.stderr


def test_torchrun_trains_one_model_with_two_processes(recipe: Path, colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [
        sys.executable,
        "-m",
        "clipsearch",
        "train",
        recipe,
        "--data",
        colours,
        "--out",
        out,
        "--smoke",
    ]
    done = subprocess.run(
        [sys.executable, *torchrun, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with (out / "log.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"], "one process writes"
    assert done.stderr.count("2 steps done.") == done.stderr.count("samples; skipped") == 1, done.stderr
    assert json.loads((out / "environment.jsonl").read_text())["processes"] == 2
    assert load_folder(out / "model").model.config.embed_dim == 32


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mini", "mini-image", "mini-refit"])
def test_mini_smoke(shared: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    done = clipsearch("train", ROOT / f"train/recipes/{name}.toml", "--data", shared, "--out", out, "--smoke")
    assert done.returncode == 0, done.stderr
    made = load_folder(out / "model").model
    assert made.config.vision.trunk == "efficientnet_lite2"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in made.state_dict().values())
    assert "flickr8k" in done.stderr
    assert list((out / "cache").glob("text*.npy"))
    bundled = load_folder(resolve("mini").folder).model.visual.state_dict()
    trunk = {key: tensor for key, tensor in made.visual.state_dict().items() if key.startswith("trunk.")}
    kept = [tensor.equal(bundled[key]) for key, tensor in trunk.items()]
    assert all(kept) == (name != "mini-image"), "mini's trunk is locked"


@pytest.mark.parametrize(
    ("name", "layers"), [("vit-b32-paper", 1), ("rn50-paper", (1, 1, 1, 1))], ids=["vit", "resnet"]
)
def test_paper_recipes_run(colours: Path, tmp_path: Path, name: str, layers: object) -> None:
    """`--smoke` of these trains 100 to 150 million weights; here the towers are shallow and see 64 px."""
    from clipsearch_train.recipe import load_recipe
    from clipsearch_train.run import Trainer

    recipe = load_recipe(ROOT / "train" / "recipes" / f"{name}.toml").smoke()
    model = replace(
        recipe.model,
        vision=replace(recipe.model.vision, layers=layers),
        text=replace(recipe.model.text, layers=1),
    )
    folder = Trainer(replace(recipe, model=model), colours, tmp_path / "out", lambda *_: None).train()
    assert load_folder(folder).model.config.embed_dim == recipe.model.embed_dim
    assert len((tmp_path / "out" / "log.csv").read_text().splitlines()) == 3
