"""What a run says of its speed, with a clock set by hand."""

import pytest
import torch

from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch_train import meter
from clipsearch_train.meter import Meter, peak_flops, training_flops


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter, "time", clock)
    return clock


def step(measured: Meter, clock: Clock, waited: float, worked: float) -> meter.Pace:
    measured.start()
    with measured.waiting():
        clock.now += waited
    clock.now += worked
    return measured.stop()


def test_samples_a_second_waiting_and_time_left(clock: Clock) -> None:
    measured = Meter(batch=64)
    pace = step(measured, clock, waited=0.4, worked=1.6)
    assert (pace.samples_per_s, pace.data_wait) == (32.0, pytest.approx(0.2))
    assert measured.told(30) == "32 samples/s, 20% waiting for data, 0:01:00 left"
    clock.now += 18  # an evaluation, which is time as well
    pace = step(measured, clock, waited=0.0, worked=2.0)
    assert (pace.samples_per_s, pace.data_wait) == (32.0, 0.0)
    # What is shown moves by a tenth of what is new: 2 s a step, then 20.
    assert measured.told(10) == "32 samples/s, 18% waiting for data, 0:00:38 left"


def test_what_a_gpu_does_of_what_it_could(clock: Clock) -> None:
    measured = Meter(batch=100, flops=2e12, peak=peak_flops("NVIDIA H100 80GB HBM3"))
    step(measured, clock, waited=0.0, worked=0.5)
    assert measured.told(0) == ("200 samples/s, 400.0 TFLOP/s (40.4% MFU), 0% waiting for data, 0:00:00 left")
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("a GPU of next year") is None


def test_operations_are_those_of_the_matrix_products() -> None:
    """Counted by hand: 2 for each multiplication that is summed, three times the forward pass."""
    model = Clip(ClipConfig(8, VisionConfig(32, 3, 16, 16, 8), TextConfig(12, 600, 32, 2, 2)))

    def transformer(tokens: int, width: int, layers: int) -> int:
        linear = 12 * tokens * width**2  # queries, keys, values, output, and four times the width and back
        attention = 2 * tokens**2 * width
        return 2 * layers * (linear + attention)

    patches = 2 * 4 * 16 * (3 * 16 * 16)
    # The last block gives the class token alone: only keys and values are those of all tokens.
    last = 2 * (10 * 16**2 + 2 * 5 * 16**2 + 2 * 5 * 16)
    image = patches + transformer(5, 16, 2) + last + 2 * 16 * 8
    text = transformer(12, 32, 2) + 2 * 32 * 8
    assert training_flops(model, torch.device("cpu")) == 3 * (image + text)
    assert model.training, "as it was"
