"""A model whose right answers are plain to see: a picture is its colours, a word is the colour it names.

Takes the place of a CLIP model by `install`, which is what every loading of a model goes through.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

import clipsearch.encoder
from clipsearch.images import decode
from clipsearch.preprocess import Preprocess

Vectors = npt.NDArray[np.float32]
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 60),
    "blue": (30, 70, 220),
    "yellow": (230, 210, 40),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
    "orange": (240, 140, 30),
    "brown": (120, 80, 40),
}
CELLS = 6


class Colours:
    """What `clipsearch.encoder.Encoder` is, with 6³ colour cells for an embedding."""

    name = "colours"
    source = "colours"
    fingerprint = "colours-1"
    dim = CELLS**3
    device = "cpu"
    logit_scale = 100.0

    def __init__(self, broken: bool = False) -> None:
        self.preprocess = Preprocess(size=32)

    def encode_text(self, texts: Sequence[str], batch: int = 256) -> Vectors:
        return np.stack([self._text(text) for text in texts])

    def encode_pixels(self, pixels: npt.NDArray[np.uint8]) -> Vectors:
        return np.stack([_histogram(image.reshape(-1, 3)) for image in pixels])

    def encode_images(self, images: Sequence[Image.Image | str | Path], batch: int = 32) -> Vectors:
        decoded = [image if isinstance(image, Image.Image) else decode(image)[0] for image in images]
        return self.encode_pixels(np.stack([self.preprocess.pixels(image) for image in decoded]))

    def _text(self, text: str) -> Vectors:
        named = [rgb for word, rgb in COLOURS.items() if word in text.lower()]
        if not named:  # some fixed grey for words without a colour
            shade = sum(text.encode()) % 200 + 20
            named = [(shade, shade, shade)]
        return _histogram(np.array(named, np.uint8))


def _histogram(colours: npt.NDArray[np.uint8]) -> Vectors:
    """Colours (n, 3) → the unit vector of how much of each cell there is, shared between neighbours."""
    at = colours.astype(np.float32) / 255 * (CELLS - 1)
    axis = np.arange(CELLS, dtype=np.float32)
    near = np.exp(-((at[:, :, None] - axis) ** 2) / 0.5)  # (n, 3, cells)
    cells = np.einsum("ni,nj,nk->ijk", near[:, 0], near[:, 1], near[:, 2]).ravel() + 1e-6
    unit: Vectors = (cells / np.linalg.norm(cells)).astype(np.float32)
    return unit


def load_colours(name: str | Path | None = None, *, device: str | None = None) -> Colours:
    return Colours()


def install() -> None:
    """Let every library of this process use `Colours`."""
    clipsearch.encoder.load_model = load_colours  # type: ignore[assignment]
