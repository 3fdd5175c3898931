"""Asking a running server instead of loading a model: what `clipsearch query` does where it can.

Whatever is the matter (no server, another version, a refusal, an error of the query) the answer is None: the
caller goes the ordinary way then, which says what is wrong as if there were no server.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from clipsearch.config import expanded
from clipsearch.errors import ClipsearchError
from clipsearch.files import read_file
from clipsearch.search.hit import Hit
from clipsearch.search.query import Query, Term
from clipsearch.server.entry import Entry

UPLOAD_LIMIT = 20 << 20
"""Bytes of the pictures in one question."""

_GREETING_SECONDS = 2.0
_ANSWER_SECONDS = 300.0
"""The first picture waits for the whole model to be loaded."""


def ask(entry: Entry, query: Query, asked: Mapping[str, Any]) -> list[Hit] | None:
    """What the server finds; `asked` are the other fields of ``POST /search``. None: go the ordinary way."""
    try:
        question = json.dumps({**asked, "terms": _terms(query)}).encode()
        with closing(http.client.HTTPConnection("127.0.0.1", entry.port, timeout=_GREETING_SECONDS)) as line:
            line.request("GET", "/health")
            if line.getresponse().read() and line.sock is not None:
                line.sock.settimeout(_ANSWER_SECONDS)
            headers = {"Authorization": f"Bearer {entry.token}", "Content-Type": "application/json"}
            line.request("POST", "/search", question, headers)
            reply = line.getresponse()
            answer = reply.read()
        if reply.status != http.client.OK:
            return None
        return [Hit.from_dict(hit) for hit in json.loads(answer)["hits"]]
    except (OSError, http.client.HTTPException, ClipsearchError, ValueError, TypeError, KeyError):
        return None


def _terms(query: Query) -> list[dict[str, Any]]:
    """The terms as ``POST /search`` takes them, pictures as their bytes. Raises ImageError, ValueError."""
    room = UPLOAD_LIMIT
    terms = []
    for term in query.terms:
        if term.kind == "text":
            terms.append({"weight": term.weight, "text": term.value})
            continue
        data = _picture(term)
        room -= len(data)
        if room < 0:
            raise ValueError("too large for a question")
        terms.append({"weight": term.weight, "image": base64.b64encode(data).decode("ascii")})
    return terms


def _picture(term: Term) -> bytes:
    path = expanded(term.value)
    if os.path.getsize(path) > UPLOAD_LIMIT:  # noqa: PTH202 - no need to read it
        raise ValueError("too large for a question")
    return read_file(path, follow_symlinks=True)[0]
