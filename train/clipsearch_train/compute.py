"""What a run computes with: the device, its precision, and how a batch is fitted into memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipsearch.devices import cpu_has_bf16
from clipsearch.errors import UsageError
from clipsearch.model import Clip

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """The machine's side of a recipe; none of it changes what is learnt, but for rounding.

    `device` is "auto" (CUDA where there is one) or a torch device. `precision` is what the towers multiply
    in: "bf16", "fp16" (CUDA only), "fp32", or "auto", the best that the device has in hardware. `accumulate`
    is how many pieces a batch goes through the towers in; the loss still sees all of it. `checkpointing`
    recomputes the transformers' activations instead of keeping them; `compile` is torch.compile.
    """

    device: str = "auto"
    precision: str = "auto"
    accumulate: int = 1
    checkpointing: bool = False
    compile: bool = False


def check_compute(compute: Compute, batch: int, where: str) -> None:
    """Raise UsageError for settings that are not possible on any machine."""
    if compute.precision not in ("auto", *PRECISIONS):
        known = ", ".join(repr(name) for name in ("auto", *PRECISIONS))
        raise UsageError(f"{where}: compute: precision must be one of {known}, not {compute.precision!r}.")
    if compute.accumulate < 1 or batch % compute.accumulate:
        raise UsageError(
            f"{where}: compute: accumulate must divide the batch; {batch} is not a multiple of "
            f"{compute.accumulate}."
        )


def check_share(compute: Compute, batch: int, processes: int) -> None:
    """Raise UsageError where a batch cannot be dealt out evenly to all processes and pieces."""
    if batch % (processes * compute.accumulate):
        raise UsageError(
            f"A batch of {batch} cannot be dealt out evenly to {processes} processes"
            + (f" in {compute.accumulate} pieces each" if compute.accumulate > 1 else "")
            + f"; make it a multiple of {processes * compute.accumulate}."
        )


def pick_device(name: str) -> torch.device:
    """The named device, or CUDA where there is one, else the CPU. Raises UsageError where it is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"There is no device {name!r} for torch on this machine.") from error
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The type that matrices are multiplied in on a device; None is single precision throughout.

    Raises UsageError for one that the device cannot train with.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if _cuda_has_bf16() else torch.float16
        return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else None
    if name == "fp16" and device.type != "cuda":
        raise UsageError(
            f'compute.precision = "fp16" needs a CUDA device, and this run is on {device.type!r}; '
            'take "bf16" or "fp32".'
        )
    if name == "bf16" and device.type == "cuda" and not _cuda_has_bf16():
        raise UsageError('This GPU does not compute in bfloat16; take compute.precision = "fp16" or "fp32".')
    return PRECISIONS[name]


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """The body multiplies matrices in `dtype`; None is single precision throughout."""
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def _cuda_has_bf16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def compile_towers(model: Clip, device: torch.device) -> None:
    """Let torch.compile have the towers. Raises UsageError where it does not work."""
    try:
        # Its back end looks for a C++ compiler or Triton only when something is compiled.
        torch.compile(_probe)(torch.zeros(2, device=device))
    except Exception as error:  # whatever goes wrong inside a compiler
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"torch.compile does not work on this machine ({reason}); it needs a C++ compiler on a CPU and "
            "Triton on a GPU. Set compute.compile = false."
        ) from error
    model.visual.compile()
    # The longest text differs from batch to batch.
    model.transformer.compile(dynamic=True)


def _probe(x: Tensor) -> Tensor:
    return x.sin() + 1
