"""The blocks of MobileNet-EdgeTPU 1.0, from the first to the last: what both builders of the trunk go by.

timm's `mobilenet_edgetpu_100`; parameter names are `trunk.blocks.{stage}.{block}.…`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

STEM = 32
"""Channels after the first convolution, which is of 3 × 3 and stride 2."""
FEATURES = 1280
"""Channels of the last one."""


@dataclass(frozen=True)
class Block:
    """One block.

    `kind` is timm's: "cn" a pointwise convolution; "er" a full convolution and a pointwise one; "ir" a
    pointwise, a depthwise and a pointwise one. `skip`: what comes in is added to what comes out.
    """

    kind: Literal["cn", "er", "ir"]
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


def _stage(kind: Literal["er", "ir"], inplanes: int, planes: int, kernel: int, stride: int) -> list[Block]:
    # The first block of a stage never has a skip, not even where shapes would allow one.
    first = Block(kind, inplanes, planes, kernel, stride, expansion=8)
    return [first, *[Block(kind, planes, planes, kernel, 1, expansion=4, skip=True)] * 3]


STAGES: tuple[list[Block], ...] = (
    [Block("cn", STEM, 16)],
    _stage("er", 16, 32, kernel=3, stride=2),
    _stage("er", 32, 48, kernel=3, stride=2),
    _stage("ir", 48, 96, kernel=3, stride=2),
    _stage("ir", 96, 96, kernel=3, stride=1),
    _stage("ir", 96, 160, kernel=5, stride=2),
    [Block("ir", 160, 192, kernel=3, expansion=8)],
)
