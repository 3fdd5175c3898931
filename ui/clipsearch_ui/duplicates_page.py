"""Duplicates: photos that are nearly the same, to be looked through. Nothing is deleted here."""

from __future__ import annotations

from collections import Counter

import streamlit as st

from clipsearch.browse import Photo
from clipsearch_ui.asking import load
from clipsearch_ui.browsing import follow
from clipsearch_ui.components import grid, name_of
from clipsearch_ui.photo import show_open_photo
from clipsearch_ui.state import Opened, current, open_photo, plain

GROUPS = 10
MEMBERS = 40


def show() -> None:
    """The page."""
    follow()
    opened = current()
    st.title("Duplicates", anchor=False)
    st.caption(
        "Photos that are nearly the same, and photos that lie in several places. Nothing is deleted here: "
        "open a photo for its path."
    )
    alike = st.slider(
        "How alike", 0.90, 1.0, 0.97, 0.005, key="duplicates_alike", persist_state="session", width=420
    )
    with st.spinner("Comparing …"):
        groups, copied = _groups(opened, alike)
    extra = sum(len(group) - 1 for group in groups)
    said = []
    if groups:
        said.append(
            f"**{len(groups):,}** group{'s' * (len(groups) > 1)}, **{extra:,}** more photos than needed"
        )
    if copied:
        said.append(f"**{copied:,}** photo{'s' * (copied > 1)} in more than one place")
    st.markdown("; ".join(said))
    if not groups:
        st.info("No two photos are that much alike.", icon=":material/done_all:")
    pages = -(-len(groups) // GROUPS)
    place = st.container()
    number = 1
    if pages > 1:
        number = st.pagination(pages, key="duplicates_page", width="stretch")
    shown: list[int] = []
    with place:
        for at, group in enumerate(groups[(number - 1) * GROUPS : number * GROUPS]):
            shown += _group(opened, group, key=f"duplicates_{at}")
    st.session_state["shown"] = shown
    st.session_state["alike"] = {}
    show_open_photo(opened)


def _groups(opened: Opened, alike: float) -> tuple[list[list[int]], int]:
    with opened.library.look() as view:
        key = ("duplicates", alike, view.generation)
        kept = opened.answers.recall(key)
        if kept is None:
            groups = [group.tolist() for group in view.duplicates(alike)]
            places = Counter(view.overview.file_rows.tolist())
            kept = groups, sum(1 for count in places.values() if count > 1)
            opened.answers.remember(key, kept)
    assert isinstance(kept, tuple)
    return kept[0], kept[1]


def _group(opened: Opened, group: list[int], *, key: str) -> list[int]:
    photos = load(opened, group[:MEMBERS])
    photos.sort(key=lambda photo: (-photo.width * photo.height, -photo.size))
    with st.container(border=True):
        more = f" (the largest {MEMBERS})" if len(group) > MEMBERS else ""
        st.markdown(f"**{len(group):,} photos**{more} · largest: {_about(photos[0])}")
        grid(opened, photos, key=key, label="Nearly identical photos", on_open=open_photo, row=140)
    return [photo.image_id for photo in photos]


def _about(photo: Photo) -> str:
    return f"{plain(name_of(photo))}, {photo.width:,} × {photo.height:,}, {max(1, photo.size // 1000):,} KB"
