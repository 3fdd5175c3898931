"""The query language: words, pictures, and sums of them.

::

    a dog on a beach                        words
    photo.jpg                               a picture, if there is one of that name
    horse + stripes - grass                 a sum; an operator is a + or - that stands alone
    "horse" + "stripes" - "grass"           the same, quoted
    "my photo.jpg" + 0.5:"at night"         a weight before a colon
    - fruit                                 what is least like it

A hyphen inside a word (``t-shirt``) or before one (``-5 degrees``) is text. A quote opens a term only where
the term begins, and inside it ``\\"`` and ``\\\\`` stand for a quote and a backslash; quoted words in the
middle (``a sign saying "stop + go"``) are kept as they are, operators among them. A number before a colon is
a weight unless a digit follows: ``16:9 photo`` and ``12:30`` are text, ``2:"9 lives"`` is weighted.
`str(query)` writes every term quoted and reads back as the same query (as long as no picture has the name of
one of its texts: whatever names a picture is one).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from clipsearch.config import expanded
from clipsearch.errors import UsageError

Kind = Literal["text", "image"]
IsImage = Callable[[str], bool]

MOST_TERMS = 100
MOST_CHARACTERS = 100_000
"""Of a line, or of all texts of a sum; beyond what anybody types, and before what takes long to read."""

_SHOWN = 60
"""Characters before and behind a mistake that are shown with it."""

_OPERATOR = re.compile(r"(?<!\S)[+-](?!\S)")
_WEIGHT = re.compile(
    r"([+-]?(?:\d++\.?\d*+|\.\d++)(?:e[+-]?\d++)?|[+-]?(?:nan|inf|infinity)):(?=\s*[^\s\d])", re.I
)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S)
_MIDDLE_QUOTED = re.compile(r'(?<=\s)"[^"]*"')
_PATH_LIKE = re.compile(r"(?:\.{1,2}|~)?/.*\.(?:jpe?g|png|webp|gif|bmp|tiff?|heic|heif|avif)", re.I | re.S)


@dataclass(frozen=True)
class Term:
    """One part of a sum.

    Attributes:
        weight: finite and not zero; negative takes away.
        kind: what `value` is.
        value: the words, or the path of a picture.

    Raises:
        UsageError: another weight or kind, an empty value, or words that are not valid Unicode or too many.
    """

    weight: float
    kind: Kind
    value: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or self.weight == 0:
            raise UsageError(f"a weight must be a finite number other than zero, not {self.weight}")
        if self.kind not in ("text", "image"):
            raise UsageError(f"a term is of kind text or image, not {self.kind!r}")
        if not self.value.strip():
            raise UsageError("a term of the query is empty")
        if self.kind == "text":
            _check_length(len(self.value))
            if any("\ud800" <= character <= "\udfff" for character in self.value):
                raise UsageError("the query holds bytes that are no text in UTF-8")

    def __str__(self) -> str:
        size = "" if abs(self.weight) == 1 else f"{abs(float(self.weight))!r}:"
        escaped = self.value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{size}"{escaped}"'


@dataclass(frozen=True)
class Query:
    """A sum of terms, read from a line with `parse` or put together in Python::

    Query.text("horse") + Query.text("stripes") - 0.5 * Query.text("grass")
    Query.image("photo.jpg") + Query.text("at night")
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise UsageError("the query is empty; say what to look for, as in: a dog on a beach")
        if len(self.terms) > MOST_TERMS:
            raise UsageError(f"a query is a sum of at most {MOST_TERMS} terms")
        _check_length(sum(len(term.value) for term in self.terms if term.kind == "text"))

    @classmethod
    def text(cls, words: str) -> Query:
        """A query for `words`; `UsageError` if there are none."""
        return cls((Term(1.0, "text", words),))

    @classmethod
    def image(cls, path: str) -> Query:
        """A query for what looks like the picture at `path`, which is read when the query is embedded."""
        return cls((Term(1.0, "image", path),))

    @classmethod
    def parse(cls, text: str, *, is_image: IsImage) -> Query:
        """Read a line of the query language.

        Args:
            text: the line.
            is_image: says of a term's value whether it is a picture that exists. One for which it raises
                OSError or ValueError (a name too long, a NUL) is no picture.

        Raises:
            UsageError: an empty query, an operator without a term, a quote that never closes, a weight of
                zero or infinity, an unquoted path of a picture that is not there, or more than `MOST_TERMS`
                terms or `MOST_CHARACTERS` characters.
        """
        _check_length(len(text))
        pieces = islice(_pieces(text), MOST_TERMS + 1)
        return cls(tuple(_term(text, piece, is_image) for piece in pieces))

    def __add__(self, other: Query) -> Query:
        return Query(self.terms + other.terms) if isinstance(other, Query) else NotImplemented

    def __sub__(self, other: Query) -> Query:
        return self + -other if isinstance(other, Query) else NotImplemented

    def __mul__(self, factor: float) -> Query:
        if not isinstance(factor, int | float):
            return NotImplemented
        return Query(tuple(Term(term.weight * factor, term.kind, term.value) for term in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> Query:
        return self * -1.0

    def __str__(self) -> str:
        signs = [("- " if term.weight < 0 else "+ ") for term in self.terms]
        line = " ".join(sign + str(term) for sign, term in zip(signs, self.terms, strict=True))
        return line.removeprefix("+ ")


def _check_length(characters: int) -> None:
    if characters > MOST_CHARACTERS:
        raise UsageError(f"a query has at most {MOST_CHARACTERS:,} characters, not {characters:,}")


@dataclass(frozen=True)
class _Piece:
    """A sign and the stretch [start, end) of the line that it applies to."""

    sign: float
    start: int
    end: int


def _pieces(line: str) -> Iterator[_Piece]:
    """Split at operators that stand alone outside of quotes."""
    sign, start, seen = 1.0, 0, False
    while True:
        end = _end_of_term(line, start)
        if not line[start:end].strip():
            if end == len(line) and not seen:
                raise UsageError("the query is empty; say what to look for, as in: a dog on a beach")
            if end == len(line) or seen:
                raise UsageError(_hint(line, start - 1, "something to look for is missing after this sign"))
        else:
            yield _Piece(sign, start, end)
        if end == len(line):
            return
        sign, start, seen = (-1.0 if line[end] == "-" else 1.0), end + 1, True


def _end_of_term(line: str, start: int) -> int:
    """Where the term from `start` ends: at the next operator outside of quotes, or with the line."""
    position = _value_start(line, start, len(line))[0]
    if line[position : position + 1] == '"':
        quoted = _QUOTED.match(line, position)
        if quoted is None:
            raise UsageError(_hint(line, position, "this quote is never closed"))
        position = quoted.end()
    while operator := _OPERATOR.search(line, position):
        middle = _MIDDLE_QUOTED.search(line, position)
        if middle is None or middle.start() > operator.start():
            return operator.start()
        position = middle.end()
    return len(line)


def _value_start(line: str, start: int, end: int) -> tuple[int, float]:
    """Where the value of a term begins after spaces and a weight, and the weight."""
    position = _skip_spaces(line, start, end)
    weight = _WEIGHT.match(line, position, end)
    if weight is None:
        return position, 1.0
    return _skip_spaces(line, weight.end(), end), float(weight[1])


def _skip_spaces(line: str, start: int, end: int) -> int:
    return start + len(line[start:end]) - len(line[start:end].lstrip())


def _term(line: str, piece: _Piece, is_image: IsImage) -> Term:
    start, weight = _value_start(line, piece.start, piece.end)
    quoted = _QUOTED.fullmatch(line[start : piece.end].rstrip())
    value = re.sub(r"\\([\"\\])", r"\1", quoted[1]) if quoted else line[start : piece.end].rstrip()
    try:
        there = is_image(value)
    except (OSError, ValueError):
        there = False
    if not there and quoted is None and _PATH_LIKE.fullmatch(value):
        raise UsageError(f"there is no picture at {value} (quote it to search for these words)")
    return Term(piece.sign * weight, "image" if there else "text", value)


def _hint(line: str, position: int, problem: str) -> str:
    """`problem` with the line and a caret under the character at `position`."""
    start = max(0, position - _SHOWN)
    shown = line[start : position + _SHOWN].replace("\n", " ").replace("\t", " ")
    return f"{problem}:\n  {shown}\n  {' ' * max(0, position - start)}^"


def is_image_path(value: str) -> bool:
    """Whether a term of a query is the path of a file that is there; a word without dot or slash is not."""
    try:
        return ("." in value or "/" in value) and expanded(value).is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, ~nobody
        return False
