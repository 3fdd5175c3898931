"""The map: where photos were taken, drawn from the package itself: no place is told to a tile server.

It is Mercator's, so that a town looks like itself when one has zoomed in; heights on it are called `up`, in
units as long as a degree of longitude.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from clipsearch.search import Where
from clipsearch_ui.browsing import follow, gallery
from clipsearch_ui.photo import place, show_open_photo
from clipsearch_ui.state import close_photo, current

CELLS = 300
"""Photos are drawn together where they lie within the width of the map by so much."""
LISTED = 200
"""Places that can be chosen from the list."""
BOTTOM, TOP = -67.0, 113.0
"""Heights between which the inhabited world lies: half as high as the whole of it is wide."""
ROOM = 1.1
"""How much broader than the photos the map is at least."""
_POLE = 85.0
"""Degrees of latitude beyond which the map does not go."""

Box = tuple[float, float, float, float]
"""South, west, north, east in degrees."""

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


def show() -> None:
    """The page."""
    follow()
    opened = current()
    st.title("Map", anchor=False)
    with opened.library.look() as view:
        overview = view.overview
    placed = ~np.isnan(overview.latitude)
    if not placed.any():
        st.info(
            "No photo here says where it was taken. Phones write it into a photo when they are allowed to.",
            icon=":material/location_off:",
        )
        return
    north, east = overview.latitude[placed], overview.longitude[placed]
    seen, spots, clicked = _map(north, east)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        spot = _spot(spots, clicked)
        if st.button("Show the whole world", icon=":material/public:", disabled=seen is None):
            st.session_state["map_number"] = st.session_state.get("map_number", 0) + 1
            st.rerun()
    with opened.library.look() as view:
        found = view.newest(Where(has_gps=True, box=spot or seen))
    which = "at this place" if spot else "in view" if seen else "with a place"
    st.header(f"{found.total:,} photo{'' if found.total == 1 else 's'} {which}", anchor=False)
    gallery(opened, found.slots.tolist(), key="map", label="Photos on the map")
    show_open_photo(opened)


@cache
def _land() -> pd.DataFrame:
    import pandas as pd

    rings = json.loads(Path(__file__).with_name("countries.json").read_text(encoding="utf-8"))
    return pd.DataFrame(
        [
            {"ring": number, "step": step, "east": ring[2 * step], "up": up(ring[2 * step + 1])}
            for number, ring in enumerate(rings)
            for step in range(len(ring) // 2)
        ]
    )


def up(north: float) -> float:
    """The height on the map of a latitude."""
    bounded = math.radians(max(-_POLE, min(_POLE, north)))
    return math.degrees(math.asinh(math.tan(bounded)))


def latitude(height: float) -> float:
    """The latitude at a height of the map."""
    return math.degrees(math.atan(math.sinh(math.radians(height))))


def _spot(spots: Mapping[str, tuple[int, Box]], clicked: str | None) -> Box | None:
    """One place of those in view: clicked on, or chosen in the list, which the keyboard reaches."""
    if clicked != st.session_state.get("spot_clicked"):
        st.session_state["spot_clicked"] = clicked
        st.session_state["spot"] = clicked or ""
    if st.session_state.get("spot") not in spots:
        st.session_state["spot"] = ""
    names = {key: f"{place(*_middle(box))}  ({count:,})" for key, (count, box) in spots.items()}
    chosen = st.selectbox(
        "Place",
        ["", *names],
        format_func=lambda key: names.get(key, "All places in view"),
        key="spot",
        on_change=close_photo,
        width=320,
    )
    return spots[chosen][1] if chosen else None


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _map(
    north: np.ndarray[Any, Any], east: np.ndarray[Any, Any]
) -> tuple[Box | None, dict[str, tuple[int, Box]], str | None]:
    """Draw the map. Returns what is in view (None for all of it), its places, and which was clicked on."""
    import altair as alt  # here, because it takes half a second to load, which no other page should wait for

    key = f"map_{st.session_state.get('map_number', 0)}"
    seen = _view(st.session_state.get(key))
    width = (seen[3] - seen[1]) if seen else 360.0
    points = _together(north, east, max(width / CELLS, 1e-6))
    spot = alt.selection_point(name="spot", fields=["key"])
    view = alt.selection_interval(name="view", bind="scales")
    across, upright = _frame(east)
    x = alt.X("east:Q", scale=alt.Scale(domain=across, nice=False), axis=None)
    y = alt.Y("up:Q", scale=alt.Scale(domain=upright, nice=False), axis=None)
    land = (
        alt.Chart(_land())
        .mark_line(filled=True, color="#9aa7b4", opacity=0.35, stroke="#7d8a97", strokeWidth=0.6, clip=True)
        .encode(x=x, y=y, detail="ring:N", order="step:O")
    )
    dots = (
        alt.Chart(points)
        .mark_circle(
            color="#e2572b", opacity=0.85, stroke="white", strokeWidth=1, clip=True, cursor="pointer"
        )
        .encode(
            x=x,
            y=y,
            size=alt.Size(
                "photos:Q", scale=alt.Scale(type="sqrt", range=[70, 900], domainMin=1), legend=None
            ),
            tooltip=[
                alt.Tooltip("photos", title="Photos", format=","),
                alt.Tooltip("north", title="North", format=".4f"),
                alt.Tooltip("east", title="East", format=".4f"),
            ],
        )
        .add_params(view, spot)
    )
    with st.container(key="world"):
        event = st.altair_chart(
            alt.layer(land, dots).configure_view(fill="#8fb6d6", fillOpacity=0.18, stroke=None),
            height="stretch",
            on_select="rerun",
            key=key,
            alt="A map of where photos were taken; the photos in view follow below",
        )
    st.caption(
        "Drag to move, scroll to zoom, click on a place; the photos below are those in view. "
        "Land: Natural Earth."
    )
    picked = (event.selection.get("spot") if event else None) or []
    return seen, _places(points, seen), str(picked[0]["key"]) if picked else None


def _frame(east: np.ndarray[Any, Any]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The edges of the map from side to side and from bottom to top, as Vega's expressions.

    A frame less than twice as broad as high, a phone's, shows a part of the inhabited world about the photos;
    where they span more than that, more than the inhabited world fits in from bottom to top.
    """
    first, last = float(east.min()), float(east.max())
    room = (last - first) / 2 * ROOM
    half = f"min(180, max({(TOP - BOTTOM) / 2} * width / height, {room:.4f}))"
    centre = f"clamp({(first + last) / 2:.4f}, {half} - 180, 180 - {half})"
    high = f"max({(TOP - BOTTOM) / 2}, {half} * height / width)"
    middle = f"{(TOP + BOTTOM) / 2}"
    return _about(centre, half), _about(middle, high)


