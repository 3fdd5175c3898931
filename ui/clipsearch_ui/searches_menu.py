"""The menu of recent and saved searches."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import streamlit as st

from clipsearch_ui import chips, filters
from clipsearch_ui.state import Opened, ask, order, plain, words

NOT_OF_A_SEARCH = ("photo", "page")
"""What the address says beside the search."""


def show(opened: Opened) -> None:
    """Show the menu, closed."""
    searches = opened.searches
    with st.popover("Searches", icon=":material/bookmark:"):
        _save(opened)
        if searches.saved:
            st.caption("Saved")
        for name, target in searches.saved.items():
            with st.container(
                horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", gap="small"
            ):
                st.button(plain(name), type="tertiary", key=f"go_{name}", on_click=_go, args=(target,))
                st.button(
                    "Remove",
                    icon=":material/close:",
                    key=f"forget_{name}",
                    type="tertiary",
                    on_click=searches.forget,
                    args=(name,),
                )
        if searches.recent:
            st.caption("Recent")
        for number, query in enumerate(searches.recent):
            st.button(
                chips.line(opened, query),
                key=f"recent_{number}",
                type="tertiary",
                on_click=ask,
                args=(query,),
            )
        if searches.recent:
            st.button("Clear recent", on_click=searches.clear_recent, key="clear_recent")


def _go(target: str) -> None:
    """Search as the saved address says."""
    address = dict(parse_qsl(target))
    filters.take(address)
    order(by_date=address.get("sort") == "Newest")
    ask(address.get("q", ""))


def _save(opened: Opened) -> None:
    """Name what is searched for now: the words, with the filters and the order."""
    address = {name: value for name, value in st.query_params.items() if name not in NOT_OF_A_SEARCH}
    query = words()
    if "picture:" in query:
        st.caption("A search with a picture of yours cannot be saved: it is kept only while the server runs.")
        return
    if not address:
        st.caption("Search for something, or filter, and it can be saved here.")
        return
    with st.form(f"save_{urlencode(address)}", border=False):  # another search begins with its own name
        name = st.text_input("Save this search as", value=chips.name(opened, query)[:60], key="save_name")
        if st.form_submit_button("Save", icon=":material/bookmark_add:") and (name or "").strip():
            opened.searches.save(str(name), urlencode(address))
            st.toast("Saved.")
