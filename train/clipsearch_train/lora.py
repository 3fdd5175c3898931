"""Low-rank adapters: fine-tuning that learns a small change to each weight and nothing else.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685: a frozen weight W
becomes W + (alpha / r) B A, where A has r rows and B, which starts at zero, r columns. Convolutions are taken
as matrices of outputs × (inputs · kernel). `plain` adds the change to the weights, so what is saved is an
ordinary model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clipsearch.model import Attention, Clip

TRAINING_ONLY = "distillation"
"""The name of a part of a model in training that does not belong to the model."""
BIAS = "logit_bias"
"""The sigmoid loss's bias, which does not either: search compares cosines."""


class LowRank(nn.Module):
    """A weight plus a change of rank r."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        outputs, inputs = weight.shape[0], weight[0].numel()
        rank = min(rank, outputs, inputs)
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, inputs))  # A
        self.up = nn.Parameter(torch.zeros(outputs, rank))  # B
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as loralib, §4.1 of the paper

    def forward(self, weight: Tensor) -> Tensor:
        """W -> W + alpha / r · B A."""
        return weight + self.scale * (self.up @ self.down).view_as(weight)


def adapt(tower: nn.Module, rank: int, alpha: float) -> None:
    """Freeze the weights below `tower` and give every matrix and ungrouped convolution an adapter."""
    for parameter in tower.parameters():
        parameter.requires_grad_(False)
    for module in list(tower.modules()):
        name = _adapted(module)
        if name is not None:
            weight = getattr(module, name)
            parametrize.register_parametrization(module, name, LowRank(weight, rank, alpha))


def _adapted(module: nn.Module) -> str | None:
    """The weight of a module that gets an adapter."""
    if isinstance(module, Attention):
        return "in_proj_weight"
    if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
        return "weight"
    return None


@torch.no_grad()
def plain(model: Clip) -> Clip:
    """The model without what only training needs: adapters added to their weights; in evaluation mode."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(f"{TRAINING_ONLY}.") or name == BIAS:
            continue
        owner, found, rest = name.partition(".parametrizations.")
        if not found:
            tensors[name] = tensor
        elif rest.endswith(".original"):
            weight = rest.removesuffix(".original")
            tensors[f"{owner}.{weight}"] = getattr(model.get_submodule(owner), weight).detach()
    with torch.device("meta"):
        out = Clip(model.config)
    out.load_state_dict(tensors, assign=True)
    return out.eval().requires_grad_(False)
