"""That a command is loaded alone changes nothing of what it is."""

import subprocess
import sys

import pytest
import typer.main

from clipsearch.cli.main import PARTS, application

COMMANDS = [name for names in PARTS.values() for name in names]


def commands(words=()):
    return typer.main.get_command(application(words)).commands


def test_the_parts_name_every_command():
    assert list(commands()) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_alone_is_the_same(name):
    alone = commands([name, "--help"])
    assert set(alone) == set(next(names for names in PARTS.values() if name in names))
    assert [param.opts for param in alone[name].params] == [param.opts for param in commands()[name].params]


def test_no_other_command_is_loaded():
    script = (
        "import sys; sys.argv[1:] = ['status', '--help']\n"
        "from clipsearch.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.startswith('clipsearch.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1]
    assert "clipsearch.cli.manage" in loaded
    assert "clipsearch.cli.find" not in loaded
