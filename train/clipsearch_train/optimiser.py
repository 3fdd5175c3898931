"""AdamW without decay on gains and biases, a cosine schedule with warm-up, and an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clipsearch.model import Clip
from clipsearch_train import recipe as recipes


def make_optimiser(model: Clip, config: recipes.Optim) -> torch.optim.AdamW:
    """Four groups, each with its peak rate: with and without decay (paper §2.5), image tower and the rest."""
    groups: list[dict[str, Any]] = []
    for visual in (True, False):
        named = [
            (name, p)
            for name, p in model.named_parameters()
            if name.startswith("visual.") == visual and p.requires_grad
        ]
        lr = config.image_lr if visual and config.image_lr is not None else config.lr
        for decayed in (True, False):
            chosen = [p for name, p in named if (p.ndim >= 2 and "embedding" not in name) == decayed]
            if chosen:
                decay = config.weight_decay if decayed else 0.0
                groups.append({"params": chosen, "lr": lr, "peak_lr": lr, "weight_decay": decay})
    return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps)


def set_rates(optimiser: torch.optim.Optimizer, step: int, config: recipes.Optim) -> float:
    """Linear warm-up, then a cosine to zero (paper §2.5); returns the factor of the peak rate."""
    if step < config.warmup:
        factor = (step + 1) / config.warmup
    else:
        done = (step - config.warmup) / max(1, config.steps - config.warmup)
        factor = 0.5 * (1 + math.cos(math.pi * done))
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return factor


class WeightAverage:
    """An exponential moving average of a model's tensors; a warm-up keeps early steps from lingering."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after a step."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - decay)
            else:
                self.tensors[name].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        """The averaged tensors by name."""
        return self.tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from averaged tensors. Raises KeyError for those of another model."""
        self.tensors = {name: tensors[name] for name in self.tensors}
