from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

import colours


def save(
    path: Path,
    rgb: tuple[int, int, int],
    *,
    taken: str = "",
    place: tuple[float, float] | None = None,
    camera: str = "",
    caption: str = "",
    size: tuple[int, int] = (96, 64),
    seed: int = 0,
) -> Path:
    """A photo of one colour with a little noise, and EXIF."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(-12, 13, (size[1], size[0], 3))
    pixels = (np.array(rgb) + noise).clip(0, 255).astype(np.uint8)
    exif = Image.Exif()
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken
    if camera:
        exif[0x010F], exif[0x0110] = camera.split(" ", 1)
    if caption:
        exif[0x010E] = caption
    if place is not None:
        gps = exif.get_ifd(0x8825)
        gps[1], gps[2] = ("N" if place[0] >= 0 else "S"), (abs(place[0]), 0.0, 0.0)
        gps[3], gps[4] = ("E" if place[1] >= 0 else "W"), (abs(place[1]), 0.0, 0.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif, quality=90)
    return path


def make_photos(folder: Path) -> Path:
    """64 photos of six colours in two folders, two of them nearly the same, and a file that is no photo."""
    names = ["red", "green", "blue", "yellow", "orange", "brown"]
    for number in range(60):
        name = names[number % 6]
        shift = (number // 6) * 6
        rgb = tuple(
            min(255, max(0, part + (shift if part < 128 else -shift))) for part in colours.COLOURS[name]
        )
        save(
            folder / ("home" if number % 2 else "travel") / f"{name}-{number:02}.jpg",
            (rgb[0], rgb[1], rgb[2]),
            taken=f"20{20 + number % 4}:{1 + number % 12:02}:15 12:{number:02}:00",
            camera="Nikon D70" if number % 3 else "Canon EOS",
            place=(48.0, 2.0 + number) if number % 10 == 0 else None,
            caption=f"a {name} wall" if number % 4 == 0 else "",
            size=(96, 64) if number % 5 else (64, 96),
            seed=number,
        )  # fmt: skip
    for number in range(4):
        save(folder / "home" / f"black-{number}.jpg", (15, 15, 15), taken="2021:05:05 10:00:00", seed=number)
    (folder / "home" / "broken.jpg").write_bytes(b"no photo at all")
    return folder


def build_library(place: Path, *folders: Path) -> Path:
    from clipsearch.api import Library

    with Library.open(place, create=True) as library:
        library.index(list(folders))
    return place


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(autouse=True)
def _colours(monkeypatch: pytest.MonkeyPatch) -> None:
    import clipsearch.encoder

    monkeypatch.setattr(clipsearch.encoder, "load_model", colours.load_colours)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A library of `photos`; not to be changed."""
    import clipsearch.encoder

    before = clipsearch.encoder.load_model
    clipsearch.encoder.load_model = colours.load_colours  # type: ignore[assignment]
    try:
        return build_library(tmp_path_factory.mktemp("library") / "library", photos)
    finally:
        clipsearch.encoder.load_model = before


@pytest.fixture
def fresh_shelf() -> Iterator[None]:
    """Nothing is remembered from the test before; what was started is ended."""
    import streamlit as st

    from clipsearch_ui import state

    st.cache_resource.clear()
    yield
    shelf = state.shelf()
    for path in shelf.paths():
        opened = shelf.at(path)
        assert opened is not None
        if opened.run is not None:
            opened.run.wait(30)
        opened.library.close()
    shelf.decoders.close()
    st.cache_resource.clear()
