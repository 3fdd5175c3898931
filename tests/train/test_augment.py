import numpy as np
import pytest
from PIL import Image

from clipsearch_train.augment import augmented, random_box, reworded
from clipsearch_train.recipe_data import Data


def ramp(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.arange(width)
    pixels[:, :, 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


def view(
    image: Image.Image, seed: int = 0, size: int = 20, squash: bool = False, **settings: object
) -> np.ndarray:
    return augmented(image, (size,), Data(**settings), squash, np.random.default_rng(seed))[0]  # type: ignore[arg-type]


def test_crops_are_square_within_bounds_and_reproducible() -> None:
    image = ramp(60, 40)
    crops = [view(image, seed, min_crop=0.25) for seed in range(20)]
    assert all(crop.shape == (20, 20, 3) for crop in crops)
    widths = {int(crop[:, -1, 0].max()) - int(crop[:, 0, 0].min()) for crop in crops}
    assert 15 <= min(widths) < max(widths) <= 40
    assert (view(image, 3, min_crop=0.25) == crops[3]).all()
    assert (view(ramp(40, 40), size=40, min_crop=1.0) == np.asarray(ramp(40, 40))).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (64, 64)])
@pytest.mark.parametrize("squash", [False, True])
def test_boxes_lie_within_images_of_any_shape(size: tuple[int, int], squash: bool) -> None:
    for seed in range(50):
        left, top, right, bottom = random_box(size, 0.1, 1.5, squash, np.random.default_rng(seed))
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_sides_differ_by_no_more_than_the_aspect() -> None:
    ratios = []
    for seed in range(200):
        left, top, right, bottom = random_box((400, 400), 0.3, 4 / 3, False, np.random.default_rng(seed))
        ratios.append((right - left) / (bottom - top))
    assert 0.74 < min(ratios) < 0.85
    assert 1.2 < max(ratios) < 1.35


def test_a_squashed_model_sees_the_whole_image() -> None:
    whole = view(ramp(200, 50), min_crop=1.0, squash=True)
    assert whole[:, -1, 0].min() > 190
    assert whole[-1, :, 1].min() > 45


def test_flips_are_off_unless_asked_for() -> None:
    directions = {
        flip: [
            bool((crop := view(ramp(60, 60), seed, flip=flip))[0, 0, 0] > crop[0, -1, 0])
            for seed in range(40)
        ]
        for flip in (False, True)
    }
    assert not any(directions[False])
    assert 8 < sum(directions[True]) < 32


def test_all_sizes_show_the_same() -> None:
    settings = Data(min_crop=0.2, flip=True, jitter=0.3, grayscale=0.3, low_res=0.3)
    for seed in range(10):
        small, large = augmented(ramp(200, 200), (32, 96), settings, False, np.random.default_rng(seed))
        shrunk = np.asarray(Image.fromarray(large).resize((32, 32), Image.Resampling.BOX), dtype=float)
        assert np.abs(shrunk - small).mean() < 4


def test_colours_change_where_asked() -> None:
    image = Image.new("RGB", (30, 30), (200, 60, 20))
    grey = [view(image, seed, grayscale=0.5) for seed in range(40)]
    assert 8 < sum(bool((one[..., 0] == one[..., 1]).all()) for one in grey) < 32
    assert len({one.tobytes() for one in (view(image, seed, jitter=0.4) for seed in range(10))}) == 10
    assert (view(image) == (200, 60, 20)).all()


def test_words() -> None:
    caption = "A dog runs. It is wet! Is it happy?"
    rngs = [np.random.default_rng(seed) for seed in range(60)]
    assert {reworded(caption, Data(), rng) for rng in rngs} == {caption}
    one = {reworded(caption, Data(one_sentence=1.0), rng) for rng in rngs}
    assert one == {"A dog runs.", "It is wet!", "Is it happy?"}
    fewer = [reworded(caption, Data(drop_words=0.5), rng).split() for rng in rngs]
    assert 3 < np.mean([len(words) for words in fewer]) < 6
    assert all(words and set(words) <= set(caption.split()) for words in fewer)
    assert reworded("dog", Data(drop_words=1.0), rngs[0]) == "dog"
