"""The filters as they are shown, at the side.

Their choices carry counts that follow the other filters, so their labels change from run to run; the truth is
therefore kept apart from the widgets (`filters`), which are told it anew each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import streamlit as st

from clipsearch.browse import Counts
from clipsearch_ui import filters
from clipsearch_ui.filters import Filters


@dataclass(frozen=True)
class Choices:
    """What can be chosen: the folders by the names shown, what the library has, and what the filters leave.

    What the library has decides which filters there are, so that none comes and goes with the others.
    """

    folders: dict[str, bytes]
    all: Counts
    left: Counts


def show(chosen: Filters, choices: Choices, *, scored: bool) -> None:
    """Show the filters; `scored` where there are similarities to filter by."""
    left, everything = choices.left, choices.all
    with st.sidebar:
        with st.container(
            key="filters_head",
            horizontal=True,
            vertical_alignment="center",
            horizontal_alignment="distribute",
        ):
            st.header("Filters", anchor=False)
            if chosen.active():
                st.button("Clear", on_click=filters.clear, type="tertiary", icon=":material/filter_alt_off:")
        _text_field("text", "Name, caption or keyword", chosen.text)
        if choices.folders or chosen.folder:
            inside = {name: left.folders.get(path, 0) for name, path in choices.folders.items()}
            _choice(
                "folder", "Folder", {name: count for name, count in inside.items() if count}, chosen.folder
            )
        _period(everything if np.isnat(left.first) else left, chosen)
        if everything.cameras or chosen.camera:
            _choice("camera", "Camera", left.cameras, chosen.camera)
        if len(everything.formats) > 1 or chosen.format:
            _many("format", "Format", everything.formats, left.formats, chosen.format)
        if everything.placed or chosen.place:
            _choice("place", "Place", _placed(left), chosen.place, names={"yes": "Known", "no": "Unknown"})
        if scored:
            _similarity(chosen)
        _switch("every", "Show near-identical shots one by one", chosen.every)


def _placed(counts: Counts) -> dict[str, int]:
    return {"yes": counts.placed, "no": counts.unplaced}


def _taken(name: str) -> Any:
    return st.session_state.get(f"filter_{name}")


def _text_field(name: str, label: str, value: str) -> None:
    st.session_state[f"filter_{name}"] = value
    st.text_input(
        label,
        key=f"filter_{name}",
        on_change=lambda: filters.change(**{name: str(_taken(name) or "").strip()[:200]}),
        max_chars=200,
    )


def _choice(
    name: str, label: str, counts: dict[str, int], value: str, names: dict[str, str] | None = None
) -> None:
    options = ["", *counts]
    if value not in options:
        options.append(value)

    def shown(option: str) -> str:
        return f"{(names or {}).get(option, option)}  ({counts.get(option, 0):,})" if option else "All"

    st.session_state[f"filter_{name}"] = value
    st.selectbox(
        label,
        options,
        format_func=shown,
        key=f"filter_{name}",
        on_change=lambda: filters.change(**{name: str(_taken(name) or "")}),
    )


def _many(name: str, label: str, known: Iterable[str], counts: dict[str, int], value: str) -> None:
    chosen = [part for part in value.split(",") if part]
    options = list(dict.fromkeys((*known, *chosen)))
    st.session_state[f"filter_{name}"] = chosen
    st.pills(
        label,
        options,
        selection_mode="multi",
        format_func=lambda option: f"{option} {counts.get(option, 0):,}",
        key=f"filter_{name}",
        on_change=lambda: filters.change(**{name: ",".join(_taken(name) or ())}),
    )


def _period(counts: Counts, chosen: Filters) -> None:
    if np.isnat(counts.first):
        return
    first, last = counts.first.astype("datetime64[D]").item(), counts.last.astype("datetime64[D]").item()
    with st.container(horizontal=True, gap="small"):
        for name, label in (("since", "From"), ("until", "To")):
            value = filters.day(getattr(chosen, name))
            st.session_state[f"filter_{name}"] = value
            st.date_input(
                label,
                value=None,
                min_value=min(first, value or first),
                max_value=max(last, value or last),
                key=f"filter_{name}",
                on_change=lambda name=name: filters.change(**{name: _iso(_taken(name))}),
                format="YYYY-MM-DD",
            )


def _similarity(chosen: Filters) -> None:
    st.session_state["filter_min"] = filters.number(chosen.min) or 0.0
    st.slider(
        "Least similarity",
        0.0,
        1.0,
        step=0.01,
        key="filter_min",
        help="The cosine of query and photo. Words score lower than pictures do.",
        on_change=lambda: filters.change(min=f"{_taken('min'):g}" if _taken("min") else ""),
    )
    _switch("likely", "Likely matches only", chosen.likely, help="Leaves out what is there by chance.")


def _switch(name: str, label: str, value: str, help: str | None = None) -> None:  # noqa: A002
    st.session_state[f"filter_{name}"] = value == "1"
    st.toggle(
        label,
        key=f"filter_{name}",
        help=help,
        on_change=lambda: filters.change(**{name: "1" if _taken(name) else ""}),
    )


def _iso(value: object) -> str:
    return value.isoformat() if isinstance(value, date) else ""
