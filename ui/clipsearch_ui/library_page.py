"""The library: what is in it, what went wrong, indexing, and other libraries."""

from __future__ import annotations

import os
from datetime import datetime

import streamlit as st

from clipsearch import zoo
from clipsearch.api import Status
from clipsearch.config import default_library, expanded
from clipsearch.errors import ClipsearchError, LibraryNotFound
from clipsearch.paths import display
from clipsearch_ui.guard import trouble
from clipsearch_ui.indexing import IndexRun
from clipsearch_ui.state import (
    Opened,
    current,
    is_empty,
    library_path,
    notice,
    plain,
    shelf,
    show_notice,
    switch_library,
)

FAILURES = 1_000


def show() -> None:
    """The page."""
    show_notice()
    st.title("Library", anchor=False)
    try:
        opened = current()
        _overview(opened, opened.library.status())
    except LibraryNotFound:
        opened = None
        st.info(f"There is no library at {plain(str(library_path()))} yet; indexing a folder makes one.")
    except ClipsearchError as error:
        trouble(error)
        opened = None
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.header("Index photos", anchor=False)
        index_form(first=opened is None)
        show_run()
        if opened is not None:
            _failures(opened)
    with right:
        _models(opened)
        _switch()


def _overview(opened: Opened, status: Status) -> None:
    with st.container(horizontal=True):
        st.metric("Photos", f"{status.images:,}", border=True)
        st.metric("Files", f"{status.files:,}", border=True)
        st.metric("Could not be read", f"{status.failed:,}", border=True)
        st.metric("Missing files", f"{status.missing:,}", border=True)
        st.metric("On disk", _bytes(status.disk_bytes), border=True)
    st.caption(f"{plain(str(status.path))} · {_index_line(status)}")
    for root in status.roots:
        when = f"last looked at {_local(root.last_scanned)}" if root.last_scanned else ""
        if root.online:
            st.markdown(f":material/folder: {plain(display(root.path))} :gray[{when}]")
        else:
            st.warning(
                f"{plain(display(root.path))} is offline: its photos can be found, and are read again when "
                "it is back.",
                icon=":material/cloud_off:",
            )


def _local(moment: str) -> str:
    """A moment of the catalog, which is UTC, on this computer's clock."""
    return datetime.fromisoformat(moment).astimezone().strftime("%d %B %Y, %H:%M")


def _index_line(status: Status) -> str:
    index = status.index
    if index["kind"] == "none":
        return "nothing indexed yet"
    model = plain(f"model {status.model}")
    if index["kind"] == "exact":
        return f"{model} · every photo is compared: nothing is missed"
    asked = {"text": "words", "image": "pictures"}
    found = ", ".join(f"{value:.1%} for {asked[kind]}" for kind, value in index["recall@10"].items())
    said = f"{index['kind']} index of {index['covered']:,} photos; of the ten best matches it finds {found}"
    return f"{model} · {plain(said)}"


def index_form(*, first: bool) -> None:
    """Name a folder and begin; one run at a time."""
    pictures = expanded("~") / "Pictures"
    opened = shelf().at(library_path())
    busy = opened is not None and opened.run is not None and opened.run.running
    with st.form("index", border=False):
        folder = st.text_input(
            "Folder of photos",
            value=str(pictures) if first and pictures.is_dir() else "",
            placeholder=str(pictures),
            key="index_folder",
        )
        label = "Index this folder" if first else "Index"
        if st.form_submit_button(label, type="primary", icon=":material/play_arrow:", disabled=busy):
            _start(str(folder or "").strip())
    look = "Look for changes in all folders"
    if not first and st.button(look, icon=":material/refresh:", disabled=busy, key="index_all"):
        current().start_index([])
        st.rerun()


def _start(folder: str) -> None:
    from clipsearch_indexer.scan import is_shard_name

    path = expanded(folder)
    there = path.is_dir() or (path.is_file() and is_shard_name(bytes(path)))
    if not folder or not path.is_absolute() or not there:
        example = plain(str(expanded("~") / "Pictures"))
        st.error(f"Give the whole path of a folder that is there, such as {example}.")
        return
    try:
        shelf().open(library_path(), create=True).start_index([path])
    except ClipsearchError as error:
        trouble(error)
        return
    st.rerun()


def show_run() -> None:
    """The progress of the indexer, while it works and after."""
    opened = shelf().at(library_path())
    run = None if opened is None else opened.run
    if run is None:
        return
    if run.running:
        _progress(opened is not None and is_empty(opened))
    else:
        _outcome(run)


