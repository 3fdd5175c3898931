"""MobileNet-EdgeTPU, a convolutional image tower cheap enough for a laptop's CPU.

The architecture is Google's MobileNet-EdgeTPU 1.0 (Gupta & Akin 2020, "Accelerator-aware neural network
design using AutoML", arXiv 2003.02838) as `timm` spells it (`mobilenet_edgetpu_100`); parameter names are
timm's, so OpenCLIP opens a model with this tower through `timm_model_name`.

Every strided convolution pads both sides alike. Image sizes of the form 32 k + 1 (161, 193, 225) keep each
map odd, where that padding and TensorFlow's "SAME" are the same thing, so released TensorFlow weights apply
unchanged.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.mobilenet_blocks import FEATURES, STAGES, STEM, Block
from clipsearch.model import VisionConfig

# timm's BatchNorm2d default.
BN_EPS = 1e-5


class ConvBnAct(nn.Module):
    """A pointwise convolution, batch norm and ReLU (timm's `cn` block)."""

    conv_bn: ClassVar = (("conv", "bn1"),)

    def __init__(self, inplanes: int, planes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, C', Y, X)."""
        return F.relu(self.bn1(self.conv(x)))


class FusedBottleneck(nn.Module):
    """A full 3x3 expansion and a pointwise projection (timm's `er` block)."""

    conv_bn: ClassVar = (("conv_exp", "bn1"), ("conv_pwl", "bn2"))

    def __init__(self, block: Block) -> None:
        super().__init__()
        mid, planes = block.mid, block.planes
        self.skip = block.skip
        self.conv_exp = nn.Conv2d(block.inplanes, mid, 3, stride=block.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(mid, eps=BN_EPS)
        self.conv_pwl = nn.Conv2d(mid, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, C', Y / stride, X / stride)."""
        out: Tensor = self.bn2(self.conv_pwl(F.relu(self.bn1(self.conv_exp(x)))))
        return out + x if self.skip else out


class InvertedBottleneck(nn.Module):
    """Pointwise expansion, depthwise convolution, pointwise projection (timm's `ir` block)."""

    conv_bn: ClassVar = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))

    def __init__(self, block: Block) -> None:
        super().__init__()
        mid, planes, kernel = block.mid, block.planes, block.kernel
        self.skip = block.skip
        self.conv_pw = nn.Conv2d(block.inplanes, mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(mid, eps=BN_EPS)
        self.conv_dw = nn.Conv2d(
            mid, mid, kernel, stride=block.stride, padding=kernel // 2, groups=mid, bias=False
        )
        self.bn2 = nn.BatchNorm2d(mid, eps=BN_EPS)
        self.conv_pwl = nn.Conv2d(mid, planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, C', Y / stride, X / stride)."""
        mid = F.relu(self.bn2(self.conv_dw(F.relu(self.bn1(self.conv_pw(x))))))
        out: Tensor = self.bn3(self.conv_pwl(mid))
        return out + x if self.skip else out


class MobileNetEdgeTPU(nn.Module):
    """The trunk: images to 1,280 pooled features, at 1/32 of the resolution."""

    num_features = FEATURES
    conv_bn: ClassVar = (("conv_stem", "bn1"), ("conv_head", "bn2"))

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, STEM, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM, eps=BN_EPS)
        self.blocks = nn.Sequential(*(nn.Sequential(*map(_block, stage)) for stage in STAGES))
        self.conv_head = nn.Conv2d(192, self.num_features, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(self.num_features, eps=BN_EPS)

    def forward(self, image_NCYX: Tensor) -> Tensor:
        """(N, 3, Y, X) -> (N, 1280)."""
        x = self.blocks(F.relu(self.bn1(self.conv_stem(image_NCYX))))
        return F.relu(self.bn2(self.conv_head(x))).mean(dim=(2, 3))


def _block(block: Block) -> nn.Module:
    if block.kind == "cn":
        return ConvBnAct(block.inplanes, block.planes)
    return FusedBottleneck(block) if block.kind == "er" else InvertedBottleneck(block)


class TrunkTower(nn.Module):
    """A convolutional trunk and a projection into the embedding space (OpenCLIP's `TimmModel`)."""

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        self.trunk = MobileNetEdgeTPU()
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
