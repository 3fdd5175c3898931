"""`clipsearch eval` as people type it: every option, and what it says of mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.conftest import make_base
from tests.train.test_cli import clipsearch

COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}


def squares(folder: Path, each: int, seed: int) -> Path:
    """A folder with a folder of noisy squares for each colour."""
    noise = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(np.array(colour) + noise.normal(0, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two sets of images of classes, captions, names and groups."""
    folder = tmp_path_factory.mktemp("eval")
    make_base(folder / "model")
    squares(folder / "test", 4, seed=0)
    squares(folder / "train", 10, seed=1)
    lines = [f"{name}/{number}.png,a {name} square" for name in COLOURS for number in range(4)]
    (folder / "test" / "captions.csv").write_text("image,caption\n" + "\n".join(lines) + "\n")
    pictures = [
        {
            "filename": f"{number}.png",
            "filepath": name,
            "split": "val" if number < 2 else "test",
            "sentences": [{"raw": f"a {name} square"}, {"raw": f"all {name}"}],
        }
        for name in COLOURS
        for number in range(4)
    ]
    (folder / "splits.json").write_text(json.dumps({"dataset": "squares", "images": pictures}))
    (folder / "names.txt").write_text("blue square\ngreen square\nred square\n")
    (folder / "templates.txt").write_text("{}\na photo of a {}\n")
    (folder / "bias.toml").write_text(
        '[labels]\nwarm = ["red thing", "fire"]\ncold = ["blue thing"]\n'
        '[groups]\nreds = "test/red"\nblues = "test/blue"\n'
    )
    return folder


def test_every_option_at_once(place: Path, tmp_path: Path) -> None:
    test, train = place / "test", place / "train"
    options = (
        "--classes", test, "--class-names", place / "names.txt", "--templates", place / "templates.txt",
        "--captions", test / "captions.csv", "--probe", train, "--shifted", train, "--shift", "blur",
        "--shift", "grayscale", "--severity", "2", "--bias", place / "bias.toml", "--calibrate",
        "--word-order", "--seed", "3", "--device", "cpu",
    )  # fmt: skip
    out = tmp_path / "report"
    done = clipsearch("eval", place / "model", *options, "--out", out)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in out.iterdir()}
    assert {"report.json", "report.md"} <= written
    assert any(name.endswith(".png") for name in written), "plots"
    table = done.stdout
    for told in (
        "| captions | 12 | 12 |",
        "| test | 12 | 3 |",
        "blur",
        "grayscale",
        "reds",
        "probe",
        "cut-off",
    ):
        assert told.lower() in table.lower(), (told, table)
    assert (out / "report.md").read_text().count("|") >= table.count("|")

    scored = json.loads((out / "report.json").read_text())["datasets"]
    splits = ("--captions", place / "splits.json", "--images", test, "--split", "val", "--baseline", out)
    again = clipsearch("eval", place / "model", *options, *splits, "--json")
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout)
    assert set(told) == {"captions", "splits", "test", "bias"}
    assert (told["splits"]["images"], told["splits"]["captions"]) == (6, 12)
    assert {name: told[name] for name in scored} == {name: found["metrics"] for name, found in scored.items()}
    assert {rate["label"] for rate in told["bias"]} == {"warm", "cold"}
    assert "no two models of different accuracy with shifted_train" in again.stderr

    compared = clipsearch("eval", "--compare", out, out)
    assert compared.returncode == 0, compared.stderr
    assert "test" in compared.stdout


@pytest.mark.parametrize(
    ("code", "message", "command"),
    [
        (2, "Say what to score the model on", "{0}/model"),
        (2, "tells the names of one --classes", "{0}/model --captions c --class-names {0}/names.txt"),
        (2, "--compare takes two report folders and no model", "{0}/model --compare a b"),
        (2, "has severities 1 to 5, not 9", "{0}/model --classes {0}/test --shift blur --severity 9"),
        (2, "swirl", "{0}/model --classes {0}/test --shift swirl"),
        (2, "no-bias.toml", "{0}/model --bias {0}/no-bias.toml"),
        (9, "names.txt cannot be opened or written", "{0}/model --classes {0}/test --out {0}/names.txt"),
        (16, "holds no folders: each class", "{0}/model --classes {0}/test --probe {0}/test/red"),
    ],
)
def test_mistakes_are_sentences(place: Path, code: int, message: str, command: str) -> None:
    done = clipsearch("eval", *command.format(place).split())
    assert "Traceback" not in done.stderr
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert done.stdout == ""
