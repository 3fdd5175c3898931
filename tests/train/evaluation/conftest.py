"""A model whose right answers can be computed by hand: an image is its mean colour, a text its colours."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsearch.preprocess import Preprocess

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourModel:
    """Embeds into three dimensions; counts what it was asked for."""

    name = "colours"
    fingerprint = "0123456789abcdef"

    def __init__(self) -> None:
        self.preprocess = Preprocess(8)
        self.images = 0
        self.asked: list[str] = []

    def encode_pixels(self, pixels_NYXC: np.ndarray) -> np.ndarray:
        self.images += len(pixels_NYXC)
        return self._unit(pixels_NYXC.reshape(len(pixels_NYXC), -1, 3).mean(axis=1))

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return self._unit(np.array([sum((self._colour(text)), start=np.ones(3)) for text in texts]))

    def _colour(self, text: str) -> list[np.ndarray]:
        return [np.array(colour, float) for name, colour in COLOURS.items() if name in text]

    def _unit(self, rows: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # black has no direction: NaN
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def model() -> ColourModel:
    return ColourModel()


@pytest.fixture
def paint(tmp_path: Path) -> Callable[..., Path]:
    """Write PNG files of one colour each: {path below `tmp_path`: colour}; returns the folder."""

    def make(pictures: Mapping[str, str | tuple[int, int, int]]) -> Path:
        for name, colour in pictures.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(
                "RGB", (12, 10), COLOURS.get(colour, colour) if isinstance(colour, str) else colour
            ).save(path)
        return tmp_path

    return make
