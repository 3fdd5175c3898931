import pickle

import numpy as np
import pytest
from PIL import Image

from clipsearch.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess

SIZES = [
    (640, 480), (480, 640), (224, 224), (225, 224), (224, 225), (223, 400), (400, 223), (1000, 333),
    (333, 1000), (50, 40), (40, 50), (1, 1), (3, 7), (7, 3), (101, 800), (807, 101), (449, 448), (500, 227),
]  # fmt: skip


def photo(width, height):
    """Noise over a gradient: no two pixels alike, so a shift by one shows."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(width * 10_007 + height).integers(0, 60, (height, width, 3))
    gradient = np.stack([x * 195 // width, y * 195 // height, (x + y) * 195 // (width + height)], -1)
    return Image.fromarray((gradient + noise).astype(np.uint8))


def torchvision(image, edge):
    """Resize(edge, BICUBIC) and CenterCrop(edge), as torchvision does them on PIL images."""
    short, long = sorted(image.size)
    new_long = int(edge * long / short)
    size = (edge, new_long) if image.width <= image.height else (new_long, edge)
    resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC) if size != image.size else image)
    height, width = resized.shape[:2]
    top, left = round((height - edge) / 2.0), round((width - edge) / 2.0)
    return resized[top : top + edge, left : left + edge]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("edge", [224, 33])
def test_pixels_are_those_of_the_released_transform(size, edge):
    image = photo(*size)
    found = Preprocess(edge).pixels(image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, torchvision(image, edge))


@pytest.mark.parametrize("size", [(20, 400), (400, 20), (3, 2000), (2000, 3), (31, 1001), (1001, 31)])
def test_extreme_shapes_give_the_same_but_for_rounding(size):
    image = photo(*size)
    found, wanted = Preprocess(64).pixels(image), torchvision(image, 64)
    assert found.shape == (64, 64, 3)
    difference = np.abs(found.astype(int) - wanted)
    assert difference.max() <= 4
    shifted = np.abs(wanted[1:, 1:].astype(int) - wanted[:-1, :-1])  # by one pixel
    assert difference.mean() < shifted.mean() / 4


@pytest.mark.parametrize("size", [(1, 65_000), (65_000, 1)])
def test_a_line_does_not_become_gigabytes(size, monkeypatch):
    sizes = []
    resize = Image.Image.resize

    def watched(image, size, *arguments, **options):
        sizes.append(size)
        return resize(image, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    assert Preprocess(224).pixels(photo(*size)).shape == (224, 224, 3)
    assert sizes == [(224, 224)]


def test_squash_takes_all_of_the_image_in():
    image = photo(300, 100)
    wanted = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(Preprocess(64, squash=True).pixels(image), wanted)


def test_normalise_is_mean_and_standard_deviation_of_each_channel():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    found = Preprocess(5).normalise(pixels)
    assert tuple(found.shape) == (2, 3, 5, 4)
    wanted = (pixels / 255 - np.array(OPENAI_MEAN)) / np.array(OPENAI_STD)
    np.testing.assert_allclose(found.numpy(), wanted.transpose(0, 3, 1, 2), atol=1e-6)


def test_the_constants_are_those_of_the_released_models():
    assert OPENAI_MEAN == (0.48145466, 0.4578275, 0.40821073)
    assert OPENAI_STD == (0.26862954, 0.26130258, 0.27577711)


def test_a_model_brings_its_own():
    preprocess = Preprocess.from_dict(
        {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.5, 1],
            "resize_mode": "squash",
            "interpolation": "bilinear",
        },
        size=2,
    )
    assert preprocess == Preprocess(2, (0.5,) * 3, (0.25, 0.5, 1.0), "bilinear", squash=True)
    white = preprocess.normalise(np.full((1, 1, 1, 3), 255, np.uint8))
    assert white.flatten().tolist() == [2.0, 1.0, 0.5]
    assert Preprocess.from_dict(preprocess.to_dict(), size=2) == preprocess
    assert Preprocess.from_dict({}, size=7) == Preprocess(7)


def test_decoders_can_be_sent_it():
    preprocess = Preprocess(32)
    sent = pickle.loads(pickle.dumps(preprocess.pixels))
    np.testing.assert_array_equal(sent(photo(40, 50)), preprocess.pixels(photo(40, 50)))
