"""What the browser needs before Streamlit can say anything: the HTML, and Streamlit's scripts.

The HTML is Streamlit's own with two things put in. The browser is told at once of the scripts that the search
page will need, which it would else learn of one by one, each from the one before it. And the shortcuts of
every page work from the beginning, so that no key is lost while the page comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import streamlit
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_STATIC = Path(streamlit.__file__).with_name("static")
_SCRIPTS = _STATIC / "static" / "js"
_AT = "/static/js/"
_NAME = re.compile(r"[\w.-]+\.js")
_NAMED = re.compile(rf"{_AT}({_NAME.pattern})".lstrip("/"))
_IMPORTED = re.compile(rf"""(?:from|import)\s*["']\./({_NAME.pattern})["']""")
_HEAD = 6_000
"""Characters of a script among which its imports are."""
_KEPT = {"Cache-Control": "public, max-age=31536000, immutable"}

WIDGETS = (
    "TextInput",
    "BidiComponent",
    "Html",
    "FileUploader",
    "Selectbox",
    "Pagination",
    "DateInput",
    "ButtonGroup",
    "Checkbox",
)
"""What stands on the search page, by the beginnings of Streamlit's file names."""


def first_page(_request: Request) -> Response:
    """The HTML of every page."""
    return Response(html(), media_type="text/html", headers={"Cache-Control": "no-cache"})


@cache
def html() -> str:
    """Streamlit's page with what is put in; scripts that another Streamlit names otherwise are left out."""
    text = (_STATIC / "index.html").read_text(encoding="utf-8")
    links = "".join(f'<link rel="modulepreload" crossorigin href=".{_AT}{name}">\n' for name in _wanted(text))
    shell = Path(__file__).with_name("shell.js").read_text(encoding="utf-8")
    text = text.replace("<title>Streamlit</title>", "<title>clipsearch</title>", 1)
    return text.replace("</head>", f"{links}<script>\n{shell}</script>\n</head>", 1)


def _wanted(text: str) -> Iterator[str]:
    """The widgets' scripts and what these import, without those that the page names itself."""
    known = set(_NAMED.findall(text))
    ahead = [file.name for widget in WIDGETS for file in sorted(_SCRIPTS.glob(f"{widget}.*.js"))]
    while ahead:
        name = ahead.pop(0)
        if name not in known and (_SCRIPTS / name).is_file():
            known.add(name)
            yield name
            with (_SCRIPTS / name).open(encoding="utf-8") as script:
                ahead += _IMPORTED.findall(script.read(_HEAD))


class Scripts:
    """Serves Streamlit's scripts, a hundred of them at the first visit, each in one piece.

    Starlette would read each in pieces of 64 KB and wait for a thread at every one, while other threads of a
    server that has just been started are loading modules.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for a script that is there; let the app answer for all else."""
        path = str(scope.get("path", ""))
        if scope["type"] == "http" and scope["method"] == "GET" and path.startswith(_AT):
            name = path.removeprefix(_AT)
            file = _SCRIPTS / name
            if _NAME.fullmatch(name) and file.is_file():
                reply = Response(file.read_bytes(), media_type="text/javascript", headers=_KEPT)
                await reply(scope, receive, send)
                return
        await self._app(scope, receive, send)
