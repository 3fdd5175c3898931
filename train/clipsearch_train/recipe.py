"""Recipes: everything a training run is made of, as TOML. An unknown key or a wrong type is refused."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from clipsearch.errors import UsageError
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.trunk_blocks import TRUNKS
from clipsearch_train.bag import Bag, check_bag
from clipsearch_train.best import Best, check_best
from clipsearch_train.clip_teacher import Distill, check_distill
from clipsearch_train.compute import Compute, check_compute
from clipsearch_train.frozen import Frozen, check_frozen
from clipsearch_train.recipe_data import Data, Folder, check_data, fill_data
from clipsearch_train.schedule import Optim, check_optim
from clipsearch_train.start import Start, check_start, start_sizes

# What `[teacher] text` says where the text tower of the start model reads the texts.
START = "start"
# Every byte, alone and at the end of a word, and the start and the end of a text.
MIN_VOCABULARY = 514


@dataclass(frozen=True)
class Teacher:
    """Frozen teachers to distil from (training only).

    `image` is the ONNX file of a supervised MobileNet-EdgeTPU, or an importable package with the weights of
    an EfficientNet-Lite2; `text` an importable package with a sentence-embedding model, or "start": the
    locked text tower of the start model, whose projection the bridge makes anew, for a locked trunk or for a
    new one that begins at the image teacher. `image_size` is the edge in pixels at which the image teacher
    looks. `names` is a JSON file of names of things that its text teacher speaks of in many ways.
    """

    image: str
    text: str
    image_size: int = 193
    classes: str = "timm"
    names: str = ""


@dataclass(frozen=True)
class Bridge:
    """Sizes and schedule of the projections that give the teachers a common space.

    They learn from captions, from labels, from the image teacher's opinion of each class and, by
    `kind_weight`, of the general words that cover several classes (`clipsearch_train.kinds`). Of several
    `members` the image halves are merged into one within `merge_steps`, with so much dropout.
    """

    hidden: int = 1024
    dropout: float = 0.4
    input_dropout: float = 0.0
    epochs: int = 30
    lr: float = 1e-3
    weight_decay: float = 0.1
    label_weight: float = 0.5
    class_weight: float = 0.5
    kind_weight: float = 0.0
    members: int = 1
    merge_steps: int = 4000
    merge_dropout: float = 0.1


@dataclass(frozen=True)
class Loss:
    """Weights of the terms of the objective; `bank` is the number of cached negatives of each kind.

    `kind` is "softmax" (InfoNCE, the paper's) or "sigmoid" (SigLIP's); `label_smoothing` is the part of a
    target that is spread over the whole batch, with softmax only.
    """

    kind: str = "softmax"
    label_smoothing: float = 0.0
    contrastive: float = 1.0
    image_distill: float = 0.0
    text_distill: float = 0.0
    bank: int = 0


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Parameters whose names match a pattern of `freeze`, such as "visual.trunk.blocks.0.*", stay what they are
    at the beginning.
    """

    name: str
    model: ClipConfig
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    loss: Loss = field(default_factory=Loss)
    teacher: Teacher | None = None
    bridge: Bridge = field(default_factory=Bridge)
    compute: Compute = field(default_factory=Compute)
    best: Best = field(default_factory=Best)
    start: Start | None = None
    distill: Distill | None = None
    frozen: Frozen | None = None
    bag: Bag | None = None
    seed: int = 0
    freeze: tuple[str, ...] = ()
    freeze_batch_norm: bool = False
    checkpoint_minutes: float = 5.0
    eval_every: int = 500

    def smoke(self, processes: int = 1) -> Recipe:
        """The same recipe cut down to two steps of about eight samples, to see that it runs."""
        accumulate = min(self.compute.accumulate, 2)
        shares = processes * accumulate
        return dataclasses.replace(
            self,
            optim=dataclasses.replace(
                self.optim,
                steps=min(self.optim.steps, 2),
                batch=shares * math.ceil(8 / shares),
                extra_texts=min(self.optim.extra_texts, 8),
                warmup=1,
                cooldown=min(self.optim.cooldown, 1),
            ),
            bridge=dataclasses.replace(
                self.bridge, epochs=1, members=min(self.bridge.members, 2), merge_steps=2
            ),
            bag=None if self.bag is None else dataclasses.replace(self.bag, epochs=1, batch=64),
            data=dataclasses.replace(self.data, limit=16),
            loss=dataclasses.replace(self.loss, bank=min(self.loss.bank, 16)),
            compute=dataclasses.replace(self.compute, accumulate=accumulate),
        )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises UsageError for a missing file, broken TOML, an unknown key or a value of the wrong type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} is not valid TOML: {error}") from error
    values.setdefault("name", path.stem)
    if isinstance(values.get("data"), dict):
        fill_data(values["data"])
    given = values.setdefault("model", {}) if "start" in values else {}
    recipe: Recipe = _build(Recipe, values, str(path))
    _check_values(recipe, str(path))
    _check_parts(recipe, str(path))
    if recipe.start is not None:
        sizes = start_sizes(recipe.start, recipe.model, given, str(path))
        recipe = dataclasses.replace(recipe, model=sizes)
    _check_freeze(recipe.freeze, _check_model(recipe.model, str(path)), str(path))
    _check_crop(recipe, str(path))
    _check_beginning(recipe, str(path))
    return recipe


