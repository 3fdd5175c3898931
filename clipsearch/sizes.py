"""Sizes of a CLIP model, all that its towers are built from."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class VisionConfig:
    """The image tower.

    `layers` is an int for a ViT, four ints for a ModifiedResNet, and unused when `trunk` names a
    convolutional trunk (see `clipsearch.trunk`).
    """

    image_size: int = 224
    layers: int | tuple[int, int, int, int] = 12
    width: int = 768
    patch_size: int | None = 32
    head_width: int = 64
    trunk: str | None = None
    trunk_proj: str = "linear"


@dataclass(frozen=True)
class TextConfig:
    """The text tower. The embedding is read at the token with the highest id, the end of text."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    heads: int = 8
    layers: int = 12


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of a CLIP model; `quick_gelu` is what OpenAI's own weights were trained with."""

    embed_dim: int = 512
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    quick_gelu: bool = False
