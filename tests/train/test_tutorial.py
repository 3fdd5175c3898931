"""The tutorial of docs/training.md, followed: what it says to save is saved, what it says to run is run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.train.conftest import COLOURS

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
CLIPSEARCH = "from clipsearch.cli.main import run; run()"


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)^## ", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def test_the_tutorial_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    lines = []
    for number in range(24):
        name = list(COLOURS)[number % 6]
        Image.new("RGB", (90 + number, 80), COLOURS[name]).save(photos / f"{number}.jpg")
        lines += [f"{number}.jpg\ta {name} square", f"{number}.jpg\tthe colour {name}"]
    (tmp_path / "captions.tsv").write_text("\n".join(lines) + "\n")
    page = section("Train your own, step by step")
    # The number of steps is the one thing that is not as on the page.
    (tmp_path / "tiny.toml").write_text(re.sub(r"steps = \d+", "steps = 3", blocks(page, "toml")[0]))
    commands = [
        line.removeprefix("$ ") for block in blocks(page, "console") for line in block.splitlines() if line
    ]
    typed = [command.split()[1] for command in commands]
    assert typed == ["shards", "train", "train", "eval", "index", "query"]
    for command in (commands[0], commands[2], commands[3]):  # the smoke run is a shorter one of the next
        done = subprocess.run(
            [sys.executable, "-c", CLIPSEARCH, *command.split()[1:]],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "| photos | 3 | 6 |" in done.stdout
    assert (tmp_path / "runs" / "tiny" / "model" / "README.md").is_file()


@pytest.mark.parametrize(
    "table",
    ["Data", "Start", "Distill", "Optim", "Loss", "Compute", "Best", "Teacher", "Bridge", "Frozen", "Bag"],
)
def test_every_key_of_a_recipe_is_documented(table: str) -> None:
    import dataclasses

    from clipsearch_train import recipe

    row = next(line for line in PAGE.read_text().splitlines() if line.startswith(f"| `[{table.lower()}]` |"))
    documented = set(re.findall(r"`(\w+)`", row))
    assert documented == {field.name for field in dataclasses.fields(getattr(recipe, table))}
