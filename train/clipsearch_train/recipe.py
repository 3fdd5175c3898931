"""Recipes: everything a training run is made of, as TOML. An unknown key or a wrong type is refused."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipsearch.errors import UsageError
from clipsearch.model import ClipConfig, TextConfig, VisionConfig


@dataclass(frozen=True)
class Data:
    """Where samples come from; globs are relative to `--data`.

    `weights` says how often a source is drawn relative to its size (1.0 when it is not named).
    `templates` make captions of labels. `limit` caps samples a shard and lines of text (for trying things out).
    """

    train: tuple[str, ...] = ("train/*.tar*",)
    val: tuple[str, ...] = ("val/*.tar*",)
    texts: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    templates: tuple[str, ...] = ("a photo of a {}",)
    min_crop: float = 0.9
    flip: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Teacher:
    """Frozen teachers to distil from (training only).

    `image` is the ONNX file of a supervised MobileNet-EdgeTPU, `text` an importable package with a
    sentence-embedding model; `image_size` is the edge in pixels at which the image teacher looks.
    """

    image: str
    text: str
    image_size: int = 193
    classes: str = "timm"


@dataclass(frozen=True)
class Bridge:
    """Sizes and schedule of the projections that give the teachers a common space."""

    hidden: int = 1024
    dropout: float = 0.4
    epochs: int = 30
    lr: float = 1e-3
    weight_decay: float = 0.1
    label_weight: float = 0.5
    class_weight: float = 0.5


@dataclass(frozen=True)
class Loss:
    """Weights of the terms of the objective; `bank` is the number of cached negatives of each kind."""

    contrastive: float = 1.0
    image_distill: float = 0.0
    text_distill: float = 0.0
    bank: int = 0


@dataclass(frozen=True)
class Optim:
    """AdamW with a cosine schedule (paper table 18); `steps` counts optimiser steps."""

    steps: int = 1000
    batch: int = 128
    extra_texts: int = 0
    lr: float = 5e-4
    image_lr: float | None = None
    weight_decay: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    warmup: int = 100
    clip_norm: float = 1.0
    ema: float = 0.0
    bf16: bool = True


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    name: str
    model: ClipConfig
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    loss: Loss = field(default_factory=Loss)
    teacher: Teacher | None = None
    bridge: Bridge = field(default_factory=Bridge)
    seed: int = 0
    freeze_batch_norm: bool = False
    checkpoint_minutes: float = 5.0
    eval_every: int = 500

    def smoke(self) -> Recipe:
        """The same recipe cut down to a few steps, to see that it runs."""
        return dataclasses.replace(
            self,
            optim=dataclasses.replace(self.optim, steps=2, batch=8, extra_texts=min(self.optim.extra_texts, 8), warmup=1),
            bridge=dataclasses.replace(self.bridge, epochs=1),
            data=dataclasses.replace(self.data, limit=16),
            loss=dataclasses.replace(self.loss, bank=min(self.loss.bank, 16)),
        )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises UsageError for a missing file, broken TOML, an unknown key or a value of the wrong type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} is not valid TOML: {error}") from error
    values.setdefault("name", path.stem)
    recipe: Recipe = _build(Recipe, values, str(path))
    return recipe


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UsageError(f"{where} must be a table.")
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}.")
    built = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return kind(**built)
    except TypeError as error:
        raise UsageError(f"{where} lacks a key: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _convert_union(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if origin is tuple and isinstance(value, list):
        args = typing.get_args(hint)
        return tuple(_convert(args[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {str(key): _convert(typing.get_args(hint)[1], item, where) for key, item in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise UsageError(f"{where} must be {getattr(hint, '__name__', hint)}, not {value!r}.")


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    for option in typing.get_args(hint):
        if option is type(None):
            continue
        try:
            return _convert(option, value, where)
        except UsageError as error:
            failed = error
            if dataclasses.is_dataclass(option):
                raise
    raise failed


__all__ = ["Bridge", "ClipConfig", "Data", "Loss", "Optim", "Recipe", "Teacher", "TextConfig", "VisionConfig", "load_recipe"]
