"""`clipsearch serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.console import LibraryOption, end_server_with_its_terminal, say, shown
from clipsearch.config import expanded
from clipsearch.errors import MissingExtra


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    library: LibraryOption = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port (default: any free one).", show_default=False)
    ] = 0,
) -> None:
    """Keep the library and its model ready: queries from the shell use it, programs ask it over HTTP.

    It is served to this user of this computer only, until Ctrl-C.
    """
    from clipsearch.config import default_library

    try:
        from clipsearch.server.run import serve as run
    except ImportError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        raise MissingExtra("The server needs Starlette: pip install 'clipsearch[serve]'") from error
    place = (default_library() if library is None else expanded(library)).absolute()

    def ready(address: str, note: Path) -> None:
        say(f"Serving {shown(bytes(place))} at {address}; `clipsearch query` uses it. Ctrl-C ends it.")
        say(f"Programs find the token in {shown(bytes(note))}.")

    end_server_with_its_terminal()
    run(place, port, ready)
