"""The server: Streamlit's pages, and the photos by id beside them.

Thumbnails go from the disk to the browser by their own address, so a page of results is a few kilobytes, the
browser keeps what it has seen, and the first pictures show while others are still being made.
"""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clipsearch.config import default_library
from clipsearch.errors import ClipsearchError, ServerError
from clipsearch.patience import check_room
from clipsearch_ui.front import Scripts, first_page
from clipsearch_ui.streamlit_start import advertise_nothing, end_waits, hasten

SCRIPT = Path(__file__).with_name("app.py")
PAGES = ("", "timeline", "map", "themes", "duplicates", "library")
"""The paths of `app`'s pages."""
HOSTS = ["127.0.0.1", "localhost", "[::1]"]

SETTINGS: dict[str, Any] = {
    "server.address": "127.0.0.1",
    "server.enableXsrfProtection": True,
    "server.enableCORS": True,
    "server.maxUploadSize": 20,
    "server.fileWatcherType": "none",
    "server.runOnSave": False,
    "server.showEmailPrompt": False,
    "browser.gatherUsageStats": False,
    "browser.serverAddress": "127.0.0.1",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "global.developmentMode": False,
    "theme.light.primaryColor": "#0b6bcb",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f3f5f8",
    "theme.light.textColor": "#0c1622",
    "theme.dark.primaryColor": "#6cb0ff",
    "theme.dark.backgroundColor": "#101418",
    "theme.dark.secondaryBackgroundColor": "#1b2128",
    "theme.dark.textColor": "#e8edf2",
    "theme.baseRadius": "0.6rem",
    "theme.headingFontSizes": ["1.9rem", "1.15rem", "1.1rem", "1.05rem", "1rem", "0.9rem"],
    # A page number comes from the address and is set back to 1 by a new search: both are meant.
    "global.disableWidgetStateDuplicationWarning": True,
}


def _late(name: str) -> Callable[[Request], Response]:
    """A handler of `pictures`, which is loaded when one is called: the server listens sooner without it."""

    def handle(request: Request) -> Response:
        from clipsearch_ui import pictures

        found: Callable[[Request], Response] = getattr(pictures, name)
        return found(request)

    return handle


ROUTES = [
    *(Route(f"/{name}", first_page) for name in PAGES),
    Route("/photos/{library:str}/{image:str}/{kind:str}.webp", _late("thumbnail")),
    Route("/photos/{library:str}/{image:str}/file", _late("photo_file")),
    Route("/pictures/{name:str}.webp", _late("picture")),
]


def _prepare() -> None:
    """Load while the browser still fetches the page what the page will need: pages, library, model."""
    from clipsearch_ui import library_page, search_page  # noqa: F401 - for the script, which imports them too
    from clipsearch_ui.state import icon, shelf

    icon()
    try:
        opened = shelf().open(default_library())
        with opened.library.look() as view:
            len(view.overview.slots)
        opened.warm()
    except ClipsearchError:
        pass  # the page will say it
    # Streamlit collects garbage after each run of the script; what is here by now need not be gone through.
    gc.freeze()


@asynccontextmanager
async def _lifespan(_app: st.App) -> AsyncIterator[None]:
    threading.Thread(target=_prepare, name="prepare", daemon=True).start()
    yield
    from clipsearch_ui.state import shelf

    shelf().decoders.close()


def build() -> st.App:
    """The application, ready for any ASGI server."""
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    return st.App(SCRIPT, routes=ROUTES, middleware=[guard, Middleware(Scripts)], lifespan=_lifespan)


def _check_free(port: int) -> None:
    """Raise ServerError where the port cannot be listened on: Streamlit would say so in its own way."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((SETTINGS["server.address"], port))
        except OSError as error:
            raise ServerError(
                f"Port {port} cannot be listened on ({error.strerror}); without --port a free one is taken."
            ) from error


def serve(port: int | None = None, *, browser: bool = True) -> None:
    """Serve the app on this machine until interrupted; without `port`, the first free one from 8501.

    Raises ServerError for a port that another program has, StorageError where hardly a file can be opened.
    """
    check_room(default_library())
    settings = {**SETTINGS, "server.headless": not browser}
    if port is not None:
        _check_free(port)
        settings["server.port"] = port
    hasten()
    end_waits()
    advertise_nothing()
    build().run(config=settings)
