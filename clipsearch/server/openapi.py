"""The interface described for programs: OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clipsearch import __version__
from clipsearch.search.query import MOST_TERMS
from clipsearch.server.questions import MOST_HITS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_PATH = {**_TEXT, "description": "Bytes that are not UTF-8 are lone surrogates, as in `query --json`."}
_DATE = {
    **_TEXT,
    "pattern": r"^\d{4}(-\d{1,2}(-\d{1,2}([T ]\d{2}:\d{2}(:\d{2})?)?)?)?$",
    "example": "2024-05",
}

_ERRORS = {
    400: "What is asked cannot be understood.",
    401: "The token is missing or wrong.",
    403: "The request comes from a page of another site.",
    404: "There is no such photo.",
    409: "The library is empty, gone, or its model is.",
    413: "Larger than 20 MB.",
    421: "The request names this server by another name.",
    422: "The picture cannot be read.",
    503: "Not now: the library, its disk or its model failed, or too many ask.",
}


def _null_or(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(properties: dict[str, Schema], required: Iterable[str] | None = None) -> Schema:
    names = list(properties) if required is None else list(required)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_FILTERS: dict[str, Schema] = {
    "n": {
        "type": "integer",
        "minimum": 1,
        "maximum": MOST_HITS,
        "default": 20,
        "description": "Photos a page.",
    },
    "page": {"type": "integer", "minimum": 1, "default": 1},
    "under": {**_list(_PATH), "description": "Only in one of these folders: absolute paths."},
    "after": {**_DATE, "description": "Taken on or after."},
    "before": {**_DATE, "description": "Taken before."},
    "min_score": {**_NUMBER, "minimum": -1, "maximum": 1, "description": "Lowest cosine."},
}

_KNOWN: dict[str, Schema] = {
    "width": {**_COUNT, "description": "Upright, in pixels."},
    "height": _COUNT,
    "format": {**_TEXT, "example": "JPEG"},
    "taken_at": _null_or({**_TEXT, "description": "ISO 8601, on the camera's clock."}),
    "latitude": _null_or(_NUMBER),
    "longitude": _null_or(_NUMBER),
    "camera": _null_or(_TEXT),
    "lens": _null_or(_TEXT),
    "caption": _null_or(_TEXT),
    "keywords": _list(_TEXT),
}

_TERM: Schema = {
    "description": "A part of a sum; a negative weight takes away.",
    **_object(
        {
            "weight": {**_NUMBER, "default": 1},
            "text": _TEXT,
            "image": {**_TEXT, "contentEncoding": "base64", "description": "The bytes of a picture."},
        },
        required=(),
    ),
    "oneOf": [{"required": ["text"]}, {"required": ["image"]}],
}

_QUESTION: Schema = {
    **_object(
        {
            "query": {**_TEXT, "example": "horse + stripes", "description": "Words, or arithmetic."},
            "terms": {**_list(_ref("Term")), "minItems": 1, "maxItems": MOST_TERMS},
            **{name: _null_or(schema) if name in ("after", "before", "min_score") else schema
               for name, schema in _FILTERS.items()},
        },
        required=(),
    ),
    "oneOf": [{"required": ["query"]}, {"required": ["terms"]}],
}  # fmt: skip

_SCHEMAS: dict[str, Schema] = {
    "Error": _object(
        {"error": {**_TEXT, "description": "One sentence."}, "code": {**_COUNT, "description": "Exit code."}},
        required=["error"],
    ),
    "Health": _object({"status": {"const": "ok"}}),
    "Term": _TERM,
    "Question": _QUESTION,
    "Hit": _object(
        {
            "path": _PATH,
            "score": {**_NUMBER, "description": "Cosine of query and photo, -1 to 1."},
            "image_id": {**_COUNT, "description": "The photo's id."},
            "slot": _COUNT,
            **_KNOWN,
            "copies": {**_list(_PATH), "description": "Other files of the same content."},
        }
    ),
    "Hits": _object({"hits": _list(_ref("Hit"))}),
    "Photo": _object(
        {
            "id": _COUNT,
            "path": _PATH,
            "paths": _list(_PATH),
            "content_hash": {**_TEXT, "pattern": "^[0-9a-f]{32}$"},
            "size": {**_COUNT, "description": "Of the file, in bytes."},
            **_KNOWN,
        }
    ),
    "Status": {"type": "object", "description": "What `clipsearch status --json` writes."},
}


def document() -> dict[str, Any]:
    """The OpenAPI document of everything that `app.build` answers."""
    picture = {"required": True, "content": {"image/*": {"schema": {**_TEXT, "format": "binary"}}}}
    question = {"required": True, "content": {"application/json": {"schema": _ref("Question")}}}
    size = {"name": "size", "in": "query", "schema": {"enum": ["grid", "preview"], "default": "grid"}}
    filters = [{"name": name, "in": "query", "schema": schema} for name, schema in _FILTERS.items()]
    hits = _json("Hits")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "clipsearch",
            "version": __version__,
            "description": "Find photos by what is in them. See docs/serve.md.",
        },
        "servers": [{"url": "http://127.0.0.1:{port}", "variables": {"port": {"default": "8765"}}}],
        "security": [{"token": []}],
        "paths": {
            "/health": {"get": {**_operation("health", _json("Health"), ()), "security": []}},
            "/openapi.json": {"get": _operation("this document", _any_json(), ())},
            "/status": {"get": _operation("what the library holds", _json("Status"), ())},
            "/search": {
                "post": {
                    **_operation("search by words, pictures or a sum of both", hits, (400, 413, 422)),
                    "requestBody": question,
                }
            },
            "/search/picture": {
                "post": {
                    **_operation("search by one picture", hits, (400, 413, 422)),
                    "parameters": filters,
                    "requestBody": picture,
                }
            },
            "/photos/{id}": {
                "get": _operation("what is known of a photo", _json("Photo"), (404,)),
                **_by_id(),
            },
            "/photos/{id}/similar": {
                "get": {**_operation("photos like a photo", hits, (400, 404)), "parameters": filters},
                **_by_id(),
            },
            "/photos/{id}/thumbnail": {
                "get": {
                    **_operation("a photo as a small WebP", {"image/webp": {}}, (400, 404, 422)),
                    "parameters": [size],
                },
                **_by_id(),
            },
        },
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip


def _operation(summary: str, content: Schema, errors: Iterable[int]) -> dict[str, Any]:
    told = sorted({*errors, 401, 403, 409, 421, 503})
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "Done.", "content": content},
            **{str(status): {"description": _ERRORS[status], "content": _json("Error")} for status in told},
        },
    }


def _json(name: str) -> Schema:
    return {"application/json": {"schema": _ref(name)}}


def _any_json() -> Schema:
    return {"application/json": {"schema": {"type": "object"}}}


def _by_id() -> dict[str, Any]:
    number = {"name": "id", "in": "path", "required": True, "schema": _COUNT}
    return {"parameters": [number]}
