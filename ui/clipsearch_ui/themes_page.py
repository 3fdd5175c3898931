"""Themes: what the library is about, as clusters of its photos."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from clipsearch.themes import themes
from clipsearch_ui import address
from clipsearch_ui.asking import load
from clipsearch_ui.browsing import follow, gallery
from clipsearch_ui.components import grid
from clipsearch_ui.photo import show_open_photo
from clipsearch_ui.state import Opened, ask, current, open_photo

SHOWN = 8


@dataclass(frozen=True)
class Named:
    """A theme, by slots."""

    name: str
    slots: list[int]


def show() -> None:
    """The page."""
    follow()
    opened = current()
    with st.spinner("Sorting the photos …"):
        found = _themes(opened)
    wanted = address.get("theme")
    chosen = next((theme for theme in found if theme.name == wanted), None)
    if chosen is not None:
        _one(opened, chosen)
    elif found:
        _all(opened, found)
    else:
        st.title("Themes", anchor=False)
        st.info(
            "No themes stand out: the photos are too few, or of too many things.", icon=":material/category:"
        )
    show_open_photo(opened)


def _themes(opened: Opened) -> list[Named]:
    with opened.library.look() as view:
        slots = view.slots
        key = ("themes", view.generation)
        kept = opened.answers.recall(key)
        if kept is None:
            found = themes(view.vectors(slots), opened.encode_text)
            kept = [Named(theme.name, slots[theme.rows].tolist()) for theme in found]
            opened.answers.remember(key, kept)
    assert isinstance(kept, list)
    return kept


def _all(opened: Opened, found: list[Named]) -> None:
    st.title("Themes", anchor=False)
    held = sum(len(theme.slots) for theme in found)
    with opened.library.look() as view:
        total = len(view.slots)
    st.caption(
        "Photos that look alike, with the everyday word that fits them best: a guess, not a fact. "
        f"{held:,} of {total:,} photos are in one."
    )
    shown: list[int] = []
    for number, theme in enumerate(found):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.header(f"{theme.name.capitalize()} · {len(theme.slots):,}", anchor=False)
            st.button("See all", key=f"theme_{number}", on_click=_choose, args=(theme.name,), type="tertiary")
        photos = load(opened, theme.slots[:SHOWN])
        shown += [photo.image_id for photo in photos]
        grid(
            opened,
            photos,
            key=f"theme_grid_{number}",
            label=theme.name,
            on_open=open_photo,
            row=130,
            strip=True,
        )
    st.session_state["shown"] = shown
    st.session_state["alike"] = {}


def _one(opened: Opened, theme: Named) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("All themes", icon=":material/arrow_back:", on_click=_choose, args=("",))
        if st.button(
            f"Search for “{theme.name}”", icon=":material/search:", on_click=ask, args=(theme.name,)
        ):
            page = st.session_state.get("search_page")
            if page is not None:
                st.switch_page(page)
    st.title(f"{theme.name.capitalize()} · {len(theme.slots):,}", anchor=False)
    gallery(opened, theme.slots, key="theme", label=theme.name)


def _choose(name: str) -> None:
    address.put("theme", name)
