"""The convolutional trunks there are, block by block: what all builders of one go by.

Parameter names are timm's, `trunk.blocks.{stage}.{block}.…`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["cn", "ds", "er", "ir"]
FEATURES = 1280
"""Channels of the last convolution of every trunk, which are pooled."""
STEM = 32
"""Channels after the first convolution of every trunk, which is of 3 × 3 and stride 2."""


@dataclass(frozen=True)
class Block:
    """One block.

    `kind` is timm's: "cn" a pointwise convolution; "ds" a depthwise convolution and a pointwise one; "er" a
    full convolution and a pointwise one; "ir" a pointwise, a depthwise and a pointwise one. `skip`: what
    comes in is added to what comes out.
    """

    kind: Kind
    inplanes: int
    planes: int
    kernel: int = 1
    stride: int = 1
    expansion: int = 1
    skip: bool = False

    @property
    def mid(self) -> int:
        """Channels inside."""
        return self.inplanes * self.expansion


@dataclass(frozen=True)
class Trunk:
    """A network: its stages of blocks; `ceiling` is where its activations end (ReLU6), None for a ReLU."""

    stages: tuple[list[Block], ...]
    ceiling: float | None = None

    @property
    def planes(self) -> int:
        """Channels after the last block."""
        return self.stages[-1][-1].planes


def _edgetpu(kind: Kind, inplanes: int, planes: int, kernel: int, stride: int) -> list[Block]:
    # The first block of a stage never has a skip, not even where shapes would allow one.
    first = Block(kind, inplanes, planes, kernel, stride, expansion=8)
    return [first, *[Block(kind, planes, planes, kernel, 1, expansion=4, skip=True)] * 3]


def _lite(inplanes: int, planes: int, kernel: int, stride: int, count: int) -> list[Block]:
    first = Block("ir", inplanes, planes, kernel, stride, expansion=6)
    return [first, *[Block("ir", planes, planes, kernel, 1, expansion=6, skip=True)] * (count - 1)]


TRUNKS: dict[str, Trunk] = {
    # Google's MobileNet-EdgeTPU 1.0 (Gupta & Akin 2020, "Accelerator-aware neural network design using
    # AutoML", arXiv 2003.02838).
    "mobilenet_edgetpu_100": Trunk(
        (
            [Block("cn", STEM, 16)],
            _edgetpu("er", 16, 32, kernel=3, stride=2),
            _edgetpu("er", 32, 48, kernel=3, stride=2),
            _edgetpu("ir", 48, 96, kernel=3, stride=2),
            _edgetpu("ir", 96, 96, kernel=3, stride=1),
            _edgetpu("ir", 96, 160, kernel=5, stride=2),
            [Block("ir", 160, 192, kernel=3, expansion=8)],
        )
    ),
    # EfficientNet-Lite2 (Liu et al. 2020; EfficientNet: Tan & Le 2019, arXiv 1905.11946): B2 with one block
    # in its first and last stage, 1,280 features, ReLU6, and without squeeze-and-excitation.
    "efficientnet_lite2": Trunk(
        (
            [Block("ds", STEM, 16, kernel=3)],
            _lite(16, 24, kernel=3, stride=2, count=3),
            _lite(24, 48, kernel=5, stride=2, count=3),
            _lite(48, 88, kernel=3, stride=2, count=4),
            _lite(88, 120, kernel=5, stride=1, count=4),
            _lite(120, 208, kernel=5, stride=2, count=5),
            [Block("ir", 208, 352, kernel=3, expansion=6)],
        ),
        ceiling=6.0,
    ),
}
"""By timm's names."""