def _check_values(recipe: Recipe, where: str) -> None:
    # "not >=" also refuses nan, which TOML can say.
    least = {
        "loss: contrastive": (recipe.loss.contrastive, 0),
        "loss: image_distill": (recipe.loss.image_distill, 0),
        "loss: text_distill": (recipe.loss.text_distill, 0),
        "loss: bank": (recipe.loss.bank, 0),
        "bridge: epochs": (recipe.bridge.epochs, 1),
        "bridge: kind_weight": (recipe.bridge.kind_weight, 0),
        "bridge: members": (recipe.bridge.members, 1),
        "bridge: merge_steps": (recipe.bridge.merge_steps, 1),
        "eval_every": (recipe.eval_every, 1),
        "seed": (recipe.seed, 0),
        "checkpoint_minutes": (recipe.checkpoint_minutes, 0),
    }
    for key, (value, bound) in least.items():
        if not bound <= value < math.inf:
            raise UsageError(f"{where}: {key} must be a number from {bound} on, not {value}.")
    if recipe.seed >= 1 << 63:
        raise UsageError(f"{where}: seed must be below 2^63, not {recipe.seed}.")
    if not 0 <= recipe.bridge.merge_dropout < 1:
        value = recipe.bridge.merge_dropout
        raise UsageError(f"{where}: bridge: merge_dropout must be from 0 to under 1, not {value}.")
    if not 0 <= recipe.loss.label_smoothing <= 1:
        value = recipe.loss.label_smoothing
        raise UsageError(f"{where}: loss: label_smoothing must be between 0 and 1, not {value}.")


def _check_parts(recipe: Recipe, where: str) -> None:
    check_data(recipe.data, where)
    check_optim(recipe.optim, where)
    _check_loss(recipe.loss, where)
    check_compute(recipe.compute, recipe.optim.batch, where)
    check_best(recipe.best, where)
    if recipe.start is not None:
        check_start(recipe.start, where)
    if recipe.distill is not None:
        check_distill(recipe.distill, where)
    if recipe.data.texts and recipe.teacher is None:
        raise UsageError(f"{where}: data: texts are for a [teacher] to embed, and there is none.")
    if recipe.teacher is not None and (
        recipe.data.stream or recipe.data.drop_words or recipe.data.one_sentence
    ):
        raise UsageError(
            f"{where}: [teacher] keeps a target of every sample and text in memory, so data: stream, "
            "drop_words and one_sentence do not go with it; [distill] asks a CLIP teacher at every step."
        )


def _check_beginning(recipe: Recipe, where: str) -> None:
    """Check what stands in for a trunk and a text tower at the beginning of a run."""
    head = recipe.start is not None and recipe.start.image == "head"
    if head != (recipe.frozen is not None) or (recipe.frozen is not None and recipe.teacher is None):
        raise UsageError(
            f'{where}: [frozen] keeps what a locked trunk sees; it needs start: image = "head" and '
            "the bridge of a [teacher], which is the new projection. None of them goes without the others."
        )
    if recipe.frozen is not None:
        check_frozen(recipe.frozen, where)
        if recipe.data.stream or recipe.distill is not None:
            raise UsageError(
                f"{where}: [frozen] shows the model no pixels, which data: stream and [distill] are about."
            )
    if recipe.bag is not None:
        new = recipe.start is None or recipe.start.text == "new"
        if recipe.teacher is None or not new:
            raise UsageError(f"{where}: [bag] begins a new text tower at the texts of a [teacher].")
        check_bag(recipe.bag, recipe.model, where)
    reads_itself = recipe.teacher is not None and recipe.teacher.text == START
    start = recipe.start
    locked = start is not None and start.image in ("head", "new") and start.text == "lock"
    if reads_itself and not locked:
        raise UsageError(
            f'{where}: teacher: text = "start" is for [start] with text = "lock" and image = "head" or '
            '"new": the bridge joins the locked text tower with a locked trunk, or with the image teacher.'
        )
    vision, hidden = recipe.model.vision, 2 * recipe.model.embed_dim
    if reads_itself and (vision.trunk_proj != "mlp" or recipe.bridge.hidden != hidden):
        raise UsageError(
            f'{where}: teacher: text = "start" makes the bridge the projection behind the trunk, which takes '
            f'trunk_proj = "mlp" and bridge: hidden = {hidden}, twice embed_dim.'
        )
    if recipe.optim.steps == 0 and not (reads_itself and head):
        raise UsageError(
            f'{where}: optim: steps = 0 is for [teacher] with text = "start" and [start] with image = '
            '"head", where the bridge alone learns.'
        )


