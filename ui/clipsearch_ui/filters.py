"""The filters: what they say, and where they live, which is the page's address."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, timedelta

import streamlit as st

from clipsearch.errors import UsageError
from clipsearch.paths import display
from clipsearch.search import Where
from clipsearch_ui import address

_STATE = "filters"
_WRITTEN = "filters_in_address"
FOLDERS = 2_000
"""Folders that can be chosen from the list."""


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
        until = day(self.until)
        return Where(
            under=(folders[self.folder],) if self.folder else (),
            after=day(self.since),
            before=None if until is None else until + timedelta(days=1),
            min_score=number(self.min),
            has_gps={"yes": True, "no": False}.get(self.place),
            camera=self.camera or None,
            formats=tuple(self.format.split(",")) if self.format else (),
            text=self.text or None,
        )


def read() -> Filters:
    """The filters of this visitor: from the address where it has changed (a bookmark, the back button)."""
    in_address = {field.name: address.get(field.name) for field in fields(Filters)}
    if _STATE not in st.session_state or (
        in_address != st.session_state.get(_WRITTEN) and any(in_address.values())
    ):
        take(in_address)
    return _write()


def take(chosen: Mapping[str, str]) -> None:
    """Choose what an address says, and nothing else."""
    st.session_state[_STATE] = Filters(
        **{field.name: chosen.get(field.name, "")[:300] for field in fields(Filters)}
    )


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
        address.put(name, value)
    st.session_state[_WRITTEN] = values
    return chosen


def folder_names(folders: Iterable[bytes]) -> dict[str, bytes]:
    """The folders to choose from, by the name that is shown: those that hold photos, and what they lie in.

    The tree begins at the folder that holds them all, which is a choice only where photos lie right in it.
    """
    holding = set(folders)
    if len(holding) < 2:
        return {}
    top = os.path.commonpath(list(holding))
    found = {top} & holding
    for folder in holding:
        while len(folder) > len(top) and folder not in found:
            found.add(folder)
            folder = os.path.dirname(folder)  # noqa: PTH120 (bytes)
    stem = os.path.dirname(top)  # noqa: PTH120 (bytes)
    return {display(os.path.relpath(folder, stem)): folder for folder in sorted(found)[:FOLDERS]}


def day(text: str) -> date | None:
    """The day that a text of the address names, None for any other text."""
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        return None


def number(text: str) -> float | None:
    """The similarity, 0 to 1, that a text of the address names, None for any other text."""
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value <= 1 else None
