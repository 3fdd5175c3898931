"""The pages, in Streamlit's order of things: this script runs anew for whatever a visitor does."""

from __future__ import annotations

import streamlit as st

from clipsearch_ui import (
    address,
    duplicates_page,
    library_page,
    map_page,
    search_page,
    themes_page,
    timeline_page,
)
from clipsearch_ui.guard import guarded
from clipsearch_ui.state import icon

st.set_page_config(page_title="clipsearch", page_icon=icon(), layout="wide")

# Of our own making only: no text of a photo ever stands here.
st.html("""<style>
[data-testid="stLayoutWrapper"]:has(> .st-key-picture_drop) { display: none; }
.st-key-chips button img, [class*="st-key-recent_"] button img {
  height: 2rem; max-height: none; width: auto;
  border-radius: 0.4rem; margin-right: 0.3rem; vertical-align: middle;
}
[class*="st-key-recent_"] button p { text-align: start; }
[class*="st-key-recent_"] button img { margin-left: 0.3rem; }
[class*="st-key-recent_"] button img:first-child { margin-left: 0; }
.st-key-chips button:has(img) { padding: 0.2rem 0.6rem 0.2rem 0.2rem; }
.stMainBlockContainer { padding: 4.2rem 2rem 3rem; }
.st-key-filters_head { min-height: 2.5rem; }  /* with a button in it or without */
.st-key-q input { text-overflow: ellipsis; }
.st-key-results { min-height: 60vh; }  /* while its script comes, what follows need not move */
.st-key-world { aspect-ratio: 2; min-height: 0; max-width: 115vh; flex: none; }
/* In the dark the primary colour is a light one, on which white would not be legible. */
button[data-testid^="stBaseButton-primary"]:not(:disabled) { color: light-dark(#fff, #06121f); }
@media (prefers-color-scheme: dark) {  /* a dialog stands outside of what knows the page's own scheme */
  [role="dialog"] button[data-testid^="stBaseButton-primary"]:not(:disabled) { color: #06121f; }
}
@media (max-width: 640px) {
  .st-key-world { aspect-ratio: 1.25; }
  .stMainBlockContainer { padding: 3.8rem 0.8rem 2rem; }
  .st-key-ask { flex-wrap: nowrap; gap: 0.5rem; }
  .st-key-ask > div:first-child { min-width: 0; flex: 1 1 0; }
  .st-key-ask > div:has(> .st-key-pick) { flex: 0 0 3rem; min-width: 0; }
  .st-key-pick { width: 3rem; }
  .st-key-steps kbd { display: none; }
  [data-testid="stExpandSidebarButton"]::after { content: "Pages and filters"; padding: 0 0.3rem; }
  .st-key-searches button p {  /* read out, not seen */
    position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  }
}
</style>""")

PAGES = [
    st.Page(guarded(search_page.show), title="Search", icon=":material/search:", url_path="", default=True),
    st.Page(
        guarded(timeline_page.show), title="Timeline", icon=":material/calendar_month:", url_path="timeline"
    ),
    st.Page(guarded(map_page.show), title="Map", icon=":material/map:", url_path="map"),
    st.Page(guarded(themes_page.show), title="Themes", icon=":material/category:", url_path="themes"),
    st.Page(
        guarded(duplicates_page.show),
        title="Duplicates",
        icon=":material/content_copy:",
        url_path="duplicates",
    ),
    st.Page(library_page.show, title="Library", icon=":material/photo_library:", url_path="library"),
]

st.session_state["search_page"] = PAGES[0]
page = st.navigation(PAGES, position="top")
address.on_page(page.url_path)
page.run()
