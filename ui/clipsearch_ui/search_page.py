"""The search page: a box, results, and what to do with them."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

import streamlit as st

from clipsearch.browse import Counts
from clipsearch.errors import (
    ClipsearchError,
    ImageError,
    ModelInvalid,
    ModelMismatch,
    ModelNotFound,
    UsageError,
)
from clipsearch.search import Where
from clipsearch.search.query import Term
from clipsearch_ui import filters
from clipsearch_ui.asking import Asked, Results, Sort, answer, like, load, parse, without_term
from clipsearch_ui.components import grid, tools
from clipsearch_ui.guard import trouble
from clipsearch_ui.library_page import show_run
from clipsearch_ui.photo import show_open_photo
from clipsearch_ui.state import (
    Opened,
    ask,
    close_photo,
    current,
    notice,
    open_photo,
    plain,
    shelf,
    show_notice,
    words,
)

PAGE = 48
"""Photos a page: with collapsed shots, groups."""


def show() -> None:
    """The page."""
    opened = current()
    query = _box(opened)
    show_notice()
    if opened.run is not None and opened.run.running:
        show_run()
    chosen = filters.read()
    try:
        tree = _folders(opened)
        where = chosen.where(tree)
        _chips(opened, query)
        _results(opened, query, chosen, where)
    except UsageError as error:
        st.info("This cannot be searched for as it stands.", icon=":material/lightbulb:")
        st.code(str(error), language=None)
        if chosen.folder:
            st.button("Clear the filters", on_click=filters.clear)
    except (ModelNotFound, ModelMismatch, ModelInvalid) as error:
        trouble(error)
    show_open_photo(opened, on_search_page=True)
    opened.warm()


def _box(opened: Opened) -> str:
    with st.container(key="ask", horizontal=True, vertical_alignment="center", gap="small"):
        query = st.text_input(
            "Search",
            key="q",
            bind="query-params",
            type="search",
            placeholder="a dog on a beach,  or  horse + stripes - grass",
            label_visibility="collapsed",
            icon=":material/search:",
            max_chars=2000,
            on_change=_asked,
        )
        with st.container(key="pick", width=112):
            tools()
        with st.container(key="searches", width="content"):
            _searches(opened)
    with st.container(key="picture_drop"):
        number = st.session_state.setdefault("uploads", 0)
        st.file_uploader(
            "Search with a picture",
            key=f"upload_{number}",
            max_upload_size=20,
            on_change=_take_picture,
            args=(f"upload_{number}",),
        )
    return str(query or "")


def _asked() -> None:
    st.session_state["page"] = 1
    close_photo()


def _take_picture(key: str) -> None:
    """Search with what was dropped, pasted or chosen."""
    file = st.session_state.get(key)
    st.session_state["uploads"] += 1  # the next picture meets an empty uploader
    if file is None:
        return
    try:
        ask(shelf().take_picture(file.getvalue()))
    except ImageError as error:
        notice(f"This picture cannot be read: {error}.")


def _searches(opened: Opened) -> None:
    """Recent and saved searches."""
    searches = opened.searches
    with st.popover("Searches", icon=":material/bookmark:"):
        address = urlencode(st.query_params.to_dict())
        name = st.text_input("Save this search as", value=words()[:60], key="save_name")
        if st.button("Save", icon=":material/bookmark_add:", disabled=not (name or "").strip()):
            searches.save(str(name), address)
            st.toast("Saved.")
        if searches.saved:
            st.caption("Saved")
        for saved, target in searches.saved.items():
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.link_button(plain(saved), f"?{target}", type="tertiary", key=f"go_{saved}")
                st.button(
                    "Remove",
                    icon=":material/close:",
                    key=f"forget_{saved}",
                    type="tertiary",
                    on_click=searches.forget,
                    args=(saved,),
                )
        if searches.recent:
            st.caption("Recent")
        for number, query in enumerate(searches.recent):
            st.button(plain(query), key=f"recent_{number}", type="tertiary", on_click=ask, args=(query,))
        if searches.recent:
            st.button("Clear recent", on_click=searches.clear_recent, key="clear_recent")


def _folders(opened: Opened) -> dict[str, bytes]:
    """The folders of the library, as they are shown; their names must not follow the filters."""
    with opened.library.look() as view:
        key = ("folders", view.generation)
        kept = opened.answers.recall(key)
        if kept is None:
            counts = view.overview.folder_counts(view.overview.rows_of(view.overview.slots))
            kept = {name: path for name, (path, _) in filters.folder_tree(counts).items()}
            opened.answers.remember(key, kept)
    assert isinstance(kept, dict)
    st.session_state["folder_names"] = {path: name for name, path in kept.items()}
    return kept


def _chips(opened: Opened, text: str) -> None:
    """The terms of a sum, each with a way to take it out; pictures are shown."""
    query = parse(text)
    if query is None or not any(term.kind == "image" for term in query.terms):
        return
    with st.container(key="chips", horizontal=True, vertical_alignment="center", gap="small"):
        for position, term in enumerate(query.terms):
            picture = _picture(opened, term)
            if picture is not None:
                st.image(picture, width="content", alt="A picture of the query")
            st.button(
                _chip(term),
                key=f"chip_{position}",
                icon=":material/close:",
                help="Take this out of the search",
                on_click=ask,
                args=(without_term(text, position),),
            )


def _chip(term: Term) -> str:
    weight = f" × {abs(term.weight):g}" if abs(term.weight) != 1 else ""
    if term.kind == "text":
        return plain(f"{'not ' if term.weight < 0 else ''}{term.value}{weight}")
    return f"{'unlike this' if term.weight < 0 else 'like this'}{weight}"


def _picture(opened: Opened, term: Term) -> bytes | None:
    if term.kind == "text":
        return None
    if term.value.startswith("picture:"):
        return shelf().picture(term.value)
    try:
        content = opened.content(int(term.value.removeprefix("photo:")))
        return None if content is None else opened.thumbnails.get(content[0], content[1], "grid")
    except ClipsearchError:
        return None


def _results(opened: Opened, text: str, chosen: filters.Filters, where: Where) -> None:
    line = st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute")
    with line:
        said = st.empty()
        with st.container(horizontal=True, vertical_alignment="center", width="content"):
            scores = bool(text.strip()) and st.toggle("Scores", key="scores", persist_state="session")
            sort = _sort() if text.strip() else "date"
    asked = Asked(text, where, sort, likely=chosen.likely == "1", collapse=chosen.every != "1")
    with st.spinner("Searching …", show_time=False):
        results = answer(shelf(), opened, asked)
    if text.strip() and "photo" not in st.query_params:
        opened.searches.note(text)
    said.markdown(_summary(results, asked))
    if results.groups:
        _page(opened, results, scores=scores)
    else:
        _nothing(chosen, text)
    filters.sidebar(opened, chosen, _counts(opened, where), scored=bool(text.strip()))


def _sort() -> Sort:
    names: dict[Sort, str] = {"match": "Best match", "date": "Newest"}
    picked = st.segmented_control(
        "Order",
        list(names),
        default="match",
        required=True,
        format_func=lambda sort: names[sort],
        key="sort",
        bind="query-params",
        label_visibility="collapsed",
        on_change=_asked,
    )
    return "date" if picked == "date" else "match"


def _summary(results: Results, asked: Asked) -> str:
    if not asked.words.strip():
        return f"**{results.found:,}** photos, newest first"
    if asked.likely or asked.sort == "date":
        return f"**{results.found:,}** likely matches among {results.total:,} photos"
    if results.cutoff is not None:
        likely = sum(score >= results.cutoff for score in results.scores.values())
        return f"**{results.total:,}** photos, best match first; about **{likely:,}** likely"
    return f"**{results.found:,}** photos, best match first"


def _page(opened: Opened, results: Results, *, scores: bool) -> None:
    place = st.container()
    pages = -(-len(results.groups) // PAGE)
    number = 1
    if pages > 1:
        if int(st.session_state.get("page") or 1) > pages:
            st.session_state["page"] = 1
        number = st.pagination(pages, key="page", bind="query-params", on_change=close_photo, width="stretch")
    groups = results.page(number, PAGE)
    photos = load(opened, [int(group[0]) for group in groups])
    sizes = {int(group[0]): len(group) - 1 for group in groups}
    st.session_state["shown"] = [photo.image_id for photo in photos]
    st.session_state["alike"] = {int(group[0]): group.tolist() for group in groups if len(group) > 1}
    with place:
        grid(
            opened,
            photos,
            key="results",
            label="Results",
            on_open=open_photo,
            on_like=lambda image_id: ask(like(image_id)),
            scores={photo.image_id: results.scores[photo.slot] for photo in photos} if scores else None,
            more={photo.image_id: sizes[photo.slot] for photo in photos},
        )


def _nothing(chosen: filters.Filters, text: str) -> None:
    with st.container(border=True, horizontal_alignment="center"):
        st.markdown("#### Nothing found", text_alignment="center")
        if chosen.active():
            st.markdown("No photo passes all of the filters.", text_alignment="center")
            st.button("Clear the filters", on_click=filters.clear, type="primary", key="clear_all")
        elif text.strip():
            st.markdown("Try other words, or fewer of them.", text_alignment="center")


def _counts(opened: Opened, where: Where) -> Counts:
    with opened.library.look() as view:
        key = ("counts", replace(where, min_score=None), view.generation)
        kept = opened.answers.recall(key)
        if kept is None:
            kept = opened.answers.remember(key, view.counts(where))
    assert isinstance(kept, Counts)
    return kept