@st.fragment(run_every=1.0)
def _progress(was_empty: bool) -> None:
    opened = shelf().at(library_path())
    run = None if opened is None else opened.run
    if opened is None or run is None or not run.running or (was_empty and not is_empty(opened)):
        st.rerun()
    assert run is not None
    progress = run.progress
    if progress is None:
        st.progress(0.0, text="Starting …")
    elif progress.total <= 0:
        met = f": {progress.done:,} files so far" if progress.done else ""
        st.progress(0.0, text=f"Looking for photos{met} …")
    else:
        left = run.seconds_left()
        about = "" if left is None else f", about {_duration(left)} left"
        text = f"{progress.done:,} of {progress.total:,} files, {progress.new:,} new photos{about}"
        st.progress(min(1.0, progress.done / progress.total), text=text)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button(
            "Stopping …" if run.stopping else "Stop",
            on_click=run.stop,
            disabled=run.stopping,
            icon=":material/stop:",
            key="stop_index",
        )
        st.caption("Searching works meanwhile, and finds what is indexed so far.", width="content")


def _outcome(run: IndexRun) -> None:
    if run.error is not None:
        st.error(plain(run.error), icon=":material/error:")
        return
    summary = run.summary
    if summary is None:
        return
    parts = [f"{summary.new:,} new photos"]
    parts += [f"{summary.unchanged:,} unchanged"] if summary.unchanged else []
    parts += [f"{summary.moved:,} moved"] if summary.moved else []
    parts += [f"{len(summary.failed):,} could not be read"] if summary.failed else []
    said = f"{', '.join(parts)} in {_duration(summary.seconds)}."
    if summary.interrupted:
        st.info(
            f"Stopped: {said} These are kept; look for changes to go on with the rest.",
            icon=":material/pause:",
        )
    else:
        st.success(f"Done: {said}", icon=":material/check:")
    for root in summary.offline:
        st.warning(f"{plain(display(root))} is offline; its photos are kept.", icon=":material/cloud_off:")


def _failures(opened: Opened) -> None:
    rows = opened.library.failures(FAILURES)
    if not rows:
        return
    with st.expander(f"Files that could not be read ({len(rows):,}{'+' if len(rows) == FAILURES else ''})"):
        st.dataframe(
            {
                "File": [display(os.path.basename(row.path)) for row in rows],  # noqa: PTH119 (bytes)
                "Reason": [row.reason for row in rows],
                "Folder": [display(os.path.dirname(row.path)) for row in rows],  # noqa: PTH120 (bytes)
            },
            hide_index=True,
        )


def _models(opened: Opened | None) -> None:
    st.header("Models on this machine", anchor=False)
    model = None if opened is None else opened.library.status().model
    names = [found.name for found in zoo.installed()]
    if set(names) <= {"mini"}:
        st.markdown("A larger one finds much more; this fetches it:")
        st.code("clipsearch models pull ViT-B-32-256", language=None)
    for name in names:
        released = zoo.release(name)
        about = f" :gray[{released.imagenet:.0f}% on ImageNet, {released.edge} px]" if released else ""
        mark = " :green-badge[in use]" if name == model else ""
        st.markdown(f":material/neurology: {plain(name)}{about}{mark}")


def _switch() -> None:
    st.header("Other libraries", anchor=False)
    here = expanded(library_path()).absolute()
    known = dict.fromkeys([default_library().absolute(), *shelf().paths()])
    for number, path in enumerate(known):
        if path != here:
            st.button(
                plain(str(path)),
                key=f"library_{number}",
                icon=":material/photo_library:",
                on_click=switch_library,
                args=(path,),
            )
    with st.form("switch", border=False):
        wanted = st.text_input("Folder of a library", placeholder=str(here), key="switch_path")
        if st.form_submit_button("Open", icon=":material/folder_open:"):
            _open(str(wanted or "").strip())


def _open(wanted: str) -> None:
    if not wanted:
        return
    path = expanded(wanted)
    try:
        shelf().open(path)
    except LibraryNotFound:
        st.error(f"There is no library at {plain(str(path))}.", icon=":material/error:")
        return
    except ClipsearchError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    switch_library(path)
    notice(f"This is now the library at {path}.")
    st.rerun()


def _bytes(size: int) -> str:
    for unit, each in (("GB", 1e9), ("MB", 1e6)):
        if size >= each:
            return f"{size / each:,.1f} {unit}"
    return f"{-(-size // 1000):,} KB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
