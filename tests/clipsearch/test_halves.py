import numpy as np
import torch

from clipsearch.halves import from_bfloat16, from_halves

EVERY = np.arange(1 << 16, dtype=np.uint16)


def test_every_half_is_widened_exactly() -> None:
    halves = EVERY.view(np.float16)
    for one in (halves, halves.reshape(256, 256), halves[np.isfinite(halves)], halves[::3], halves[:0]):
        wide = from_halves(one)
        assert wide.dtype == np.float32
        assert wide.shape == one.shape
        np.testing.assert_array_equal(wide, one.astype(np.float32))
    assert np.signbit(from_halves(np.array([-0.0], np.float16))[0])


def test_blocks_are_told_apart() -> None:
    halves = np.full(700_000, 0.1, np.float16)
    halves[300_000] = np.inf  # only its block goes the slow way
    np.testing.assert_array_equal(from_halves(halves), halves.astype(np.float32))


def test_every_bfloat16_is_widened_exactly() -> None:
    wanted = torch.from_numpy(EVERY.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(from_bfloat16(EVERY.reshape(4, -1)), wanted.reshape(4, -1))
