"""Where a run begins: at the weights of any model that loads, some of them locked, some with adapters.

The model brings its sizes, its tokenizer and its preprocessing. A tower may be trained, locked (as a whole,
or but for its last blocks) or made anew: a locked image tower with a new text tower is LiT (Zhai et al. 2022,
arXiv 2111.07991).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from clipsearch.errors import UsageError
from clipsearch.model import Clip, ClipConfig, ModifiedResNet, VisionTransformer
from clipsearch.trunk import TrunkTower
from clipsearch.weights import LoadedModel, load_folder
from clipsearch.zoo import resolve
from clipsearch_train.lora import adapt
from clipsearch_train.resolution import at_resolution

MODES = ("train", "lock", "new")
IMAGE_MODES = (*MODES, "head")


@dataclass(frozen=True)
class Start:
    """The model that a run begins with, by name or folder, and what becomes of its towers.

    `image` and `text` are "train", "lock" or "new"; `image` may also be "head": the trunk is locked and the
    projection behind it new (`clipsearch_train.frozen`). The last `image_blocks` and `text_blocks` blocks of
    a locked tower, and what comes behind them, learn all the same. With `lora_rank` towers that train keep
    their weights and learn adapters of that rank, scaled by `lora_alpha` / rank. A new text tower learns a
    tokenizer of its own unless `keep_tokenizer`. `image_size` is the edge in pixels at which its image tower
    looks from now on; 0 leaves it as it is.
    """

    model: str
    image: str = "train"
    text: str = "train"
    image_blocks: int = 0
    text_blocks: int = 0
    lora_rank: int = 0
    lora_alpha: float = 16.0
    keep_tokenizer: bool = False
    image_size: int = 0


def check_start(start: Start, where: str) -> None:
    """Raise UsageError for settings that make no sense together."""
    for tower, mode, blocks, modes in (
        ("image", start.image, start.image_blocks, IMAGE_MODES),
        ("text", start.text, start.text_blocks, MODES),
    ):
        if mode not in modes:
            raise UsageError(f'{where}: start: {tower} must be "train", "lock" or "new", not {mode!r}.')
        if blocks < 0 or (blocks and mode != "lock"):
            raise UsageError(
                f"{where}: start: {tower}_blocks is how many of the last blocks of a locked tower learn; "
                f"it cannot be {blocks} with {tower} = {mode!r}."
            )
    if start.image == start.text == "new":
        raise UsageError(f"{where}: start: with both towers new nothing starts there; leave [start] out.")
    if start.image_size < 0 or (start.image_size and start.image == "new"):
        raise UsageError(
            f"{where}: start: image_size is the resolution of the start model's image tower; that of a new "
            "one stands in model: vision."
        )
    if start.lora_rank < 0 or not 0 < start.lora_alpha < float("inf"):
        raise UsageError(f"{where}: start: lora_rank must not be negative and lora_alpha be above 0.")
    if start.lora_rank and "train" not in (start.image, start.text):
        raise UsageError(f"{where}: start: lora_rank adapts towers that train, and none does.")
    if start.keep_tokenizer and start.text != "new":
        raise UsageError(
            f"{where}: start: keep_tokenizer is for a new text tower; the others keep it anyway."
        )


def is_whole(start: Start | None) -> bool:
    """Whether a run begins with a model that can be scored before it: nothing of it is new."""
    return start is not None and not {"new", "head"} & {start.image, start.text}


def load_start(start: Start) -> LoadedModel:
    """The model of a start, at its resolution.

    Raises ModelNotFound, ModelInvalid, UsageError for a resolution that the model cannot have.
    """
    loaded = load_folder(resolve(start.model).folder)
    return at_resolution(loaded, start.image_size) if start.image_size else loaded


def start_sizes(start: Start, asked: ClipConfig, given: Mapping[str, Any], where: str) -> ClipConfig:
    """The sizes of a run's model: those of the start model, and what the recipe says of a new tower.

    `asked` is the recipe's [model] with its defaults, `given` the keys that stand there. Raises UsageError
    for a size that the start model has otherwise, ModelNotFound, ModelInvalid.
    """
    config = load_start(start).model.config
    towers = {"vision": start.image, "text": start.text}
    for key in ("embed_dim", "quick_gelu"):
        if key in given:
            _require_equal(start, where, key, getattr(asked, key), getattr(config, key))
    for table, mode in towers.items():
        for key in given.get(table, {}) if mode != "new" else ():
            ours, theirs = getattr(asked, table), getattr(config, table)
            _require_equal(start, where, f"{table}: {key}", getattr(ours, key), getattr(theirs, key))
    text = config.text if start.text != "new" else asked.text
    if start.keep_tokenizer:
        text = dataclasses.replace(text, vocab_size=config.text.vocab_size)
    return ClipConfig(
        config.embed_dim,
        asked.vision if start.image == "new" else config.vision,
        text,
        config.quick_gelu,
    )


def _require_equal(start: Start, where: str, key: str, asked: object, has: object) -> None:
    if asked != has:
        raise UsageError(
            f"{where}: model: {key} = {asked} does not fit the start model {start.model}, which has {has}. "
            "Leave it out: what a tower of the start model keeps comes with it."
        )


def begin(model: Clip, start: Start, loaded: LoadedModel) -> None:
    """Put the start model's weights into the towers that it has, lock what is locked, add the adapters.

    Raises UsageError where more blocks are to be trained than there are.
    """
    theirs = loaded.model.state_dict()
    kept = {
        name: tensor
        for name, tensor in theirs.items()
        if (start.image if name.startswith("visual.") else start.text) != "new"
        and not (start.image == "head" and name.startswith("visual.head."))
    }
    if start.image in ("new", "head") or start.text == "new":
        kept.pop("logit_scale", None)  # it fitted the pair
    missing = model.load_state_dict(kept, strict=False)
    assert not missing.unexpected_keys
    towers = (("image", start.image, start.image_blocks), ("text", start.text, start.text_blocks))
    for tower, mode, blocks in towers:
        if mode == "lock":
            _lock(model, tower, blocks)
        elif mode == "head":
            model.visual.get_submodule("trunk").requires_grad_(False)
        elif mode == "train" and start.lora_rank:
            for part in [model.visual] if tower == "image" else _text_modules(model):
                adapt(part, start.lora_rank, start.lora_alpha)
            if tower == "text":
                for parameter in _text_parameters(model):
                    parameter.requires_grad_(False)


def _lock(model: Clip, tower: str, blocks: int) -> None:
    """Stop a tower from learning, but for its last blocks and what comes behind those."""
    if tower == "image":
        model.visual.requires_grad_(False)
        groups, behind = _image_blocks(model.visual)
    else:
        for module in _text_modules(model):
            module.requires_grad_(False)
        for parameter in _text_parameters(model):
            parameter.requires_grad_(False)
        groups, behind = list(model.transformer.resblocks), [model.ln_final, model.text_projection]
    if blocks > len(groups):
        raise UsageError(f"The {tower} tower has {len(groups)} blocks; {tower}_blocks cannot be {blocks}.")
    if blocks:
        for part in (*groups[-blocks:], *behind):
            part.requires_grad_(True)


def _image_blocks(tower: nn.Module) -> tuple[list[nn.Module], list[nn.Module | nn.Parameter]]:
    """The blocks of an image tower in their order, and what comes behind the last."""
    if isinstance(tower, VisionTransformer):
        return list(tower.transformer.resblocks), [tower.ln_post, tower.proj]
    if isinstance(tower, ModifiedResNet):
        stages = [tower.get_submodule(f"layer{stage}") for stage in range(1, 5)]
        return [block for stage in stages for block in stage.children()], [tower.attnpool]
    assert isinstance(tower, TrunkTower)
    trunk = tower.trunk
    blocks = [block for stage in trunk.blocks.children() for block in stage.children()]
    return blocks, [trunk.conv_head, trunk.bn2, tower.head]


def _text_modules(model: Clip) -> list[nn.Module]:
    return [model.token_embedding, model.transformer, model.ln_final]


def _text_parameters(model: Clip) -> list[nn.Parameter]:
    return [model.positional_embedding, model.text_projection]


def settle_batch_norms(model: nn.Module, *, everywhere: bool) -> None:
    """Let batch norms use their running statistics in training too: `everywhere`, or where they are locked.

    Their gains and biases, where they learn, go on learning. To be called after `model.train()`.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and (everywhere or not module.weight.requires_grad):
            module.eval()


def trained_share(model: nn.Module) -> tuple[int, int]:
    """How many weights learn, of how many."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)


__all__ = [
    "Start",
    "begin",
    "check_start",
    "is_whole",
    "load_start",
    "settle_batch_norms",
    "start_sizes",
    "trained_share",
]
