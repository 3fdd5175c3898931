"""The pictures of a query: what each is, a way to take it out, and what a search with them is called."""

from __future__ import annotations

import os

import streamlit as st

from clipsearch.errors import ClipsearchError, UsageError
from clipsearch.paths import display
from clipsearch.search.query import Term
from clipsearch_ui.asking import apart, parse, without_term
from clipsearch_ui.state import Opened, ask, plain, shelf, words

LONGEST = 28
"""Characters of a file's name in a chip."""


def show(opened: Opened, text: str) -> None:
    """Show the pictures of the query. Raises UsageError for what is no query."""
    query = parse(text)
    terms = () if query is None else query.terms
    pictures = [position for position, term in enumerate(terms) if term.kind == "image"]
    if not pictures:
        return
    with st.container(key="chips", horizontal=True, vertical_alignment="center", gap="small"):
        for position in pictures:
            st.button(
                _chip(opened, terms[position]),
                key=f"chip_{position}",
                icon=":material/close:",
                icon_position="right",
                help="Take this out of the search",
                on_click=_take_out,
                args=(terms[position],),
            )
        if len(pictures) > 1:
            st.button("Take all out", key="chips_out", type="tertiary", on_click=ask, args=(apart(text)[0],))


def _take_out(gone: Term) -> None:
    """Search without a picture: of what is asked by now, which may be more than when its chip was drawn."""
    query = parse(words())
    terms = () if query is None else query.terms
    if gone in terms:
        ask(without_term(words(), terms.index(gone)))


def line(opened: Opened, text: str) -> str:
    """A search as Markdown on one line: its words, and its pictures as such."""
    typed, pictures = _parts(text)
    return "  ".join([*([plain(typed)] if typed else []), *(_chip(opened, term) for term in pictures)])


def name(opened: Opened, text: str) -> str:
    """A search in words alone: ``a dog, unlike beach.jpg``."""
    typed, pictures = _parts(text)
    return ", ".join([*([typed] if typed else []), *(_words(opened, term) for term in pictures)])


def _parts(text: str) -> tuple[str, tuple[Term, ...]]:
    """What is typed, and the pictures."""
    typed, pictures = apart(text)
    try:
        query = parse(pictures)
    except UsageError:
        query = None
    return typed, () if query is None else query.terms


def _chip(opened: Opened, term: Term) -> str:
    address = _address(opened, term.value)
    weight = "" if abs(term.weight) == 1 else f" × {abs(term.weight):g}"
    return f"{f'![]({address}) ' if address else ''}{plain(_words(opened, term) + weight)}"


def _words(opened: Opened, term: Term) -> str:
    return f"{'unlike' if term.weight < 0 else 'like'} {_called(opened, term.value)}"


def _called(opened: Opened, value: str) -> str:
    if value.startswith("picture:"):
        return "your picture"
    found = _content(opened, value)
    return "a photo that is gone" if found is None else _short(display(os.path.basename(found[1][0])))  # noqa: PTH119


def _short(name: str) -> str:
    """A file's name, without its middle where it is long: a phone shows it on one line."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 12]}…{name[-11:]}"


def _content(opened: Opened, value: str) -> tuple[bytes, tuple[bytes, ...]] | None:
    try:
        return opened.content(int(value.removeprefix("photo:")))
    except ClipsearchError:
        return None


def _address(opened: Opened, value: str) -> str | None:
    """Where the browser gets the thumbnail."""
    if value.startswith("picture:"):
        kept = shelf().picture(value)
        return None if kept is None else f"/pictures/{value.removeprefix('picture:')}.webp"
    found = _content(opened, value)
    return None if found is None else opened.picture_address(int(value.removeprefix("photo:")))
