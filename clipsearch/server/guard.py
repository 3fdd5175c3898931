"""Who is let in: programs of this machine that name it by its own name and hold the token.

A page of another site can make the user's browser send requests here. It cannot read the token; before that,
its requests are refused by what browsers say of them: the host that the page believes to be talking to (DNS
rebinding), and where the page is from.
"""

from __future__ import annotations

import asyncio
import hmac
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from clipsearch.server.replies import refusal

OPEN = frozenset({"/health"})
"""What is answered without the token."""

_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)


class Guard:
    """ASGI middleware; everything that does not pass gets one sentence and never reaches the application."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            refused = self._refused(scope["path"], Headers(scope=scope))
            app = self._app if refused is None else refusal(*refused)
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:  # told to end while a client is slow to send: that is no error
                await refusal(503, "The server is ending.")(scope, receive, send)
        else:  # a websocket: uvicorn answers 403 to whoever closes before accepting
            await send({"type": "websocket.close", "code": 1008})

    def _refused(self, path: str, headers: Headers) -> tuple[int, str] | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            return 421, "This server answers to 127.0.0.1 and localhost only."
        origins, host = headers.getlist("origin"), hosts[0].lower()
        if any(origin.lower() != f"http://{host}" for origin in origins):
            return 403, "Requests of other sites are refused."
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "Requests of other sites are refused."
        if path in OPEN:
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        held = hmac.compare_digest(token.strip().encode("latin-1", "replace"), self._token)
        if scheme.lower() != "bearer" or not held:
            return 401, "The token is missing or wrong; it is in the server's note, whose path it printed."
        return None
