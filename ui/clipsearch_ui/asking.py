"""From what is in the search box to results: the query language with photos of the library as terms.

``photo:12`` stands for the photo with the id 12 and ``picture:…`` for an uploaded one, so that "more like
this" and "less like this" are sums like any other: ``a dog on a beach - 0.3:photo:12``. The words in the box,
and with them the page's address, hold the whole search.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clipsearch.browse import Photo, Ranking, Slots
from clipsearch.errors import UsageError
from clipsearch.search import Query, Where
from clipsearch.search.query import Term
from clipsearch_ui.state import Opened, Shelf

Sort = Literal["match", "date"]

LIMIT = 5_000
"""Results of a query that can be paged through."""
LONGEST = 2_000
"""Characters of a query."""
FEEDBACK = 0.3
"""Weight of a photo that the query should be more, or less, like."""
BY_DATE = 120
"""Best matches that are shown by date where the library is too small to tell matches from chance."""
ALIKE = 0.97
"""Cosine from which two photos count as shots of the same."""

_REFERENCE = re.compile(r"photo:(\d{1,18})|picture:[0-9a-f]{16}")
_LAST = re.compile(rf"(?:^|(?<=\s))([+-] )?(?:(?:\d+\.?\d*|\.\d+):)?(?:{_REFERENCE.pattern})\s*$")


@dataclass(frozen=True)
class Asked:
    """What is wanted: a query (perhaps empty), a filter, and an order."""

    words: str
    where: Where
    sort: Sort = "match"
    likely: bool = False
    collapse: bool = True


@dataclass(frozen=True)
class Results:
    """The answer: groups of look-alikes in their order, and the score of each photo."""

    groups: Sequence[Slots]
    scores: dict[int, float]
    found: int
    total: int
    cutoff: float | None
    generation: int

    def page(self, number: int, size: int) -> list[Slots]:
        """The groups of a page, counted from 1."""
        return list(self.groups[(number - 1) * size : number * size])


def parse(words: str) -> Query | None:
    """The query in the search box; None where it is empty. Raises UsageError."""
    if not words.strip():
        return None
    if len(words) > LONGEST:
        raise UsageError(f"A query has at most {LONGEST:,} characters; this one has {len(words):,}.")
    return Query.parse(words, is_image=lambda value: _REFERENCE.fullmatch(value) is not None)


def answer(shelf: Shelf, opened: Opened, asked: Asked) -> Results:
    """Search, or list everything where nothing is asked. The last answers are kept.

    Raises UsageError, LibraryEmpty, ModelNotFound, ModelMismatch, ModelInvalid.
    """
    query = parse(asked.words)
    with opened.library.look() as view:
        key = (asked, view.generation)
        kept = opened.answers.recall(key)
        if isinstance(kept, Results):
            return kept
        if query is None:
            ranking = view.newest(asked.where)
        else:
            try:
                vector, kind = view.vector(
                    query, opened.encode_text, lambda name: shelf.picture_vector(opened, name)
                )
            except KeyError as error:
                raise UsageError(f"This library has no {error.args[0]}.") from error
            ranking = view.rank(vector, kind, k=LIMIT, where=asked.where, without=photos_in(query))
            ranking = _likely(ranking, asked)
            if asked.sort == "date":
                ranking = ranking.by_date(view.dated(ranking.slots))
        if asked.collapse:
            groups = view.collapse(ranking.slots, ALIKE)
        else:
            groups = [ranking.slots[i : i + 1] for i in range(len(ranking.slots))]
        results = Results(
            groups=groups,
            scores=dict(zip(ranking.slots.tolist(), ranking.scores.tolist(), strict=False)),
            found=len(ranking.slots),
            total=ranking.total,
            cutoff=ranking.cutoff,
            generation=view.generation,
        )
    opened.answers.remember(key, results)
    return results


def _likely(ranking: Ranking, asked: Asked) -> Ranking:
    """Only what is there by more than chance: asked for, or to be put in order of date."""
    if not asked.likely and asked.sort == "match":
        return ranking
    if ranking.cutoff is None:
        keep = len(ranking.slots) if asked.sort == "match" else BY_DATE
    else:
        keep = int(np.count_nonzero(ranking.scores >= ranking.cutoff))
        keep = max(keep, 12) if asked.sort == "date" else keep
    return Ranking(ranking.slots[:keep], ranking.scores[:keep], ranking.total, ranking.cutoff)


def load(opened: Opened, slots: Sequence[int]) -> list[Photo]:
    """The photos behind slots, in their order."""
    with opened.library.look() as view:
        return view.photos(slots)


def photos_in(query: Query) -> list[int]:
    """The ids of the photos that a query names."""
    found = (_REFERENCE.fullmatch(term.value) for term in query.terms if term.kind == "image")
    return [int(match[1]) for match in found if match is not None and match[1]]


def like(image_id: int) -> str:
    """The query for what is like a photo."""
    return f"photo:{image_id}"


def steer(words: str, image_id: int, direction: Literal["more", "less"]) -> str:
    """The query in `words`, moved towards a photo or away from it."""
    query = parse(words)
    weight = FEEDBACK if direction == "more" else -FEEDBACK
    if query is None:
        return like(image_id) if direction == "more" else f"- photo:{image_id}"
    kept = tuple(term for term in query.terms if term.value != like(image_id))
    return write((*kept, Term(weight, "image", like(image_id))))


def apart(words: str) -> tuple[str, str]:
    """A query as what is typed and the pictures that follow: ``a dog`` and ``- 0.3:photo:12``.

    Pictures that stand before words are put after them, which is the same query. Of what is no query the
    pictures at its end are taken alone. `together` undoes this.
    """
    typed, pictures = words.strip(), ""
    while found := _LAST.search(typed):
        if found.start() and not found[1]:  # `a photo:12` is words
            break
        pictures = f"{found[0].strip()} {pictures}".strip()
        typed = typed[: found.start()].rstrip()
    try:
        query = parse(typed)
    except UsageError:
        query = None
    if query is not None and any(term.kind == "image" for term in query.terms):
        texts = tuple(term for term in query.terms if term.kind == "text")
        images = tuple(term for term in query.terms if term.kind == "image")
        return write(texts), f"{write(images)} {pictures}".strip()
    return typed, pictures


def together(typed: str, pictures: str) -> str:
    """The query of what is typed and the pictures beside it."""
    typed = typed.strip()
    if typed and pictures and not pictures.startswith(("+ ", "- ")):
        return f"{typed} + {pictures}"
    return f"{typed} {pictures}".strip().removeprefix("+ ")


def without_term(words: str, position: int) -> str:
    """The query in `words` without its term at `position`."""
    query = parse(words)
    terms = () if query is None else query.terms
    return write((*terms[:position], *terms[position + 1 :]))


def write(terms: Sequence[Term]) -> str:
    """Terms as one would type them: quotes only where they are needed."""
    line = " ".join(f"{'-' if term.weight < 0 else '+'} {_term(term)}" for term in terms)
    return line.removeprefix("+ ")


def _term(term: Term) -> str:
    size = "" if abs(term.weight) == 1 else f"{abs(term.weight):g}:"
    bare = Term(1.0, term.kind, term.value)
    try:
        read = parse(f"{size}{term.value}")
    except UsageError:
        read = None
    if read is not None and read.terms == (Term(abs(float(f"{term.weight:g}")), term.kind, term.value),):
        return f"{size}{term.value}"
    return f"{size}{bare}"
