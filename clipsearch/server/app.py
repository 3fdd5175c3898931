"""The application: what is answered at which address. `openapi.document` says the same to programs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from clipsearch.browse import Photo
from clipsearch.errors import (
    ClipsearchError,
    ImageError,
    LibraryEmpty,
    LibraryNotFound,
    ModelNotFound,
    UsageError,
)
from clipsearch.search import Hit
from clipsearch.server import questions
from clipsearch.server.client import UPLOAD_LIMIT
from clipsearch.server.guard import Guard
from clipsearch.server.openapi import document
from clipsearch.server.replies import GUARDED, refusal, reply
from clipsearch.server.service import Service, hit_dict, photo_dict

Handler = Callable[[Request], Awaitable[Response]]

BODY_LIMIT = UPLOAD_LIMIT * 4 // 3 + (1 << 20)
"""Bytes of the largest body: pictures in base64, and the words."""

_ID_DIGITS = 18

_STATUS: dict[type[ClipsearchError], int] = {
    UsageError: 400,
    ImageError: 422,
    LibraryEmpty: 409,
    LibraryNotFound: 409,
    ModelNotFound: 409,
}
_UNCHANGING = {**GUARDED, "Cache-Control": "private, max-age=31536000, immutable"}


class Pages:
    """The handlers, over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._document = document()

    async def health(self, _request: Request) -> Response:
        """Whether the server is there."""
        return reply({"status": "ok"})

    async def openapi(self, _request: Request) -> Response:
        """The description of this interface."""
        return reply(self._document)

    async def status(self, _request: Request) -> Response:
        """What the library holds."""
        return reply(await run_in_threadpool(self._service.status))

    async def search(self, request: Request) -> Response:
        """The photos that match words, pictures, or a sum of both."""
        question = questions.from_body(await _body(request, BODY_LIMIT))
        return _hits(await run_in_threadpool(self._service.search, question))

    async def search_by_picture(self, request: Request) -> Response:
        """The photos like the picture that is the body."""
        page = questions.from_address(request.query_params)
        data = await _body(request, UPLOAD_LIMIT)
        question = questions.picture_alone(data, page)
        return _hits(await run_in_threadpool(self._service.search, question))

    async def photo(self, request: Request) -> Response:
        """What is known of a photo."""
        return reply(photo_dict(await self._photo(request)))

    async def similar(self, request: Request) -> Response:
        """The photos most like a photo of the library."""
        page = questions.from_address(request.query_params)
        photo = await self._photo(request)
        return _hits(await run_in_threadpool(self._service.similar, photo, page))

    async def thumbnail(self, request: Request) -> Response:
        """A photo, small or for a large view."""
        size = request.query_params.get("size", "grid")
        if size not in ("grid", "preview"):
            raise UsageError('"size" is grid or preview.')
        photo = await self._photo(request)
        data = await run_in_threadpool(
            self._service.thumbnail, photo, "preview" if size == "preview" else "grid"
        )
        return Response(data, media_type="image/webp", headers=_UNCHANGING)

    async def _photo(self, request: Request) -> Photo:
        written = request.path_params["id"]
        # A number of thousands of digits is an error to `int`, and one that SQLite has no room for no id.
        named = written.isascii() and written.isdigit() and len(written) <= _ID_DIGITS
        found = await run_in_threadpool(self._service.photo, int(written)) if named else None
        if found is None:
            raise HTTPException(404, "There is no photo of that id.")
        return found


def build(service: Service, token: str) -> Starlette:
    """The application for a service; whoever holds `token` may ask."""
    pages = Pages(service)
    routes = [
        Route("/health", pages.health),
        Route("/openapi.json", pages.openapi),
        Route("/status", pages.status),
        Route("/search", pages.search, methods=["POST"]),
        Route("/search/picture", pages.search_by_picture, methods=["POST"]),
        Route("/photos/{id}", pages.photo),
        Route("/photos/{id}/similar", pages.similar),
        Route("/photos/{id}/thumbnail", pages.thumbnail),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={
            ClipsearchError: _failed,
            HTTPException: _refused,
            ClientDisconnect: _left,
            Exception: _broken,
        },
    )
    app.router.redirect_slashes = False
    return app


async def _body(request: Request, limit: int) -> bytes:
    """The body, read no further than `limit` bytes whatever its header says. Raises HTTPException 413."""
    declared = request.headers.get("content-length", "0")
    parts, size = [], int(declared) if declared.isascii() and declared.isdigit() else 0
    if size <= limit:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                break
            parts.append(part)
        else:
            return b"".join(parts)
    raise HTTPException(413, f"Too large: the limit is {UPLOAD_LIMIT >> 20} MB of pictures.")


def _hits(hits: list[Hit]) -> Response:
    return reply({"hits": [hit_dict(hit) for hit in hits]})


async def _failed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ClipsearchError)
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 503)
    return refusal(status, str(error), error.exit_code)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "There is no such address.", 405: "That address is asked in another way."}
    plain = error.detail in ("Not Found", "Method Not Allowed")
    return refusal(error.status_code, sentence[error.status_code] if plain else error.detail)


async def _left(_request: Request, _error: Exception) -> Response:
    return refusal(400, "The request ended before its body did.")


async def _broken(_request: Request, _error: Exception) -> Response:
    return refusal(500, "The server met an error of its own; its terminal shows it.")
