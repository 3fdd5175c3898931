"""The server: Streamlit's pages, and the photos by id beside them.

Thumbnails go from the disk to the browser by their own address, so a page of results is a few kilobytes, the
browser keeps what it has seen, and the first pictures show while others are still being made.
"""

from __future__ import annotations

import os
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
from clipsearch.errors import ClipsearchError, ImageError
from clipsearch.files import read_file
from clipsearch.thumbnails import Kind
from clipsearch_ui.state import icon, shelf

SCRIPT = Path(__file__).with_name("app.py")
HOSTS = ["127.0.0.1", "localhost", "[::1]"]

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
        content = opened.content(request.path_params["image"])
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
        content = None if opened is None else opened.content(request.path_params["image"])
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


def picture(request: Request) -> Response:
    """A picture that a visitor searches with."""
    data = shelf().picture(f"picture:{request.path_params['name']}")
    return _missing() if data is None else Response(data, media_type="image/webp", headers=_KEPT)


def _missing() -> Response:
    return Response("Not found", 404, headers={"Cache-Control": "no-store", **_GUARDED})


ROUTES = [
    Route("/photos/{library:str}/{image:int}/{kind:str}.webp", thumbnail),
    Route("/photos/{library:str}/{image:int}/file", photo_file),
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


def serve(port: int | None = None, *, browser: bool = True) -> None:
    """Serve the app on this machine until interrupted; without `port`, the first free one from 8501."""
    settings = {**SETTINGS, "server.headless": not browser}
    if port is not None:
        settings["server.port"] = port
    build().run(config=settings)
