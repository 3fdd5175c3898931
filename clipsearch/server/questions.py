"""What is asked for, read from JSON or from an address, field by field: nothing is guessed or ignored."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams

from clipsearch.errors import UsageError
from clipsearch.paths import from_json
from clipsearch.search import Query, Term, Where, parse_date
from clipsearch.search.query import MOST_TERMS

MOST_HITS = 10_000
"""Of one page."""

_FILTERS = frozenset({"n", "page", "under", "after", "before", "min_score"})


@dataclass(frozen=True)
class Page:
    """Which of the results: the page of `n` photos each, among those that `where` admits."""

    n: int
    page: int
    where: Where


@dataclass(frozen=True)
class Question:
    """A query, and the bytes of its pictures; the value of a picture's term is its place among them."""

    query: Query
    pictures: tuple[bytes, ...]
    page: Page


def from_body(body: bytes) -> Question:
    """Read the body of ``POST /search``. Raises UsageError."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UsageError("The body is not JSON.") from error
    if not isinstance(fields, dict):
        raise UsageError("The body is not a JSON object.")
    _refuse_others(fields, _FILTERS | {"query", "terms"})
    if ("query" in fields) == ("terms" in fields):
        raise UsageError('Give either "query", a line of words, or "terms".')
    page = _page(fields)
    if "terms" in fields:
        return Question(*_terms(fields["terms"]), page)
    line = _text(fields, "query")
    # Whoever asks over the network names no file of this machine: no word of the line is a picture.
    return Question(Query.parse(line, is_image=lambda _: False), (), page)


def from_address(params: QueryParams) -> Page:
    """Read the filters of an address. Raises UsageError."""
    _refuse_others(params, _FILTERS)
    fields: dict[str, Any] = {name: params[name] for name in params if name != "under"}
    for name, number in (("n", int), ("page", int), ("min_score", float)):
        if name in fields:
            try:
                fields[name] = number(fields[name])
            except ValueError:
                raise UsageError(f'"{name}" is a number, not {fields[name][:40]!r}.') from None
    return _page({**fields, "under": params.getlist("under")})


def picture_alone(data: bytes, page: Page) -> Question:
    """The question for what looks like one picture."""
    return Question(Query((Term(1.0, "image", "0"),)), (data,), page)


def _page(fields: Mapping[str, Any]) -> Page:
    n, page = _whole(fields, "n", 20), _whole(fields, "page", 1)
    if not 1 <= n <= MOST_HITS:
        raise UsageError(f'"n" is from 1 to {MOST_HITS:,}.')
    if not 1 <= page <= 1 << 31:
        raise UsageError("Pages are counted from 1.")
    under = fields.get("under", [])
    if not (isinstance(under, list) and all(isinstance(path, str) for path in under)):
        raise UsageError('"under" is a list of folders.')
    try:
        folders = tuple(from_json(path) for path in under)
    except ValueError:
        raise UsageError('"under" holds what no path can be.') from None
    after, before = (
        None if fields.get(name) is None else _text(fields, name) for name in ("after", "before")
    )
    least = fields.get("min_score")
    if least is not None and (isinstance(least, bool) or not isinstance(least, int | float)):
        raise UsageError('"min_score" is a number.')
    return Page(
        n,
        page,
        Where(
            under=folders,
            after=None if after is None else parse_date(after),
            before=None if before is None else parse_date(before),
            min_score=least,
        ),
    )


def _terms(terms: Any) -> tuple[Query, tuple[bytes, ...]]:
    if not isinstance(terms, list) or len(terms) > MOST_TERMS:
        raise UsageError(f'"terms" is a list of at most {MOST_TERMS} terms.')
    read: list[Term] = []
    pictures: list[bytes] = []
    for term in terms:
        if not isinstance(term, dict) or ("text" in term) == ("image" in term):
            raise UsageError('A term is an object with "text" or "image", and perhaps "weight".')
        _refuse_others(term, frozenset({"weight", "text", "image"}))
        weight = term.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise UsageError('A "weight" is a number.')
        try:
            weight = float(weight)
        except OverflowError:
            raise UsageError('A "weight" is a number.') from None
        if "text" in term:
            read.append(Term(weight, "text", _text(term, "text")))
        else:
            read.append(Term(weight, "image", str(len(pictures))))
            pictures.append(_base64(_text(term, "image")))
    return Query(tuple(read)), tuple(pictures)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError('An "image" is the bytes of a picture in base64.') from None


def _whole(fields: Mapping[str, Any], name: str, default: int) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f'"{name}" is a whole number.')
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise UsageError(f'"{name}" is a text.')
    return value


def _refuse_others(fields: Mapping[str, Any], known: frozenset[str]) -> None:
    others = sorted(set(fields) - known)
    if others:
        raise UsageError(f"There is no field {others[0][:40]!r} here; there are {', '.join(sorted(known))}.")
