"""The server: Streamlit's pages, and the photos by id beside them.

Thumbnails go from the disk to the browser by their own address, so a page of results is a few kilobytes, the
browser keeps what it has seen, and the first pictures show while others are still being made.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import quote

import streamlit as st
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clipsearch.config import default_library
from clipsearch.errors import ClipsearchError, ImageError, ServerError
from clipsearch.files import read_file
from clipsearch.thumbnails import Kind
from clipsearch_ui.state import Opened, icon, shelf

SCRIPT = Path(__file__).with_name("app.py")
HOSTS = ["127.0.0.1", "localhost", "[::1]"]

_ID_DIGITS = 18

# Another site's page may neither show these pictures nor learn their sizes.
_GUARDED = {"Cross-Origin-Resource-Policy": "same-origin", "X-Content-Type-Options": "nosniff"}
_KEPT = {"Cache-Control": "private, max-age=31536000, immutable", **_GUARDED}

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


def thumbnail(request: Request) -> Response:
    """A photo of a library, small or for the large view; 404 for what cannot be shown."""
    opened = shelf().opened(request.path_params["library"])
    kind = request.path_params["kind"]
    if opened is None or kind not in get_args(Kind):
        return _missing()
    try:
        content = _content(opened, request)
        if content is None:
            return _missing()
        data = opened.thumbnails.get(content[0], content[1], cast(Kind, kind))
    except ClipsearchError:
        return _missing()
    return Response(data, media_type="image/webp", headers=_KEPT)


def photo_file(request: Request) -> Response:
    """The file of a photo, to be saved, never shown in the page."""
    opened = shelf().opened(request.path_params["library"])
    try:
        content = None if opened is None else _content(opened, request)
        for path in () if content is None else content[1]:
            try:
                data = read_file(path, follow_symlinks=True)[0]
            except ImageError:
                continue
            name = os.fsdecode(os.path.basename(path)).encode("utf-8", "replace")  # noqa: PTH119 (bytes)
            disposition = f"attachment; filename*=UTF-8''{quote(name)}"
            headers = {"Content-Disposition": disposition, "Cache-Control": "no-store", **_GUARDED}
            return Response(data, media_type="application/octet-stream", headers=headers)
    except ClipsearchError:
        pass
    return _missing()


def _content(opened: Opened, request: Request) -> tuple[bytes, tuple[bytes, ...]] | None:
    """What the library knows of the photo in the address; None where that is no id."""
    written = request.path_params["image"]
    # Thousands of digits are an error to `int`, and SQLite has no room for twenty.
    named = written.isascii() and written.isdigit() and len(written) <= _ID_DIGITS
    return opened.content(int(written)) if named else None


def picture(request: Request) -> Response:
    """A picture that a visitor searches with."""
    data = shelf().picture(f"picture:{request.path_params['name']}")
    return _missing() if data is None else Response(data, media_type="image/webp", headers=_KEPT)


def _missing() -> Response:
    return Response("Not found", 404, headers={"Cache-Control": "no-store", **_GUARDED})


ROUTES = [
    Route("/photos/{library:str}/{image:str}/{kind:str}.webp", thumbnail),
    Route("/photos/{library:str}/{image:str}/file", photo_file),
    Route("/pictures/{name:str}.webp", picture),
]


def _prepare() -> None:
    """Load while the browser still fetches the page what the page will need: pages, library, model."""
    from clipsearch_ui import library_page, search_page  # noqa: F401 - for the script, which imports them too

    icon()
    try:
        opened = shelf().open(default_library())
        with opened.library.look() as view:
            len(view.overview.slots)
        opened.warm()
    except ClipsearchError:
        return  # the page will say it


@asynccontextmanager
async def _lifespan(_app: st.App) -> AsyncIterator[None]:
    threading.Thread(target=_prepare, name="prepare", daemon=True).start()
    yield
    shelf().decoders.close()


def build() -> st.App:
    """The application, ready for any ASGI server."""
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    return st.App(SCRIPT, routes=ROUTES, middleware=[guard], lifespan=_lifespan)


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

    Raises ServerError for a port that another program has.
    """
    settings = {**SETTINGS, "server.headless": not browser}
    if port is not None:
        _check_free(port)
        settings["server.port"] = port
    build().run(config=settings)