def _about(middle: str, half: str) -> list[dict[str, str]]:
    return [{"expr": f"{middle} - {half}"}, {"expr": f"{middle} + {half}"}]


def _places(points: pd.DataFrame, seen: Box | None) -> dict[str, tuple[int, Box]]:
    """The places in view: how many photos, and where; the largest ones."""
    if seen is not None:
        south, west, north, east = seen
        points = points[points.north.between(south, north) & points.east.between(west, east)]
    largest = points.nlargest(LISTED, "photos")
    return {
        row.key: (int(row.photos), (row.south, row.west, row.top, row.right)) for row in largest.itertuples()
    }


def _view(event: Any) -> Box | None:
    selected = {} if event is None else (event.get("selection") or {}).get("view") or {}
    try:
        (west, east), (low, high) = selected["east"], selected["up"]
    except (KeyError, TypeError, ValueError):
        return None
    south, north = _parallel(min(low, high)), _parallel(max(low, high))
    west, east = max(-180.0, min(west, east)), min(180.0, max(west, east))
    return (south, west, north, east) if south < north and west < east else None


def _parallel(height: float) -> float:
    """The latitude of an edge of the view; the edge of the map takes in the pole."""
    found = latitude(height)
    return found if abs(found) < _POLE else math.copysign(90.0, found)


def _together(north: np.ndarray[Any, Any], east: np.ndarray[Any, Any], cell: float) -> pd.DataFrame:
    """One point for the photos of each cell of `cell` degrees, in their middle; with the box around them."""
    import pandas as pd

    table = pd.DataFrame({"north": north, "east": east})
    groups = table.groupby([np.floor(north / cell), np.floor(east / cell)])
    points = groups.agg(
        photos=("north", "size"),
        north=("north", "mean"),
        east=("east", "mean"),
        south=("north", "min"),
        top=("north", "max"),
        west=("east", "min"),
        right=("east", "max"),
    ).reset_index(drop=True)
    points["up"] = points.north.map(up)
    points["key"] = [f"{one:.5f},{other:.5f}" for one, other in zip(points.north, points.east, strict=True)]
    return points
