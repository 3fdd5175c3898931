"""The examples of the documentation run, and the documentation shows what runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs/examples/python_api.py"


def snippets() -> dict[str, str]:
    """The marked parts of the example."""
    found = re.findall(r"    # \[(\w+)\]\n(.*?)    # \[/\1\]", EXAMPLE.read_text(encoding="utf-8"), re.DOTALL)
    return {name: textwrap.dedent(body) for name, body in found}


def _demo() -> Any:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "docs/examples/demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["index", "search", "model"])
def test_the_page_shows_the_example(name: str) -> None:
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    assert f"```python\n{snippets()[name]}```" in page


def test_the_demo_finds_what_it_shows(tmp_path: Path) -> None:
    """`make demo` without the installation: the first answers are what a person would expect."""
    demo = [sys.executable, str(ROOT / "docs/examples/demo.py")]
    done = subprocess.run(demo, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    answers = [part.splitlines()[1] for part in done.stdout.split("$ clipsearch query")[1:]]
    assert ["chelsea" in answers[0], "coffee" in answers[1], "flower" in answers[2]] == [True] * 3, (
        done.stdout
    )


def test_the_python_example_runs(tmp_path: Path) -> None:
    photos = _demo().packaged_photos(tmp_path / "photos")
    command = [sys.executable, str(EXAMPLE), str(photos), str(tmp_path / "library")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "15 new, 0 failed" in done.stdout
    assert "flower.jpg" not in done.stdout.splitlines()[-2]  # `similar` leaves the photo itself out
