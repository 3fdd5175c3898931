"""AdamW without decay on gains and biases, rates that fall layer by layer, and an average of the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clipsearch.model import Clip
from clipsearch_train import recipe as recipes
from clipsearch_train.schedule import rate_factor

# The first group that matched is the number of the layer, from 0 but for ResNet's stages, which count from 1.
_LAYER = re.compile(r"(?:visual\.)?(?:transformer\.resblocks\.|trunk\.blocks\.|layer)(\d+)\.")
_INPUT = (
    "visual.conv",
    "visual.bn",
    "visual.class_embedding",
    "visual.positional_embedding",
    "visual.ln_pre",
    "visual.trunk.conv_stem",
    "visual.trunk.bn1",
    "token_embedding",
    "positional_embedding",
)


def make_optimiser(model: Clip, config: recipes.Optim) -> torch.optim.AdamW:
    """Groups, each with its peak rate: with and without decay (paper §2.5), image tower and the rest, layers.

    The rate of a layer is `layer_decay` to the power of its distance from the top of its tower (BEiT: Bao et
    al. 2022, arXiv 2106.08254, §3.2).
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    depths = {name: _depth(name) for name, _ in named}
    tops = {
        visual: 1
        + max((d for name, d in depths.items() if d is not None and _visual(name) == visual), default=0)
        for visual in (True, False)
    }
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        depth, top = depths[name], tops[_visual(name)]
        below = 0 if depth is None or config.layer_decay == 1 else top - depth
        decayed = parameter.ndim >= 2 and (config.decay_embeddings or "embedding" not in name)
        groups.setdefault((not _visual(name), below, not decayed), []).append(parameter)
    settings: list[dict[str, Any]] = []
    for (rest, below, undecayed), parameters in sorted(groups.items(), key=lambda item: item[0]):
        peak = config.lr if rest or config.image_lr is None else config.image_lr
        lr = peak * config.layer_decay**below
        decay = 0.0 if undecayed else config.weight_decay
        settings.append({"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay})
    return torch.optim.AdamW(settings, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def _visual(name: str) -> bool:
    return name.startswith("visual.")


def _depth(name: str) -> int | None:
    """How many layers lie below a parameter's; None for what is above all of them."""
    found = _LAYER.match(name)
    if found is not None:
        # Stages of a ResNet are numbered from 1, as what lies above the input.
        return int(found[1]) if ".layer" in name else int(found[1]) + 1
    return 0 if name.startswith(_INPUT) else None


def set_rates(optimiser: torch.optim.Optimizer, step: int, config: recipes.Optim) -> float:
    """Give every group its rate at a step; returns what has become of `lr`."""
    factor = rate_factor(step, config)
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return config.lr * factor


class WeightAverage:
    """An exponential moving average of a model's tensors; a warm-up keeps early steps from lingering."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after a step."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        tensors: list[Tensor] = []
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                averages.append(self.tensors[name])
                tensors.append(tensor)
            else:
                self.tensors[name].copy_(tensor)
        torch._foreach_lerp_(averages, tensors, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The averaged tensors by name."""
        return self.tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from averaged tensors. Raises KeyError for those of another model."""
        self.tensors = {name: tensors[name].to(own.device) for name, own in self.tensors.items()}
