"""The search page: a box, results, and what to do with them."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from clipsearch.browse import Counts
from clipsearch.errors import (
    ImageError,
    ModelInvalid,
    ModelMismatch,
    ModelNotFound,
    UsageError,
)
from clipsearch.search import Where
from clipsearch_ui import chips, filters, searches_menu, sidebar
from clipsearch_ui.asking import Asked, Results, Sort, answer, apart, like, load, together
from clipsearch_ui.components import grid, tools
from clipsearch_ui.guard import trouble
from clipsearch_ui.library_page import show_run
from clipsearch_ui.photo import show_open_photo
from clipsearch_ui.state import (
    UPLOAD_LIMIT,
    Opened,
    ask,
    by_date,
    close_photo,
    current,
    notice,
    open_photo,
    order,
    photo_id,
    settle_words,
    shelf,
    show_notice,
    words,
)

PAGE = 48
"""Photos a page: with collapsed shots, groups."""
EXAMPLE = "a dog on a beach,  or  horse + stripes - grass"
EXAMPLES = ("a dog on a beach", "horse + stripes - grass", "2:beach + sunset", '"salt + pepper"')


def show() -> None:
    """The page."""
    opened = current()
    query = _box(opened)
    show_notice()
    if opened.run is not None and opened.run.running:
        show_run()
    chosen = filters.read()
    where = Where()
    try:
        where = chosen.where(_folders(opened) if chosen.folder else {})
        chips.show(opened, query)
        _results(opened, query, chosen, where)
    except UsageError as error:
        _not_a_search(error, chosen)
    except (ModelNotFound, ModelMismatch, ModelInvalid) as error:
        trouble(error)
    # What takes long in a large library comes after the pictures.
    counts = sidebar.Choices(_folders(opened), _counts(opened, Where()), _counts(opened, where))
    sidebar.show(chosen, counts, scored=bool(query.strip()))
    show_open_photo(opened, on_search_page=True)
    opened.warm()


def _box(opened: Opened) -> str:
    query = settle_words()
    typed, pictures = apart(query)
    if st.session_state.get("q", "") != typed:  # not else: it would undo what is being typed
        st.session_state["q"] = typed
    with st.container(key="ask", horizontal=True, vertical_alignment="center", gap="small"):
        st.text_input(
            "Search",
            key="q",
            type="search",
            placeholder="add words to the picture" if pictures else EXAMPLE,
            label_visibility="collapsed",
            icon=":material/search:",
            on_change=_typed,
        )
        with st.container(key="pick", width=112):
            tools(UPLOAD_LIMIT, _too_large)
        with st.container(key="searches", width="content"):
            searches_menu.show(opened)
    with st.container(key="picture_drop"):
        number = st.session_state.setdefault("uploads", 0)
        st.file_uploader(
            "Search with a picture",
            key=f"upload_{number}",
            max_upload_size=UPLOAD_LIMIT >> 20,
            on_change=_take_picture,
            args=(f"upload_{number}",),
        )
    return query


def _typed() -> None:
    """Search for what is in the box; the pictures beside it stay."""
    ask(together(st.session_state["q"] or "", apart(words())[1]))


def _sorted() -> None:
    order(by_date=st.session_state["sort"] == "date")
    _asked()


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


def _too_large() -> None:
    notice(f"This picture is too large: the limit is {UPLOAD_LIMIT >> 20} MB.")


def _not_a_search(error: UsageError, chosen: filters.Filters) -> None:
    st.info("This cannot be searched for as it stands.", icon=":material/lightbulb:")
    st.code(str(error), language=None)
    if chosen.folder:
        st.button("Clear the filters", on_click=filters.clear)
    st.markdown("Words can be asked for, and sums of words:")
    st.code("\n".join(EXAMPLES), language=None)


def _folders(opened: Opened) -> dict[str, bytes]:
    """The folders of the library, as they are shown; their names must not follow the filters."""
    with opened.library.look() as view:
        key = ("folders", view.generation)
        kept = opened.answers.recall(key)
        if kept is None:
            overview = view.overview
            kept = filters.folder_names(overview.folders[number] for number in set(overview.file_folders))
            opened.answers.remember(key, kept)
    assert isinstance(kept, dict)
    st.session_state["folder_names"] = {path: name for name, path in kept.items()}
    return kept


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
    if text.strip() and photo_id() is None:
        opened.searches.note(text)
    said.markdown(_summary(results, asked))
    if results.groups:
        _page(opened, results, scores=scores)
    else:
        _nothing(chosen)


def _sort() -> Sort:
    names: dict[Sort, str] = {"match": "Best match", "date": "Newest"}
    wanted = "date" if by_date() else "match"
    if st.session_state.get("sort") != wanted:
        st.session_state["sort"] = wanted
    picked = st.segmented_control(
        "Order",
        list(names),
        required=True,
        format_func=lambda sort: names[sort],
        key="sort",
        label_visibility="collapsed",
        on_change=_sorted,
    )
    return "date" if picked == "date" else "match"


def _summary(results: Results, asked: Asked) -> str:
    found, total = f"**{results.found:,}**", f"{results.total:,} photos"
    if not results.total:
        return "**0** photos"
    if not asked.words.strip():
        return f"{found} photos, newest first"
    if asked.sort == "date":
        return f"The {found} best matches among {total}, newest first"
    if asked.likely and results.cutoff is not None:
        return f"{found} likely matches among {total}"
    if asked.where.min_score:
        return f"{found} of {total} have a similarity of {asked.where.min_score:g} or more"
    if results.cutoff is None:
        return f"**{results.total:,}** photos, best match first"
    count = sum(score >= results.cutoff for score in results.scores.values())
    likely = f"about **{count:,}** likely" if count else "none of them likely"
    return f"**{results.total:,}** photos, best match first; {likely}"


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


def _nothing(chosen: filters.Filters) -> None:
    with st.container(border=True, horizontal_alignment="center"):
        st.markdown("## Nothing found", text_alignment="center")
        if chosen.active():
            st.markdown("No photo passes all of the filters.", text_alignment="center")
            st.button("Clear the filters", on_click=filters.clear, type="primary", key="clear_all")
        else:
            st.markdown("Try other words, or fewer of them.", text_alignment="center")


def _counts(opened: Opened, where: Where) -> Counts:
    with opened.library.look() as view:
        key = ("counts", replace(where, min_score=None), view.generation)
        kept = opened.answers.recall(key)
        if kept is None:
            kept = opened.answers.remember(key, view.counts(where))
    assert isinstance(kept, Counts)
    return kept
