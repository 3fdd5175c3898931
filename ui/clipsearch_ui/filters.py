"""The filters at the side: what they say, where they live (the page's address), and how they are shown.

A filter's choices carry counts that follow the other filters, so their labels change from run to run; the
truth is therefore kept apart from the widgets, which are told it anew each time.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import streamlit as st

from clipsearch.browse import Counts
from clipsearch.errors import UsageError
from clipsearch.paths import display
from clipsearch.search import Where
from clipsearch_ui.state import Opened

_STATE = "filters"
_WRITTEN = "filters_in_address"


@dataclass(frozen=True)
class Filters:
    """What is chosen; `folder` as it is shown. Every field is text, as in the address; empty says nothing."""

    text: str = ""
    folder: str = ""
    since: str = ""
    until: str = ""
    camera: str = ""
    format: str = ""
    place: str = ""
    min: str = ""
    likely: str = ""
    every: str = ""

    def active(self) -> int:
        """How many of them narrow the results."""
        return sum(1 for name, value in asdict(self).items() if value and name != "every")

    def where(self, folders: dict[str, bytes]) -> Where:
        """The filter for the library; `folders` gives the paths of those shown. Raises UsageError."""
        if self.folder and self.folder not in folders:
            raise UsageError(f"There is no folder {self.folder} in this library.")
        until = _date(self.until)
        return Where(
            under=(folders[self.folder],) if self.folder else (),
            after=_date(self.since),
            before=None if until is None else until + timedelta(days=1),
            min_score=_number(self.min),
            has_gps={"yes": True, "no": False}.get(self.place),
            camera=self.camera or None,
            formats=tuple(self.format.split(",")) if self.format else (),
            text=self.text or None,
        )


def read() -> Filters:
    """The filters of this visitor: from the address where it has changed (a bookmark, the back button)."""
    in_address = {field.name: st.query_params.get(field.name, "") for field in fields(Filters)}
    if _STATE not in st.session_state or (
        in_address != st.session_state.get(_WRITTEN) and any(in_address.values())
    ):
        st.session_state[_STATE] = Filters(**{name: value[:300] for name, value in in_address.items()})
    return _write()


def change(**changes: str) -> None:
    """Change filters; the results begin at their first page again."""
    st.session_state[_STATE] = replace(st.session_state.get(_STATE, Filters()), **changes)
    st.session_state["page"] = 1


def clear() -> None:
    """Take all filters away."""
    change(**{field.name: "" for field in fields(Filters)})


def _write() -> Filters:
    chosen: Filters = st.session_state[_STATE]
    values = asdict(chosen)
    for name, value in values.items():
        if value and st.query_params.get(name) != value:
            st.query_params[name] = value
        elif not value and name in st.query_params:
            del st.query_params[name]
    st.session_state[_WRITTEN] = values
    return chosen


def folder_tree(counts: dict[bytes, int]) -> dict[str, tuple[bytes, int]]:
    """The folders to choose from, as shown, with path and count; a folder includes those below it."""
    if not counts:
        return {}
    top = os.path.commonpath(list(counts))
    sums: dict[bytes, int] = {}
    for folder, count in counts.items():
        while len(folder) > len(top):
            sums[folder] = sums.get(folder, 0) + count
            folder = os.path.dirname(folder)  # noqa: PTH120 (bytes)
    if counts.get(top) and sums:
        sums[top] = sum(counts.values())
    stem = os.path.dirname(top)  # noqa: PTH120 (bytes)
    shown = {display(os.path.relpath(folder, stem)): (folder, sums[folder]) for folder in sorted(sums)}
    return dict(list(shown.items())[:2000])


def sidebar(opened: Opened, chosen: Filters, counts: Counts, *, scored: bool) -> None:
    """Show the filters; `scored` where there are similarities to filter by."""
    with st.sidebar:
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.subheader("Filters", anchor=False)
            if chosen.active():
                st.button("Clear", on_click=clear, type="tertiary", icon=":material/filter_alt_off:")
        _text_field("text", "Name, caption or keyword", chosen.text)
        tree = folder_tree(counts.folders)
        _choice("folder", "Folder", {name: count for name, (_, count) in tree.items()}, chosen.folder)
        _period(counts, chosen)
        _choice("camera", "Camera", counts.cameras, chosen.camera)
        _many("format", "Format", counts.formats, chosen.format)
        if counts.placed:
            _choice("place", "Place", _placed(counts), chosen.place, names={"yes": "Known", "no": "Unknown"})
        if scored:
            _similarity(chosen)
        _switch("every", "Show near-identical shots one by one", chosen.every)


def _placed(counts: Counts) -> dict[str, int]:
    return {"yes": counts.placed, "no": max(0, counts.total - counts.placed)}


def _taken(name: str) -> Any:
    return st.session_state.get(f"filter_{name}")


def _text_field(name: str, label: str, value: str) -> None:
    st.session_state[f"filter_{name}"] = value
    st.text_input(
        label,
        key=f"filter_{name}",
        on_change=lambda: change(**{name: str(_taken(name) or "").strip()[:200]}),
        max_chars=200,
    )


def _choice(
    name: str, label: str, counts: dict[str, int], value: str, names: dict[str, str] | None = None
) -> None:
    if not counts and not value:
        return
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
        on_change=lambda: change(**{name: str(_taken(name) or "")}),
    )


def _many(name: str, label: str, counts: dict[str, int], value: str) -> None:
    if len(counts) < 2 and not value:
        return
    chosen = [part for part in value.split(",") if part]
    options = [*counts, *(part for part in chosen if part not in counts)]
    st.session_state[f"filter_{name}"] = chosen
    st.pills(
        label,
        options,
        selection_mode="multi",
        format_func=lambda option: f"{option} {counts.get(option, 0):,}",
        key=f"filter_{name}",
        on_change=lambda: change(**{name: ",".join(_taken(name) or ())}),
    )


def _period(counts: Counts, chosen: Filters) -> None:
    if np.isnat(counts.first):
        return
    first, last = counts.first.astype("datetime64[D]").item(), counts.last.astype("datetime64[D]").item()
    with st.container(horizontal=True, gap="small"):
        for name, label in (("since", "From"), ("until", "To")):
            value = _date(getattr(chosen, name))
            st.session_state[f"filter_{name}"] = value
            st.date_input(
                label,
                value=None,
                min_value=min(first, value or first),
                max_value=max(last, value or last),
                key=f"filter_{name}",
                on_change=lambda name=name: change(**{name: _iso(_taken(name))}),
                format="YYYY-MM-DD",
            )


def _similarity(chosen: Filters) -> None:
    st.session_state["filter_min"] = _number(chosen.min) or 0.0
    st.slider(
        "Least similarity",
        0.0,
        1.0,
        step=0.01,
        key="filter_min",
        help="The cosine of query and photo. Words score lower than pictures do.",
        on_change=lambda: change(min=f"{_taken('min'):g}" if _taken("min") else ""),
    )
    _switch("likely", "Likely matches only", chosen.likely, help="Leaves out what is there by chance.")


def _switch(name: str, label: str, value: str, help: str | None = None) -> None:  # noqa: A002
    st.session_state[f"filter_{name}"] = value == "1"
    st.toggle(
        label,
        key=f"filter_{name}",
        help=help,
        on_change=lambda: change(**{name: "1" if _taken(name) else ""}),
    )


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        return None


def _iso(value: object) -> str:
    return value.isoformat() if isinstance(value, date) else ""


def _number(text: str) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value <= 1 else None
