"""The timeline: how many photos of each month, and those of the month that is chosen."""

from __future__ import annotations

import calendar

import numpy as np
import streamlit as st

from clipsearch_ui import address
from clipsearch_ui.browsing import follow, gallery
from clipsearch_ui.photo import show_open_photo
from clipsearch_ui.state import current


def show() -> None:
    """The page."""
    follow()
    opened = current()
    st.title("Timeline", anchor=False)
    with opened.library.look() as view:
        slots, dated = view.overview.slots, view.overview.dated
    known = ~np.isnat(dated)
    slots, dated = slots[known], dated[known]
    if not len(slots):
        st.info("No photo here has a date.", icon=":material/calendar_month:")
        return
    months, counts = np.unique(dated.astype("datetime64[M]"), return_counts=True)
    chosen = _month([str(month) for month in months], counts.tolist())
    inside = dated.astype("datetime64[M]") == np.datetime64(chosen, "M")
    order = np.argsort(-dated[inside].astype(np.int64), kind="stable")
    st.header(f"{name(chosen)} · {int(inside.sum()):,}", anchor=False)
    gallery(opened, slots[inside][order].tolist(), key="timeline", label=f"Photos of {name(chosen)}")
    show_open_photo(opened)


def name(month: str) -> str:
    """`2024-05` as people say it."""
    year, number = month.split("-")
    return f"{calendar.month_name[int(number)]} {year}"


def _month(months: list[str], counts: list[int]) -> str:
    """Choose a month: on the chart, in the list, or by a step."""
    at = address.get("month")
    if at not in months:
        at = months[-1]
    picked = _chart(months, counts, at)
    if picked in months and picked != st.session_state.get("month_picked"):
        st.session_state["month_picked"] = picked
        at = picked
    position = months.index(at)
    by_count = dict(zip(months, counts, strict=True))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        if st.button("Earlier", icon=":material/arrow_back:", disabled=position == 0):
            at = months[position - 1]
        if st.button("Later", icon=":material/arrow_forward:", disabled=position + 1 == len(months)):
            at = months[position + 1]
        st.session_state["month"] = at
        at = st.selectbox(
            "Month",
            months[::-1],
            format_func=lambda month: f"{name(month)}  ({by_count[month]:,})",
            key="month",
            label_visibility="collapsed",
            width=260,
        )
    address.put("month", str(at))
    return str(at)


def _chart(months: list[str], counts: list[int], at: str) -> str | None:
    # Here, because they take half a second to load, which no other page should wait for.
    import altair as alt
    import pandas as pd  # type: ignore[import-untyped]

    table = pd.DataFrame(
        {
            "month": [name(month) for month in months],
            "key": months,
            "start": pd.to_datetime(months),
            "photos": counts,
            "here": [month == at for month in months],
        }
    )
    span = int((np.datetime64(months[-1], "M") - np.datetime64(months[0], "M")).astype(int))
    bar = max(3, min(40, 900 // (span + 1)))
    pick = alt.selection_point(name="pick", fields=["key"], nearest=False)
    chart = (
        alt.Chart(table)
        .mark_bar(cursor="pointer", size=bar)
        .encode(
            x=alt.X("start:T", title=None, scale=alt.Scale(padding=bar / 2 + 2)),  # whole bars at both ends
            y=alt.Y(
                "photos:Q", title=None, scale=alt.Scale(type="sqrt"), axis=alt.Axis(tickCount=4, format="d")
            ),
            opacity=alt.condition(alt.datum.here, alt.value(1.0), alt.value(0.45)),
            tooltip=[alt.Tooltip("month", title="Month"), alt.Tooltip("photos", title="Photos", format=",")],
        )
        .properties(height=150)
        .add_params(pick)
    )
    event = st.altair_chart(
        chart, on_select="rerun", key="months", alt="Photos by month, also in the list below"
    )
    points = event.selection.get("pick", []) if event else []
    return str(points[0]["key"]) if points else None
