import numpy as np
import pytest
from PIL import Image

from clipsearch.errors import UsageError
from clipsearch_train.evaluation.shifts import EDGE, NOISES, SHIFTS, Shift, shifts_named


def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8))
    return coarse.resize((300, 250), Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def crop() -> np.ndarray:
    from clipsearch.preprocess import Preprocess

    return Preprocess(EDGE).pixels(picture()).astype(np.float64)


EVERY = [Shift(name, severity) for name, (_, most) in SHIFTS.items() for severity in range(1, most + 1)]


@pytest.mark.parametrize("shift", EVERY, ids=str)
def test_every_shift_changes_the_picture_and_does_so_again(shift: Shift) -> None:
    once, again = shift.apply(picture(), "key"), shift.apply(picture(), "key")
    assert (once.size, once.mode) == ((EDGE, EDGE), "RGB")
    assert np.array_equal(pixels(once), pixels(again))
    assert np.abs(pixels(once) - crop()).mean() > 0.5


@pytest.mark.parametrize("name", [name for name, (_, most) in SHIFTS.items() if most == 5])
def test_a_severer_shift_is_further_from_the_picture(name: str) -> None:
    distances = [np.abs(pixels(Shift(name, s).apply(picture(), "k")) - crop()).mean() for s in range(1, 6)]
    assert distances == sorted(distances)
    assert distances[4] > 1.3 * distances[0]


@pytest.mark.parametrize("severity", [1, 3])
def test_noise_has_the_stated_deviation(severity: int) -> None:
    grey = Image.new("RGB", (EDGE, EDGE), (128, 128, 128))
    noisy = pixels(Shift("noise", severity).apply(grey, "k")) / 255
    # Grey lies 1.3 deviations or more from black and white: little is cut.
    assert noisy.std() == pytest.approx(NOISES[severity - 1], rel=0.03)


def test_noise_is_drawn_from_seed_and_key() -> None:
    grey = Image.new("RGB", (EDGE, EDGE), (128, 128, 128))
    drawn = [pixels(Shift("noise").apply(grey, key, seed)) for key, seed in (("a", 0), ("b", 0), ("a", 1))]
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_grayscale_resolution_and_sketch_by_hand() -> None:
    halves = np.zeros((EDGE, EDGE, 3), np.uint8)
    halves[:, EDGE // 2 :] = (255, 0, 0)
    image = Image.fromarray(halves)
    grey = pixels(Shift("grayscale").apply(image, "k"))
    assert np.unique(grey).tolist() == [0, 76]  # ITU-R 601: 0.299 of red
    coarse = pixels(Shift("resolution", 5).apply(image, "k"))  # cells of 4 × 4
    assert all(
        (coarse[row, col : col + 4] == coarse[row, col]).all() for row in (0, 99) for col in (0, 100, 220)
    )
    drawn = pixels(Shift("sketch").apply(image, "k"))[100, :, 0]
    assert drawn[EDGE // 2 - 2 : EDGE // 2].min() == 0  # a line on the dark side of the edge
    assert (drawn[: EDGE // 2 - 12] == 255).all()
    assert (drawn[EDGE // 2 + 1 :] == 255).all()


def test_shifts_by_name() -> None:
    assert shifts_named(["blur", "sketch"], [1, 5]) == (Shift("blur", 1), Shift("blur", 5), Shift("sketch"))
    assert len(shifts_named(["all"], [3])) == len(SHIFTS)
    assert shifts_named([], [3]) == ()
    assert [str(shift) for shift in shifts_named(["jpeg", "grayscale"], [2])] == ["jpeg 2", "grayscale"]


def test_shifts_that_are_not_there() -> None:
    with pytest.raises(UsageError, match=r"no shift 'fog'; there are blur, noise"):
        shifts_named(["fog"], [3])
    with pytest.raises(UsageError, match="blur has severities 1 to 5, not 6"):
        shifts_named(["blur"], [6])
    with pytest.raises(UsageError, match="sketch has one severity only, not 2"):
        Shift("sketch", 2)


def test_noise_for_a_name_that_is_not_utf_8() -> None:
    image = Image.new("RGB", (40, 30), "red")
    [noise] = shifts_named(["noise"], [3])
    assert noise.apply(image, "caf\udce9.jpg").size == noise.apply(image, "cafe.jpg").size