def _check_crop(recipe: Recipe, where: str) -> None:
    if not recipe.data.crop_size:
        return
    if recipe.model.vision.trunk is None or recipe.data.crop_size < 32:
        raise UsageError(
            f"{where}: data: crop_size must be 32 at least, and is for image towers with a trunk; a "
            "transformer or a ModifiedResNet has a position for each patch of its image_size."
        )
    if recipe.frozen is not None:
        raise UsageError(f"{where}: [frozen] shows the model no crops, which data: crop_size is about.")


def _check_loss(loss: Loss, where: str) -> None:
    if loss.kind not in ("softmax", "sigmoid"):
        raise UsageError(f"{where}: loss: kind must be 'softmax' or 'sigmoid', not {loss.kind!r}.")
    if loss.kind == "sigmoid" and loss.label_smoothing:
        raise UsageError(
            f"{where}: loss: label_smoothing is for kind = 'softmax'; with the sigmoid a share of every "
            "negative would count as a positive, and there are a batch of them to each pair."
        )


def _check_freeze(patterns: Sequence[str], names: Sequence[str], where: str) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"{where}: freeze: no parameter of this model has a name like {pattern!r}.")
    if all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in names):
        raise UsageError(f"{where}: freeze: with these patterns nothing of the model learns.")


def _check_model(config: ClipConfig, where: str) -> list[str]:
    """Build the model without its memory, to find sizes that do not go together; its parameters' names."""
    vision, text = config.vision, config.text
    if vision.trunk not in (None, *TRUNKS):
        known = " or ".join(map(repr, TRUNKS))
        raise UsageError(f"{where}: model: vision: trunk must be {known}, not {vision.trunk!r}.")
    if vision.trunk_proj not in ("linear", "mlp"):
        raise UsageError(f"{where}: model: vision: trunk_proj must be 'linear' or 'mlp'.")
    if text.vocab_size < MIN_VOCABULARY:
        raise UsageError(f"{where}: model: text: vocab_size must be {MIN_VOCABULARY} at least.")
    if text.heads < 1 or text.width % text.heads:
        raise UsageError(f"{where}: model: text: width must be a multiple of heads.")
    if vision.trunk is None:
        cell = 32 if isinstance(vision.layers, tuple) else vision.patch_size
        attended = vision.width * 32 if isinstance(vision.layers, tuple) else vision.width
        if not cell or cell < 1 or vision.image_size % cell:
            raise UsageError(
                f"{where}: model: vision: image_size must be a multiple of {cell or 'patch_size'}."
            )
        if vision.head_width < 1 or attended % vision.head_width:
            raise UsageError(f"{where}: model: vision: {attended} must be a multiple of head_width.")
    try:
        with torch.device("meta"):
            parameters = dict(Clip(config).named_parameters())
            count = sum(parameter.numel() for parameter in parameters.values())
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise UsageError(f"{where}: model: these sizes do not make a model: {error}.") from error
    if count > _MOST_PARAMETERS:
        raise UsageError(
            f"{where}: model: these sizes make a model of {count:,} parameters, which is too large."
        )
    return list(parameters)


_MOST_PARAMETERS = 20_000_000_000
"""Several times the largest CLIP there is."""


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UsageError(f"{where} must be a table.")
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}.")
    built = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    missing = [
        field.name for field in dataclasses.fields(kind) if _is_needed(field) and field.name not in built
    ]
    if missing:
        raise UsageError(f"{where} lacks the key {missing[0]!r}.")
    return kind(**built)


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _convert_union(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if origin is tuple and isinstance(value, list):
        args = typing.get_args(hint)
        if args[-1] is not Ellipsis and len(args) != len(value):
            raise UsageError(f"{where} must have {len(args)} entries, not {len(value)}.")
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


__all__ = [
    "Bag",
    "Best",
    "Bridge",
    "ClipConfig",
    "Compute",
    "Data",
    "Distill",
    "Folder",
    "Frozen",
    "Loss",
    "Optim",
    "Recipe",
    "Start",
    "Teacher",
    "TextConfig",
    "VisionConfig",
    "load_recipe",
]
