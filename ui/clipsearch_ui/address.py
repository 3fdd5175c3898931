"""The page's address: what a visitor looks at lives there, so that it can be bookmarked and gone back to.

The browser sends its address with everything that is done on the page, and learns a moment later what a run
has written into it. What is done in that moment arrives with the address of before; read as it stands, it
would undo what was written. So what was written less than `LAG` ago is believed against the values that it
replaced, unless the visitor went back to them, or went to another page.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

LAG = 5.0
"""Seconds. On a busy machine 0.1 were seen between a run's word and the browser's taking it in, on one that
ran three times as many programs as it had cores more than 0.5."""
_WRITTEN = "address_written"
_PAGE = "address_page"


class _Written(NamedTuple):
    value: str
    before: frozenset[str]
    at: float


def on_page(path: str) -> None:
    """Say which page is shown, before it is: on another one nothing is left of what was written before."""
    if st.session_state.get(_PAGE) != path:
        st.session_state[_PAGE] = path
        st.session_state.pop(_WRITTEN, None)


def get(name: str) -> str:
    """What the address says of `name`; empty where it says nothing."""
    here = str(st.query_params.get(name, ""))
    written: dict[str, _Written] = st.session_state.get(_WRITTEN, {})
    last = written.get(name)
    if last is None or here == last.value:
        return here
    if here not in last.before or went_back() or time.monotonic() - last.at > LAG:
        del written[name]
        return here
    _set(name, last.value)
    return last.value


def went_back() -> bool:
    """Whether this run is there because the visitor went back or forward in the browser's history."""
    return bool(getattr(get_script_run_ctx(), "is_history_navigation", False))


def put(name: str, value: str) -> None:
    """Let the address say `value` of `name` from now on; nothing where it is empty."""
    here, now = get(name), time.monotonic()
    if value == here:
        return
    written: dict[str, _Written] = st.session_state.setdefault(_WRITTEN, {})
    last = written.get(name)
    lately = last.before if last is not None and now - last.at <= LAG else frozenset()
    written[name] = _Written(value, (lately | {here}) - {value}, now)
    _set(name, value)


def _set(name: str, value: str) -> None:
    if value:
        st.query_params[name] = value
    elif name in st.query_params:
        del st.query_params[name]
