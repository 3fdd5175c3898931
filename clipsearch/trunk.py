"""Convolutional trunks, image towers cheap enough for a laptop's CPU.

The architectures are `clipsearch.trunk_blocks.TRUNKS`, as `timm` spells them; parameter names are timm's, so
OpenCLIP opens a model with such a tower through `timm_model_name`.

Every strided convolution pads both sides alike. Image sizes of the form 32 k + 1 (161, 193, 225) keep each
map odd, where that padding and TensorFlow's "SAME" are the same thing, so released TensorFlow weights apply
unchanged.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.model import VisionConfig
from clipsearch.trunk_blocks import FEATURES, STEM, TRUNKS, Block, Kind, Trunk

# timm's BatchNorm2d default.
BN_EPS = 1e-5


def _act(x: Tensor, ceiling: float | None) -> Tensor:
    """ReLU, or ReLU6."""
    return F.relu(x) if ceiling is None else F.hardtanh(x, 0.0, ceiling)


class ConvBnAct(nn.Module):
    """A pointwise convolution, batch norm and ReLU (timm's `cn` block)."""

    conv_bn: ClassVar = (("conv", "bn1"),)

    def __init__(self, block: Block, ceiling: float | None) -> None:
        super().__init__()
        self.ceiling = ceiling
        self.conv = _conv(block.inplanes, block.planes, 1)
        self.bn1 = _norm(block.planes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, C', Y, X)."""
        return _act(self.bn1(self.conv(x)), self.ceiling)


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution and pointwise projection (timm's `ds` block)."""

    conv_bn: ClassVar = (("conv_dw", "bn1"), ("conv_pw", "bn2"))

    def __init__(self, block: Block, ceiling: float | None) -> None:
        super().__init__()
        self.skip, self.ceiling = block.skip, ceiling
        self.conv_dw = _conv(block.inplanes, block.inplanes, block.kernel, block.stride, depthwise=True)
        self.bn1 = _norm(block.inplanes)
        self.conv_pw = _conv(block.inplanes, block.planes, 1)
        self.bn2 = _norm(block.planes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, C', Y / stride, X / stride)."""
        out: Tensor = self.bn2(self.conv_pw(_act(self.bn1(self.conv_dw(x)), self.ceiling)))
        return out + x if self.skip else out


class FusedBottleneck(nn.Module):
    """A full 3x3 expansion and a pointwise projection (timm's `er` block)."""

    conv_bn: ClassVar = (("conv_exp", "bn1"), ("conv_pwl", "bn2"))

    def __init__(self, block: Block, ceiling: float | None) -> None:
        super().__init__()
        self.skip, self.ceiling = block.skip, ceiling
        self.conv_exp = _conv(block.inplanes, block.mid, block.kernel, block.stride)
        self.bn1 = _norm(block.mid)
        self.conv_pwl = _conv(block.mid, block.planes, 1)
        self.bn2 = _norm(block.planes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, C', Y / stride, X / stride)."""
        out: Tensor = self.bn2(self.conv_pwl(_act(self.bn1(self.conv_exp(x)), self.ceiling)))
        return out + x if self.skip else out


class InvertedBottleneck(nn.Module):
    """Pointwise expansion, depthwise convolution, pointwise projection (timm's `ir` block)."""

    conv_bn: ClassVar = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))

    def __init__(self, block: Block, ceiling: float | None) -> None:
        super().__init__()
        self.skip, self.ceiling = block.skip, ceiling
        self.conv_pw = _conv(block.inplanes, block.mid, 1)
        self.bn1 = _norm(block.mid)
        self.conv_dw = _conv(block.mid, block.mid, block.kernel, block.stride, depthwise=True)
        self.bn2 = _norm(block.mid)
        self.conv_pwl = _conv(block.mid, block.planes, 1)
        self.bn3 = _norm(block.planes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, C', Y / stride, X / stride)."""
        wide = _act(self.bn1(self.conv_pw(x)), self.ceiling)
        out: Tensor = self.bn3(self.conv_pwl(_act(self.bn2(self.conv_dw(wide)), self.ceiling)))
        return out + x if self.skip else out


def _conv(inplanes: int, planes: int, kernel: int, stride: int = 1, *, depthwise: bool = False) -> nn.Conv2d:
    groups = planes if depthwise else 1
    return nn.Conv2d(inplanes, planes, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def _norm(planes: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(planes, eps=BN_EPS)


_BLOCKS: dict[Kind, type[nn.Module]] = {
    "cn": ConvBnAct,
    "ds": DepthwiseSeparable,
    "er": FusedBottleneck,
    "ir": InvertedBottleneck,
}


class ConvTrunk(nn.Module):
    """The trunk: images to 1,280 pooled features, at 1/32 of the resolution."""

    num_features = FEATURES
    conv_bn: ClassVar = (("conv_stem", "bn1"), ("conv_head", "bn2"))

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.ceiling = trunk.ceiling
        self.conv_stem = _conv(3, STEM, 3, 2)
        self.bn1 = _norm(STEM)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(*(_BLOCKS[block.kind](block, trunk.ceiling) for block in stage))
                for stage in trunk.stages
            )
        )
        self.conv_head = _conv(trunk.planes, FEATURES, 1)
        self.bn2 = _norm(FEATURES)

    def forward(self, image_NCYX: Tensor) -> Tensor:
        """(N, 3, Y, X) -> (N, 1280)."""
        x = self.blocks(_act(self.bn1(self.conv_stem(image_NCYX)), self.ceiling))
        return _act(self.bn2(self.conv_head(x)), self.ceiling).mean(dim=(2, 3))


class TrunkTower(nn.Module):
    """A convolutional trunk and a projection into the embedding space (OpenCLIP's `TimmModel`)."""

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        assert config.trunk is not None
        self.trunk = ConvTrunk(TRUNKS[config.trunk])
        features = self.trunk.num_features
        head: OrderedDict[str, nn.Module] = OrderedDict()
        if config.trunk_proj == "mlp":
            hidden = 2 * embed_dim
            head["mlp"] = nn.Sequential(
                OrderedDict(
                    fc1=nn.Linear(features, hidden),
                    act=nn.GELU(),
                    fc2=nn.Linear(hidden, embed_dim, bias=False),
                )
            )
        else:
            head["proj"] = nn.Linear(features, embed_dim, bias=False)
        self.head = nn.Sequential(head)

    def forward(self, image_NCYX: Tensor) -> Tensor:
        """(N, 3, Y, X) -> (N, E)."""
        out: Tensor = self.head(self.trunk(image_NCYX))
        return out
