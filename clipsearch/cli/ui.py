"""`clipsearch ui`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from clipsearch.cli.console import LibraryOption, end_server_with_its_terminal, say
from clipsearch.cli.light import LightCommand
from clipsearch.config import expanded
from clipsearch.errors import MissingExtra


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ui", cls=LightCommand)(ui)


def ui(
    library: LibraryOption = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port (default: the first free one from 8501).", show_default=False
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
) -> None:
    """Open the web page: search, look around, index.

    It is served to this computer only, until Ctrl-C.
    """
    if library is not None:
        os.environ["CLIPSEARCH_LIBRARY"] = str(expanded(library).absolute())
    try:
        import streamlit  # noqa: F401
    except ImportError as error:
        raise MissingExtra("The web page needs Streamlit: pip install 'clipsearch[ui]'") from error
    from clipsearch_ui.server import serve

    end_server_with_its_terminal()
    say("Starting the web page; Ctrl-C ends it.")
    serve(port, browser=browser)
