"""What the light converters make of a command line, beside what Typer's own make of it."""

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from clipsearch.cli.light import LightCommand

LINES = (
    [
        ["a"],
        ["a", "b"],
        ["-l", "~/x"],
        ["a", "-n", "5"],
        ["a", "-u", "x", "-u", "y/"],
        ["--score", "0.5"],
        ["--bare"],
    ]
    + [
        ["-n", number]
        for number in ("0", "-1", "9", "10", "five", "5.5", "05", "\u0665", "9" * 30, "1_0", " 7")
    ]
    + [["--score", "two"], ["--nonsense"], ["-n"], ["--help"]]
)


def told_by(kind: type | None, line: list[str], environment: dict[str, str]) -> tuple[int, str]:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command(cls=kind)
    def command(
        words: Annotated[list[str] | None, typer.Argument()] = None,
        number: Annotated[int, typer.Option("-n", min=1, max=9)] = 2,
        under: Annotated[list[Path] | None, typer.Option("-u")] = None,
        library: Annotated[Path | None, typer.Option("-l", envvar="WHERE")] = None,
        score: Annotated[float | None, typer.Option(min=0.0)] = None,
        bare: Annotated[bool, typer.Option("--bare")] = False,
    ) -> None:
        typer.echo(repr((words, number, under, library, score, bare)))

    done = CliRunner().invoke(app, line, env=environment)
    return done.exit_code, done.output


@pytest.mark.parametrize("line", LINES, ids=" ".join)
@pytest.mark.parametrize("environment", [{}, {"WHERE": "there/"}], ids=["plain", "variable"])
def test_it_is_what_typer_makes_of_it(line: list[str], environment: dict[str, str]) -> None:
    assert told_by(LightCommand, line, environment) == told_by(None, line, environment)
