"""What a sample looks and sounds like today: random crops, colours and words, all from a given generator."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from clipsearch_train.recipe_data import Data

Pixels = npt.NDArray[np.uint8]
# A sentence ends at a full stop, question or exclamation mark before white space.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def augmented(
    image: Image.Image, sizes: tuple[int, ...], data: Data, squash: bool, rng: np.random.Generator
) -> list[Pixels]:
    """One view of an RGB image at each of `sizes`: uint8 (size, size, 3); with `squash`, of any shape.

    All sizes show the same crop, flip and colours, so that a teacher sees what its student sees.
    """
    if data.low_res and rng.random() < data.low_res:
        image = shrunk(image, int(rng.integers(24, 97)))
    box = random_box(image.size, data.min_crop, data.max_aspect, squash, rng)
    views = [image.resize((size, size), Image.Resampling.BICUBIC, box=box) for size in sizes]
    if data.flip and rng.random() < 0.5:
        views = [view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for view in views]
    if data.grayscale and rng.random() < data.grayscale:
        views = [view.convert("L").convert("RGB") for view in views]
    if data.jitter:
        brightness, contrast, colour = rng.uniform(1 - data.jitter, 1 + data.jitter, 3).tolist()
        for enhancer, factor in (
            (ImageEnhance.Brightness, brightness),
            (ImageEnhance.Contrast, contrast),
            (ImageEnhance.Color, colour),
        ):
            views = [enhancer(view).enhance(factor) for view in views]
    return [np.asarray(view) for view in views]


def random_box(
    size: tuple[int, int], min_scale: float, max_aspect: float, squash: bool, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random part of an image of (width, height): (left, top, right, bottom).

    The paper's only augmentation (§2.4) is a random square crop. `min_scale` is the least share of the
    largest square's area that a crop may have (with `squash`, of the whole image's, whose shape it keeps).
    `max_aspect` lets the sides differ by up to that factor, as in OpenCLIP's random resized crop.
    """
    width, height = size
    whole = (width, height) if squash else (min(size), min(size))
    scale = float(np.sqrt(rng.uniform(min_scale, 1.0)))
    stretch = float(np.exp(rng.uniform(-1, 1) * np.log(max_aspect) / 2)) if max_aspect > 1 else 1.0
    across = min(width, max(1, round(whole[0] * scale * stretch)))
    down = min(height, max(1, round(whole[1] * scale / stretch)))
    left = int(rng.integers(0, width - across + 1))
    top = int(rng.integers(0, height - down + 1))
    return left, top, left + across, top + down


def shrunk(image: Image.Image, edge: int) -> Image.Image:
    """The image with its shorter side at most `edge` pixels: what a thumbnail would have kept of it."""
    factor = edge / min(image.size)
    if factor >= 1:
        return image
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))


def reworded(text: str, data: Data, rng: np.random.Generator) -> str:
    """A text as it is, or one sentence of it, or without some of its words; never empty."""
    if data.one_sentence and rng.random() < data.one_sentence:
        sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]
        text = sentences[int(rng.integers(len(sentences)))] if sentences else text
    if data.drop_words:
        words = text.split()
        kept = [word for word in words if rng.random() >= data.drop_words]
        text = " ".join(kept or words)
    return text
