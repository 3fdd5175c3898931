from __future__ import annotations

from pathlib import Path

from clipsearch.api import Library
from clipsearch_ui.state import Shelf


def test_a_library_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    place = tmp_path / "library"
    shelf = Shelf()
    before = shelf.open(place, create=True)
    assert shelf.open(place) is before
    before.library.backup(tmp_path / "copy")
    Library.restore(tmp_path / "copy", place)
    after = shelf.open(place)
    assert after is not before
    assert after.key == before.key
    for opened in (before, after):
        opened.library.close()
    shelf.decoders.close()
