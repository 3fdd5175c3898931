"""The optimiser's part of a recipe, and the course of its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clipsearch.errors import UsageError

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Optim:
    """AdamW (paper tables 18 to 20); `steps` are the optimiser's, `batch` counts pairs of all processes.

    After `warmup` steps of a linear rise the rate follows a cosine to zero, or with `schedule = "constant"`
    stays, and falls linearly to zero in the last `cooldown` steps. `image_lr` is the image tower's peak rate,
    `layer_decay` the factor from each layer to the one before it. Gains, biases and the logit scale never
    decay (paper §2.5), embeddings of tokens and places with `decay_embeddings`, as the paper's do.
    `clip_norm` is the longest gradient (0: any), `ema` the decay of the average of the weights (0: none).
    """

    steps: int = 1000
    batch: int = 128
    extra_texts: int = 0
    lr: float = 5e-4
    image_lr: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.2
    decay_embeddings: bool = False
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    schedule: str = "cosine"
    warmup: int = 100
    cooldown: int = 0
    clip_norm: float = 1.0
    ema: float = 0.0


MOST = 10**12
"""Of what is counted: more is a slip of the finger."""


def check_optim(optim: Optim, where: str) -> None:
    """Raise UsageError for a value that makes no sense, named by its key."""
    least: dict[str, tuple[float, float]] = {
        "steps": (optim.steps, 0),
        "batch": (optim.batch, 2),
        "extra_texts": (optim.extra_texts, 0),
        "lr": (optim.lr, 0),
        "image_lr": (optim.lr if optim.image_lr is None else optim.image_lr, 0),
        "weight_decay": (optim.weight_decay, 0),
        "eps": (optim.eps, 0),
        "warmup": (optim.warmup, 0),
        "cooldown": (optim.cooldown, 0),
        "clip_norm": (optim.clip_norm, 0),
    }
    for key, (value, bound) in least.items():
        if not bound <= value < math.inf:  # "not <=" also refuses nan, which TOML can say
            raise UsageError(f"{where}: optim: {key} must be a number from {bound} on, not {value}.")
    for key in ("steps", "batch", "extra_texts", "warmup", "cooldown"):
        if getattr(optim, key) > MOST:
            raise UsageError(f"{where}: optim: {key} must be at most {MOST:,}, not {getattr(optim, key)}.")
    for key, value in {"ema": optim.ema, "layer_decay": optim.layer_decay}.items():
        if not 0 <= value <= 1:
            raise UsageError(f"{where}: optim: {key} must be between 0 and 1, not {value}.")
    for key, value in {"beta1": optim.beta1, "beta2": optim.beta2}.items():
        if not 0 <= value < 1:
            raise UsageError(f"{where}: optim: {key} must be from 0 to under 1, not {value}.")
    if optim.schedule not in SCHEDULES:
        raise UsageError(f"{where}: optim: schedule must be 'cosine' or 'constant', not {optim.schedule!r}.")
    if optim.cooldown and optim.schedule != "constant":
        raise UsageError(
            f"{where}: optim: cooldown is for schedule = 'constant'; a cosine ends at zero anyway."
        )
    if optim.cooldown and optim.warmup + optim.cooldown > optim.steps:
        raise UsageError(
            f"{where}: optim: warmup and cooldown are {optim.warmup + optim.cooldown} steps, "
            f"more than the {optim.steps} of the run."
        )


def rate_factor(step: int, optim: Optim) -> float:
    """The share of its peak that a rate has at a step, counted from 0.

    Linear warm-up, then a cosine to zero (paper §2.5), or a constant with a linear cool-down (Zhai et al.
    2022, arXiv 2106.04560, §3.5), which lets a run be prolonged from any checkpoint before it.
    """
    if step < optim.warmup:
        return (step + 1) / optim.warmup
    if optim.schedule == "constant":
        return min(1.0, (optim.steps - step) / (optim.cooldown + 1))
    done = (step - optim.warmup) / max(1, optim.steps - optim.warmup)
    return 0.5 * (1 + math.cos(math.pi * done))
