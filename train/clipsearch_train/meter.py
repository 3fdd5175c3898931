"""How fast a run goes: samples a second, the share of waiting for data, time left, what the GPU does."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clipsearch.model import Clip

# The weight of a new step in what is shown, so that the figures can be read.
_SMOOTHING = 0.1
# Dense peak of matrix products in 16 bits, in FLOP/s, from NVIDIA's data sheets. The first name that is part
# of the device's counts.
_PEAKS = (
    ("B200", 2250e12), ("H200", 989.4e12), ("H100 PCIe", 756e12), ("H100", 989.4e12), ("A100", 312e12),
    ("L40S", 362e12), ("L40", 181e12), ("L4", 121e12), ("A10", 125e12), ("A6000", 155e12),
    ("RTX 4090", 165e12), ("RTX 3090", 71e12), ("V100", 125e12), ("T4", 65e12),
)  # fmt: skip


@dataclass(frozen=True)
class Pace:
    """One step: samples a second, and the share of its time that it waited for data."""

    samples_per_s: float
    data_wait: float


class Meter:
    """Times the steps of a run; `flops` are those that a sample takes, on a GPU of `peak` FLOP/s."""

    def __init__(self, batch: int, flops: float = 0.0, peak: float | None = None) -> None:
        self._batch, self._flops, self._peak = batch, flops, peak
        self._begun = self._ended = time.monotonic()
        self._waited = 0.0
        self._seconds: float | None = None
        self._wait_seconds = 0.0
        self._whole: float | None = None

    def waiting(self) -> AbstractContextManager[None]:
        """The body waits for data."""
        return _Timed(self._wait)

    def _wait(self, seconds: float) -> None:
        self._waited += seconds

    def start(self) -> None:
        """A step begins."""
        self._begun, self._waited = time.monotonic(), 0.0

    def stop(self) -> Pace:
        """The step has ended."""
        now = time.monotonic()
        seconds = max(now - self._begun, 1e-9)
        self._seconds = _smoothed(self._seconds, seconds)
        self._wait_seconds = _smoothed(self._wait_seconds if self._whole else None, self._waited)
        # With evaluations and checkpoints, for the time that is left.
        self._whole = _smoothed(self._whole, now - self._ended)
        self._ended = now
        return Pace(self._batch / seconds, self._waited / seconds)

    def told(self, steps_left: int) -> str:
        """`1,234 samples/s, 1% waiting for data, 0:12:00 left`, and what the GPU does."""
        seconds = self._seconds or 1e-9
        rate = self._batch / seconds
        parts = [f"{rate:,.0f} samples/s" if rate >= 10 else f"{rate:.2f} samples/s"]
        if self._flops:
            done = rate * self._flops
            share = f" ({done / self._peak:.1%} MFU)" if self._peak else ""
            parts.append(f"{done / 1e12:,.1f} TFLOP/s{share}")
        parts.append(f"{self._wait_seconds / seconds:.0%} waiting for data")
        parts.append(f"{timedelta(seconds=round((self._whole or 0) * steps_left))} left")
        return ", ".join(parts)


class _Timed(AbstractContextManager[None]):
    def __init__(self, heard: Callable[[float], None]) -> None:
        self._heard = heard

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, *_: Any) -> None:
        self._heard(time.monotonic() - self._begun)


def _smoothed(old: float | None, new: float) -> float:
    return new if old is None else old + _SMOOTHING * (new - old)


def peak_flops(device_name: str) -> float | None:
    """What a GPU could do at most in 16 bits, in FLOP/s; None for one that is not known."""
    return next((peak for name, peak in _PEAKS if name in device_name), None)


def training_flops(model: Clip, device: torch.device, crop_size: int = 0) -> float:
    """Floating-point operations to learn from one image and one text of full length.

    `crop_size` is the image's edge in pixels; 0 is the model's.

    Three times the forward pass's matrix products: the backward pass takes twice as many. What is computed
    again to save memory does not count, as in PaLM's model FLOPs utilisation (arXiv 2204.02311, appendix B).
    """
    size, text = crop_size or model.config.vision.image_size, model.config.text
    pixels = torch.zeros(1, 3, size, size, device=device)
    # The end of text, the highest id, is at the very end.
    tokens = torch.zeros(1, text.context_length, dtype=torch.int64, device=device)
    tokens[0, -1] = text.vocab_size - 1
    training = model.training
    # The counter does not know every fused kernel of attention, but the products in the plain one.
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        model.eval()
        model.encode_image(pixels)
        model.encode_text(tokens)
    model.train(training)
    return 3.0 * float(counter.get_total_flops())
