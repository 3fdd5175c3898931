"""The terms of a query with pictures in it: what each is, and a way to take it out."""

from __future__ import annotations

import streamlit as st

from clipsearch.errors import ClipsearchError
from clipsearch.search.query import Term
from clipsearch_ui.asking import parse, without_term
from clipsearch_ui.state import Opened, ask, plain, shelf


def show(opened: Opened, text: str) -> None:
    """Show the terms, pictures as such. Raises UsageError for what is no query."""
    query = parse(text)
    if query is None or not any(term.kind == "image" for term in query.terms):
        return
    with st.container(key="chips", horizontal=True, vertical_alignment="center", gap="small"):
        for position, term in enumerate(query.terms):
            # A picture stays with its button where the line breaks.
            with st.container(
                horizontal=True, wrap=False, width="content", vertical_alignment="center", gap="xsmall"
            ):
                picture = _picture(opened, term)
                if picture is not None:
                    st.image(picture, width="content", alt="A picture of the query")
                st.button(
                    _chip(term),
                    key=f"chip_{position}",
                    icon=":material/close:",
                    help="Take this out of the search",
                    on_click=ask,
                    args=(without_term(text, position),),
                )


def _chip(term: Term) -> str:
    weight = f" × {abs(term.weight):g}" if abs(term.weight) != 1 else ""
    if term.kind == "text":
        return plain(f"{'not ' if term.weight < 0 else ''}{term.value}{weight}")
    return f"{'unlike this' if term.weight < 0 else 'like this'}{weight}"


def _picture(opened: Opened, term: Term) -> bytes | None:
    if term.kind == "text":
        return None
    if term.value.startswith("picture:"):
        return shelf().picture(term.value)
    try:
        content = opened.content(int(term.value.removeprefix("photo:")))
        return None if content is None else opened.thumbnails.get(content[0], content[1], "grid")
    except ClipsearchError:
        return None
