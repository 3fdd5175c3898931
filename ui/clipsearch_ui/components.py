"""The pieces that Streamlit lacks: a justified clickable grid, a large picture, pasting.

Their Python side passes plain data; the scripts put names and captions into the page as text, never as HTML.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from clipsearch.browse import Photo
from clipsearch.paths import display
from clipsearch_ui.state import Opened

ROW = 185

_PICK = """
<button class="pick" type="button" aria-label="Search with a picture"
  title="Search with a picture: choose, drop or paste one">
  <svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" aria-hidden="true">
    <rect x="3" y="4" width="18" height="16" rx="2.5"/><circle cx="9" cy="10" r="1.8"/>
    <path d="M4 18l5.5-5 3.5 3 3-2.5L20 17"/>
  </svg>Picture</button>
<input class="file" type="file" accept="image/*,.heic,.heif,.avif" hidden>
<div class="drop" aria-hidden="true">Drop a picture to search with it</div>
"""
_VIEWER = """
<figure class="frame"><img class="early" alt="" aria-hidden="true"><img class="photo">
<figcaption class="absent">
This photo cannot be shown: its file is gone, has changed, or its folder is offline.</figcaption></figure>
"""


def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


_grid = st.components.v2.component(
    "clipsearch_grid", html='<ul class="grid"></ul>', css=_text("grid.css"), js=_text("grid.js")
)
_viewer = st.components.v2.component(
    "clipsearch_viewer", html=_VIEWER, css=_text("viewer.css"), js=_text("viewer.js")
)
_tools = st.components.v2.component(
    "clipsearch_tools", html=_PICK, css=_text("tools.css"), js=_text("tools.js")
)


def name_of(photo: Photo) -> str:
    """The file's name, fit to be shown."""
    return display(os.path.basename(photo.path))  # noqa: PTH119 (bytes)


def alternative(photo: Photo) -> str:
    """What a screen reader says of a photo."""
    date = f", {photo.dated_at[:10]}" if photo.dated_at else ""
    return f"{photo.caption or name_of(photo)}{date}"


def grid(
    opened: Opened,
    photos: Sequence[Photo],
    *,
    key: str,
    label: str,
    on_open: Callable[[int], None],
    on_like: Callable[[int], None] | None = None,
    scores: Mapping[int, float] | None = None,
    more: Mapping[int, int] | None = None,
    row: int = ROW,
    strip: bool = False,
) -> None:
    """Show photos; `scores` and `more` are by image id, the callbacks get one; a strip is a single row."""
    items = tuple(  # of a list Streamlit would ask pandas, at the price of loading it, whether it is a table
        {
            "id": photo.image_id,
            "src": opened.address(photo, "grid"),
            "width": photo.width,
            "height": photo.height,
            "name": name_of(photo),
            "alt": alternative(photo),
            "score": None if scores is None else f"{scores[photo.image_id]:.3f}",
            "more": 0 if more is None else more.get(photo.image_id, 0),
            "like": on_like is not None,
        }
        for photo in photos
    )

    def sent(event: str, act: Callable[[int], None] | None) -> Callable[[], None]:
        def call() -> None:
            image_id = _value(key, event)
            if act is not None and isinstance(image_id, int):
                act(image_id)

        return call

    _grid(
        key=key,
        data={"items": items, "row": row, "label": label, "strip": strip},
        on_open_change=sent("open", on_open),
        on_like_change=sent("like", on_like),
    )


def _value(key: str, event: str) -> Any:
    return getattr(st.session_state.get(key), event, None)


def viewer(opened: Opened, photo: Photo, beside: Sequence[Photo] = ()) -> None:
    """Show one photo large, at once from its thumbnail; those `beside` it are fetched when it is there."""
    _viewer(
        key="viewer",
        data={
            "src": opened.address(photo, "preview"),
            "early": opened.address(photo, "grid"),
            "beside": tuple(opened.address(other, "preview") for other in beside),
            "alt": alternative(photo),
            "width": photo.width,
            "height": photo.height,
        },
    )


def tools(limit: int, on_refused: Callable[[], None]) -> None:
    """The picture button, with pasting and dropping; a picture of more than `limit` bytes is refused."""
    _tools(key="tools", data={"limit": limit}, on_refused_change=on_refused)
