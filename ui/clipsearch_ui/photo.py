"""A photo, large, with what is known of it and what can be done with it."""

from __future__ import annotations

import os
from datetime import datetime

import streamlit as st

from clipsearch.browse import Photo
from clipsearch.errors import UsageError
from clipsearch.paths import display
from clipsearch_ui import filters
from clipsearch_ui.asking import like, load, steer
from clipsearch_ui.components import grid, name_of, viewer
from clipsearch_ui.state import Opened, ask, close_photo, open_photo, photo_id, plain, words


def show_open_photo(opened: Opened, *, on_search_page: bool = False) -> None:
    """Show the photo that the address names, if it names one."""
    if photo_id() is not None:
        _dialog(opened, on_search_page)


@st.dialog("Photo", width="large", on_dismiss=close_photo)
def _dialog(opened: Opened, on_search_page: bool) -> None:
    image_id = photo_id()
    if image_id is None:  # a button in here has asked for something
        _to_results(on_search_page)
    assert image_id is not None
    with opened.library.look() as view:
        photo = view.photo(image_id)
    if photo is None:
        st.info("This photo is not in the library any more.", icon=":material/image_not_supported:")
        return
    left, right = st.columns([7, 3], gap="medium")
    with left:
        viewer(opened, photo, _beside(opened, photo))
        _steps(photo)
    with right:
        st.markdown(f"**{plain(name_of(photo))}**")
        if photo.caption:
            st.text(photo.caption)
        _facts(photo)
        st.caption("Path")
        for path in photo.paths:
            st.code(display(path), language=None, wrap_lines=True)
        _actions(opened, photo)
    _alike(opened, photo)


def _beside(opened: Opened, photo: Photo) -> list[Photo]:
    """The photos after and before this one on the page."""
    shown: list[int] = st.session_state.get("shown", [])
    if photo.image_id not in shown:
        return []
    at = shown.index(photo.image_id)
    with opened.library.look() as view:
        found = [view.photo(image_id) for image_id in (*shown[at + 1 : at + 2], *shown[max(0, at - 1) : at])]
    return [other for other in found if other is not None]


def _steps(photo: Photo) -> None:
    """To the photos before and after this one on the page."""
    shown: list[int] = st.session_state.get("shown", [])
    if photo.image_id not in shown:
        return
    at = shown.index(photo.image_id)
    with st.container(
        key="steps", horizontal=True, wrap=False, horizontal_alignment="center", vertical_alignment="center"
    ):
        _step("Previous", "Left", shown[at - 1] if at > 0 else None, ":material/arrow_back:")
        st.caption(f"{at + 1} of {len(shown)}", width="content")
        _step("Next", "Right", shown[at + 1] if at + 1 < len(shown) else None, ":material/arrow_forward:")


def _actions(opened: Opened, photo: Photo) -> None:
    st.button(
        "More like this",
        type="primary",
        icon=":material/image_search:",
        on_click=ask,
        args=(like(photo.image_id),),
        width="stretch",
    )
    with st.container(horizontal=True, gap="small"):
        for label, way, icon in (
            ("Add to search", "more", ":material/add:"),
            ("Less like this", "less", ":material/remove:"),
        ):
            st.button(label, icon=icon, on_click=_steer, args=(photo.image_id, way))
        st.button("In its folder", icon=":material/folder:", on_click=_in_folder, args=(photo,))
        st.link_button("Download", opened.download(photo), icon=":material/download:")


def _step(label: str, key: str, target: int | None, icon: str) -> None:
    st.button(
        label,
        icon=icon,
        shortcut=key,
        disabled=target is None,
        on_click=open_photo,
        args=(target or 0,),
    )


def _to_results(on_search_page: bool) -> None:
    """Show the results, from whichever page the photo was opened on."""
    page = st.session_state.get("search_page")
    if on_search_page or page is None:
        st.rerun()
    st.switch_page(page)


def _steer(image_id: int, way: str) -> None:
    try:
        ask(steer(words(), image_id, "more" if way == "more" else "less"))
    except UsageError:  # what stands in the box is no query
        ask(like(image_id))


def _in_folder(photo: Photo) -> None:
    folder = os.path.dirname(photo.path)  # noqa: PTH120 (bytes)
    names = st.session_state.get("folder_names", {})
    filters.change(folder=names.get(folder, ""))
    close_photo()


def _facts(photo: Photo) -> None:
    rows = {
        "Taken" if photo.taken_at else "File date": _when(photo.taken_at or photo.dated_at),
        "Camera": " · ".join(part for part in (photo.camera, photo.lens) if part),
        "Size": f"{photo.width:,} × {photo.height:,} px · {photo.format} · {_bytes(photo.size)}",
        "Place": place(photo.latitude, photo.longitude),
        "Keywords": ", ".join(photo.keywords),
    }
    for name, value in rows.items():
        if value:
            with st.container(gap=None):
                st.caption(name)
                st.text(value)


def _when(moment: str | None) -> str:
    try:
        return datetime.fromisoformat(moment).strftime("%A, %d %B %Y, %H:%M") if moment else ""
    except ValueError:
        return moment or ""


def place(latitude: float | None, longitude: float | None) -> str:
    """Degrees as people write them; empty where they are not known."""
    if latitude is None or longitude is None:
        return ""
    north = f"{abs(latitude):.5f}° {'N' if latitude >= 0 else 'S'}"
    return f"{north}, {abs(longitude):.5f}° {'E' if longitude >= 0 else 'W'}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, size // 1000)} KB"


def _alike(opened: Opened, photo: Photo) -> None:
    slots = [slot for slot in st.session_state.get("alike", {}).get(photo.slot, ()) if slot != photo.slot]
    if slots:
        st.caption(f"{len(slots):,} nearly identical")
        others = load(opened, slots[:24])
        grid(opened, others, key="alike_grid", label="Nearly identical photos", on_open=open_photo, row=110)
