import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import clipsearch

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "sqlalchemy", "streamlit", "faiss", "PIL", "tokenizers", "huggingface_hub")

HELP = """
import sys
sys.argv[1:] = {!r}
from clipsearch.cli.main import run
try:
    run()
except SystemExit as end:
    assert not end.code
"""


def loaded_by(code):
    """Which of the heavy packages a fresh interpreter has loaded after `code`."""
    script = (
        f"{code}\nimport json, sys\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_all_is_what_is_visible():
    assert sorted(clipsearch.__all__) == sorted(dir(clipsearch))
    for name in clipsearch.__all__:
        assert getattr(clipsearch, name) is not None
    own = {name for name in vars(clipsearch) if not name.startswith("_")}
    modules = {name for name in own if isinstance(vars(clipsearch)[name], type(sys))}
    assert own - modules <= {*clipsearch.__all__, "TYPE_CHECKING", "Any", "import_module"}


def test_a_name_that_is_not_there_is_an_attribute_error():
    assert not hasattr(clipsearch, "nonsense")


def test_importing_it_loads_nothing_heavy():
    assert loaded_by("import clipsearch") == []
    assert loaded_by("from clipsearch import ClipsearchError") == []


def test_the_command_line_starts_without_anything_heavy():
    for arguments in (["--help"], ["--version"], ["query", "--help"], ["index", "--help"]):
        assert loaded_by(HELP.format(arguments)) == [], arguments


def test_a_library_is_opened_without_a_model(tmp_path):
    code = f"import clipsearch; clipsearch.Library.open({str(tmp_path / 'l')!r}, create=True).status()"
    assert "torch" not in loaded_by(code)


def test_who_imports_whom_is_kept():
    tool = Path(sys.executable).with_name("lint-imports")
    command = [str(tool)] if tool.is_file() else [shutil.which("lint-imports") or "lint-imports"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_module_has_its_layer():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    layered = {name for layer in contract["layers"] for name in re.findall(r"[\w.]+", layer)}
    modules = {f"clipsearch.{path.stem}" for path in (ROOT / "clipsearch").glob("*.py")}
    modules |= {f"clipsearch.{path.parent.name}" for path in (ROOT / "clipsearch").glob("*/__init__.py")}
    missing = modules - layered - {"clipsearch.__init__", "clipsearch.models"}
    assert not missing
