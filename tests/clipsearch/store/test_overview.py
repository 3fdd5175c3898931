from __future__ import annotations

import numpy as np

from clipsearch.store.overview import Column, Overview


def overview(*files: tuple[int, bytes]) -> Overview:
    """Photos that lie in folders, by (row, folder)."""
    folders = list(dict.fromkeys(folder for _, folder in files))
    count = max((row for row, _ in files), default=-1) + 1
    nothing = Column((), np.full(count, -1))
    return Overview(
        slots=np.arange(count),
        image_ids=np.arange(count),
        dated=np.full(count, "NaT", "datetime64[s]"),
        latitude=np.full(count, np.nan),
        longitude=np.full(count, np.nan),
        camera=nothing,
        format=nothing,
        folders=tuple(folders),
        file_rows=np.array([row for row, _ in files], np.int64),
        file_folders=np.array([folders.index(folder) for _, folder in files], np.int64),
    )


def test_a_folder_counts_what_lies_below_it() -> None:
    found = overview((0, b"/p/a/x"), (1, b"/p/a"), (2, b"/p/b")).folder_counts(np.arange(3))
    assert found == {b"/": 3, b"/p": 3, b"/p/a": 2, b"/p/a/x": 1, b"/p/b": 1}


def test_a_photo_with_copies_counts_once_in_what_holds_them() -> None:
    copied = overview((0, b"/p/a/x"), (0, b"/p/a/y"), (0, b"/p/a"), (0, b"/p/b"), (1, b"/p/b"))
    assert copied.folder_counts(np.arange(2)) == {
        b"/": 2,
        b"/p": 2,
        b"/p/a": 1,
        b"/p/a/x": 1,
        b"/p/a/y": 1,
        b"/p/b": 2,
    }
    assert copied.folder_counts(np.array([1])) == {b"/": 1, b"/p": 1, b"/p/b": 1}


def test_nothing_lies_nowhere() -> None:
    assert overview().folder_counts(np.arange(0)) == {}
    assert overview((0, b"/")).folder_counts(np.arange(1)) == {b"/": 1}
