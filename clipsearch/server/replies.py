"""What goes back: JSON in ASCII (paths are any bytes), and errors as one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

GUARDED = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
"""Another site's page may neither show nor guess what is answered here."""


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON document. Bytes of a path that are not UTF-8 are lone surrogates, as in ``query --json``."""
    return Response(
        json.dumps(value), status, media_type="application/json", headers={**GUARDED, **(headers or {})}
    )


def refusal(status: int, sentence: str, code: int | None = None) -> Response:
    """An error; `code` is the exit code that the command line has for it."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return reply({"error": sentence, **({} if code is None else {"code": code})}, status, headers)
