"""What a page shows where it cannot show itself: no library, an empty one, no model, a damaged file."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from clipsearch.errors import (
    ClipsearchError,
    LibraryEmpty,
    LibraryNotFound,
    ModelInvalid,
    ModelMismatch,
    ModelNotFound,
)
from clipsearch_ui.state import current, is_empty, show_notice


def guarded(page: Callable[[], None]) -> Callable[[], None]:
    """The page, where there are photos to show; else the way to get there."""

    def show() -> None:
        try:
            if is_empty(current()):
                welcome()
            else:
                page()
        except (LibraryNotFound, LibraryEmpty):
            welcome()
        except ClipsearchError as error:
            trouble(error)

    show.__name__ = page.__module__.rpartition(".")[2]
    return show


def welcome() -> None:
    """The first visit: nothing is indexed yet."""
    from clipsearch_ui.library_page import index_form, show_run

    show_notice()
    st.title("Find photos by what is in them", anchor=False)
    st.markdown(
        "Name a folder of photos. They stay where they are and never leave this computer; clipsearch looks "
        "at each once and remembers what it saw. You can search while it works."
    )
    with st.container(width=720):
        index_form(first=True)
        show_run()


def trouble(error: ClipsearchError) -> None:
    """An error, in its own sentence, with what helps."""
    if isinstance(error, ModelNotFound | ModelMismatch | ModelInvalid):
        st.error("Searching needs the library's model.", icon=":material/model_training:")
    else:
        st.error("This does not work just now.", icon=":material/error:")
    st.text(str(error))
