import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, "wheel", *options, str(ROOT)], check=True)
    (found,) = folder.glob("clipsearch-*.whl")
    return found


def test_it_holds_the_four_packages_and_nothing_beside_them(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    packages = {"clipsearch", "clipsearch_indexer", "clipsearch_ui", "clipsearch_train"}
    assert tops == packages | {top for top in tops if top.endswith(".dist-info")}
    assert "clipsearch/py.typed" in names


def test_it_works_elsewhere_beside_hostile_modules(wheel, tmp_path):
    target, home = tmp_path / "site", tmp_path / "home"
    subprocess.run(
        [*PIP, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True
    )
    home.mkdir()
    for name in ("train", "ui", "indexer", "benchmarks"):
        (home / f"{name}.py").write_text("raise ImportError('a module of the user was imported')\n")
    script = ROOT / "tests" / "clipsearch" / "cli" / "fake_cli.py"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLIPSEARCH_")}
    environment |= {"PYTHONPATH": f"{home}:{target}", "CLIPSEARCH_LIBRARY": str(home / "library")}

    def run(*command):
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import clipsearch, clipsearch_indexer, clipsearch_train; print(clipsearch.__file__)"
    assert run(sys.executable, "-c", where) == f"{target / 'clipsearch' / '__init__.py'}\n"
    assert run(sys.executable, "-m", "clipsearch", "--version").startswith("clipsearch 0.")
    photos = home / "photos"
    photos.mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(photos / f"{colour}.png")
    run(sys.executable, str(script), "index", "photos")
    assert run(sys.executable, str(script), "query", "blue", "-n", "1") == "1.000\tphotos/blue.png\n"
