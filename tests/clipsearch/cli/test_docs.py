import re
from pathlib import Path

import pytest
import typer.main

from clipsearch import errors
from clipsearch.cli.main import application

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text()


def commands(command=None, name="clipsearch"):
    """Name → command, of everything that can be run."""
    command = command or typer.main.get_command(application())
    if not hasattr(command, "commands"):
        return {name: command}
    found = {}
    for part, below in command.commands.items():
        found |= commands(below, f"{name} {part}")
    return found


def options(command):
    return {
        spelling
        for parameter in command.params
        for spelling in (*parameter.opts, *parameter.secondary_opts)
        if spelling.startswith("-") and spelling not in ("--help", "-h")
    }


SECTIONS = dict(re.findall(r"^## (clipsearch .+?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def test_every_command_has_a_section_and_every_section_a_command():
    assert set(SECTIONS) == set(commands())


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_every_option_is_told_and_every_told_option_is_there(name):
    body = re.sub(r"^    clipsearch .*$", "", SECTIONS[name], flags=re.M)
    told = set(re.findall(r"`(--?[a-z0-9][a-z-]*)`", body))
    assert told == options(commands()[name])


def test_the_options_of_all_commands_are_told():
    for option in options(typer.main.get_command(application())):
        assert f"--{option.lstrip('-')}" in TEXT


def test_every_exit_code_is_told():
    table = TEXT[TEXT.index("## Exit codes") :]
    told = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.ClipsearchError)}
    assert told == sorted(codes | {0, 1, 129, 130, 141, 143})
