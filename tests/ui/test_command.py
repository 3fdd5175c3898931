from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipsearch.cli.main import application
from clipsearch.errors import MissingExtra, ServerError


def test_without_streamlit_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streamlit", None)
    result = CliRunner().invoke(application(), ["ui"])
    assert isinstance(result.exception, MissingExtra)
    assert "pip install 'clipsearch[ui]'" in str(result.exception)


def test_a_port_that_another_program_has_is_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(application(), ["ui", "--no-browser", "--port", str(port)])
    assert isinstance(result.exception, ServerError)
    assert str(result.exception).startswith(f"Port {port} cannot be listened on")


@pytest.mark.parametrize("files", [5, 8, 16])
def test_too_few_open_files_are_a_sentence(tmp_path: Path, files: int) -> None:
    program = [sys.executable, "-m", "clipsearch", "ui", "--no-browser", "-l", str(tmp_path)]
    limited = ["sh", "-c", 'ulimit -n "$1"; shift; exec "$@"', "sh", str(files), *program]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=120)
    said = done.stderr.splitlines()
    assert (done.returncode, len(said), done.stdout) == (9, 2, "")
    assert said[1].startswith("Error: ")
    assert "oo many files are open" in said[1]


def test_it_serves_the_library_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipsearch_ui import server

    monkeypatch.setenv("CLIPSEARCH_LIBRARY", "elsewhere")
    asked: list[tuple[int | None, bool]] = []
    monkeypatch.setattr(server, "serve", lambda port, *, browser: asked.append((port, browser)))
    result = CliRunner().invoke(application(), ["ui", "-l", str(tmp_path), "--port", "9999", "--no-browser"])
    assert result.exit_code == 0, result.output
    assert asked == [(9999, False)]
    assert os.environ["CLIPSEARCH_LIBRARY"] == str(tmp_path)
