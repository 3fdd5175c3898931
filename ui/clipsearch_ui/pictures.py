"""Photos by id and pictures searched with, as the browser asks for them.

Apart from `server`, which loads this when one is asked for: the page's own scripts need not wait for it.
"""

from __future__ import annotations

import hashlib
import os
from typing import cast, get_args
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from clipsearch.errors import ClipsearchError, ImageError
from clipsearch.files import read_file
from clipsearch.thumbnails import Kind
from clipsearch_ui.state import Opened, shelf

_ID_DIGITS = 18

# Another site's page may neither show these pictures nor learn their sizes.
_GUARDED = {"Cross-Origin-Resource-Policy": "same-origin", "X-Content-Type-Options": "nosniff"}
_KEPT = {"Cache-Control": "private, max-age=31536000, immutable", **_GUARDED}


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
        if content is None:
            return _missing()
        for path in content[1]:
            try:
                data = read_file(path, follow_symlinks=True)[0]
            except ImageError:
                continue
            if hashlib.blake2b(data, digest_size=16).digest() != content[0]:
                continue  # the address names a content: not whatever lies, or is linked, there by now
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
