"""What the pages beside the search share: a grid over some photos, in pages, with the large view."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from clipsearch_ui.asking import like, load
from clipsearch_ui.components import grid
from clipsearch_ui.state import Opened, ask, close_photo, open_photo

PAGE = 48


def gallery(opened: Opened, slots: Sequence[int], *, key: str, label: str, row: int = 180) -> None:
    """Show the photos behind `slots`, a page at a time."""
    place = st.container()
    pages = -(-len(slots) // PAGE)
    number = 1
    if pages > 1:
        if int(st.session_state.get(f"{key}_page") or 1) > pages:
            st.session_state[f"{key}_page"] = 1
        number = st.pagination(pages, key=f"{key}_page", on_change=close_photo, width="stretch")
    photos = load(opened, slots[(number - 1) * PAGE : number * PAGE])
    st.session_state["shown"] = [photo.image_id for photo in photos]
    st.session_state["alike"] = {}
    with place:
        grid(opened, photos, key=f"{key}_grid", label=label, on_open=open_photo, on_like=_similar, row=row)


def _similar(image_id: int) -> None:
    ask(like(image_id))
    st.session_state["to_results"] = True


def follow() -> None:
    """Go to the search page where a click on this one has asked for something."""
    page = st.session_state.get("search_page")
    if st.session_state.pop("to_results", False) and page is not None:
        st.switch_page(page)
