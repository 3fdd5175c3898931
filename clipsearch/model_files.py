"""What a model folder says of itself, known without torch: where its weights are, its sizes, its fingerprint.

Widths and depths come from the tensors' shapes, so a config cannot disagree with the weights; a config only
says what tensors cannot (activation, heads, preprocessing), and which trunk they are of, which is checked.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsearch.durable import raise_for_too_many_files
from clipsearch.errors import ModelInvalid, ModelNotFound, StorageError
from clipsearch.layouts import Array, hugging_face_settings, model_cfg, table
from clipsearch.preprocess import Preprocess
from clipsearch.sizes import ClipConfig, TextConfig, VisionConfig
from clipsearch.trunk_blocks import TRUNKS

if TYPE_CHECKING:
    from clipsearch.tokenizer import ClipTokenizer

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
TOKENIZER = "tokenizer.json"
# In order of preference; the first that is there is read.
WEIGHT_FILES = (
    OPEN_CLIP_WEIGHTS,
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)


_LARGEST_CONFIG = 16 << 20
_LARGEST_TOKENIZER = 64 << 20
"""Bytes; the released ones have 2 to 4 million."""
_LARGEST_INPUT = 1024
"""Edge in pixels; of what a config says, and no tensor confirms."""


def find_weights(folder: Path) -> Path:
    """The weights file of a model folder; a file is its own. Raises ModelNotFound."""
    if folder.is_file():
        return folder
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    others = [path for path in sorted(folder.glob("*")) if path.suffix in (".safetensors", ".pt")]
    if len(others) == 1:
        return others[0]
    raise ModelNotFound(f"{folder} holds no CLIP weights ({', '.join(WEIGHT_FILES[:2])} or one .pt file).")


def settings_of(weights: Path) -> dict[str, Any] | None:
    """What the configs beside a weights file say, as OpenCLIP says it; None where there is none."""
    beside = weights.parent
    if (beside / OPEN_CLIP_CONFIG).is_file():
        return read_json(beside / OPEN_CLIP_CONFIG)
    # Any other file of weights that merely lies beside a config.json is not what that describes.
    if weights.name in WEIGHT_FILES and (beside / "config.json").is_file():
        preprocessor = beside / "preprocessor_config.json"
        return hugging_face_settings(
            read_json(beside / "config.json"), read_json(preprocessor) if preprocessor.is_file() else {}
        )
    return None


def infer_config(tensors: Mapping[str, Array], asked: Mapping[str, Any] | None) -> ClipConfig:
    """Sizes from the tensors' shapes, the rest from OpenCLIP's `model_cfg`. Raises ModelInvalid."""
    text_cfg, vision_cfg = table(asked or {}, "text_cfg"), table(asked or {}, "vision_cfg")
    context_length, width = _shape(tensors, "positional_embedding", 2)
    text = TextConfig(
        context_length=context_length,
        vocab_size=_shape(tensors, "token_embedding.weight", 2)[0],
        width=width,
        heads=int(text_cfg.get("heads", width // 64)),
        layers=_count(tensors, "transformer.resblocks."),
    )
    if text.heads < 1 or width % text.heads:
        raise ModelInvalid(f"A text tower of width {width} cannot have {text.heads} attention heads.")
    return ClipConfig(
        embed_dim=_shape(tensors, "text_projection", 2)[1],
        vision=_infer_vision(tensors, vision_cfg),
        text=text,
        quick_gelu=True if asked is None else bool(asked.get("quick_gelu", False)),
    )


def _trunk_of(tensors: Mapping[str, Array], vision_cfg: Mapping[str, Any]) -> str:
    """The name of a convolutional trunk: what the config says, else the one that begins like this."""
    kind = "ds" if "visual.trunk.blocks.0.0.conv_dw.weight" in tensors else "cn"
    alike = next(name for name, trunk in TRUNKS.items() if trunk.stages[0][0].kind == kind)
    return str(vision_cfg.get("timm_model_name") or alike)


def _infer_vision(tensors: Mapping[str, Array], vision_cfg: Mapping[str, Any]) -> VisionConfig:
    if "visual.trunk.conv_stem.weight" in tensors:
        proj = "mlp" if "visual.head.mlp.fc1.weight" in tensors else "linear"
        size = int(vision_cfg["image_size"])
        if not 1 <= size <= _LARGEST_INPUT:
            raise ModelInvalid(
                f"The model's config asks for pictures of {size} pixels square; "
                f"clipsearch makes them from 1 to {_LARGEST_INPUT}."
            )
        return VisionConfig(size, 0, 0, None, trunk=_trunk_of(tensors, vision_cfg), trunk_proj=proj)
    head_width = int(vision_cfg.get("head_width", 64))
    if "visual.attnpool.positional_embedding" in tensors:
        first, second, third, fourth = (_count(tensors, f"visual.layer{stage}.") for stage in range(1, 5))
        width = _shape(tensors, "visual.layer1.0.conv1.weight", 4)[0]
        attended, tokens, edge = width * 32, _shape(tensors, "visual.attnpool.positional_embedding", 2)[0], 32
        config = VisionConfig(
            math.isqrt(max(0, tokens - 1)) * edge, (first, second, third, fourth), width, None, head_width
        )
    else:
        width, _, edge, _ = _shape(tensors, "visual.conv1.weight", 4)
        attended, tokens = width, _shape(tensors, "visual.positional_embedding", 2)[0]
        layers = _count(tensors, "visual.transformer.resblocks.")
        config = VisionConfig(math.isqrt(max(0, tokens - 1)) * edge, layers, width, edge, head_width)
    if config.image_size < 1:
        raise ModelInvalid("These weights are not a CLIP model: visual.positional_embedding holds no grid.")
    if head_width < 1 or attended % head_width:
        raise ModelInvalid(f"An image tower of width {attended} cannot have heads of width {head_width}.")
    return config


def _shape(tensors: Mapping[str, Array], name: str, dims: int) -> tuple[int, ...]:
    if name not in tensors:
        raise ModelInvalid(f"These weights are not a CLIP model that clipsearch knows: {name} is missing.")
    shape = tuple(tensors[name].shape)
    if len(shape) != dims or 0 in shape:
        raise ModelInvalid(f"These weights are not a CLIP model that clipsearch knows: {name} is {shape}.")
    return shape


def _count(tensors: Mapping[str, Array], prefix: str) -> int:
    """How many numbered children the prefix has."""
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelInvalid; StorageError if no more files can be opened."""
    _check_size(path, _LARGEST_CONFIG)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise_for_too_many_files(error, path)
        raise ModelInvalid(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelInvalid(f"{path} is not a JSON object.")
    return values


def preprocess_of(values: Mapping[str, Any], size: int) -> Preprocess:
    """OpenCLIP's `preprocess_cfg`; `resize_mode` "longest" pads, which no model that loads here asks for."""
    mode = values.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise ModelInvalid(f"The model asks for the resize mode {mode!r}, which clipsearch does not support.")
    # OpenCLIP evaluates with bicubic whatever else a config says ("random" was for training).
    interpolation = "bilinear" if values.get("interpolation") == "bilinear" else "bicubic"
    return Preprocess.from_dict({**values, "interpolation": interpolation}, size)


def tokenizer_of(folder: Path, text: TextConfig) -> ClipTokenizer:
    """The tokenizer in a model folder. Raises ModelNotFound, ModelInvalid (as for another model's)."""
    from clipsearch.tokenizer import ClipTokenizer  # not for those who have pictures to embed, or none

    path = folder / TOKENIZER
    if not path.is_file():
        raise ModelNotFound(
            f"{folder} holds no {TOKENIZER}; put the model's own beside its weights "
            "(for OpenAI's weights, that of any released CLIP repository on the hub)."
        )
    _check_size(path, _LARGEST_TOKENIZER)
    tokenizer = ClipTokenizer.load(path, text.context_length)
    if tokenizer.vocab_size != text.vocab_size:
        raise ModelInvalid(
            f"{path} has {tokenizer.vocab_size} tokens and the text tower {text.vocab_size}: "
            "they do not belong together."
        )
    return tokenizer


def _check_size(path: Path, limit: int) -> None:
    size = path.stat().st_size
    if size > limit:
        raise ModelInvalid(f"{path} has {size:,} bytes; clipsearch reads at most {limit:,} of such a file.")


def fingerprint_of(weights: bytes, preprocess: Preprocess, config: ClipConfig) -> str:
    """The hash (16 hex digits) of all that changes vectors; `weights` is the SHA-256 of the weights file."""
    digest = hashlib.sha256(weights)
    digest.update(json.dumps([preprocess.to_dict(), model_cfg(config)], sort_keys=True).encode())
    return digest.hexdigest()[:16]


@contextmanager
def as_invalid(sentence: str) -> Iterator[None]:
    """Turn whatever nonsense in a file brings about into ModelInvalid. Raises StorageError likewise."""
    try:
        yield
    except (ModelInvalid, ModelNotFound, StorageError):
        raise
    # Parsers of hostile bytes raise nearly anything: struct.error, BadZipFile, RecursionError, MemoryError, …
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise  # of the machine, not of the file
        raise_for_too_many_files(error, Path("A file of the model"))
        brief = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelInvalid(f"{sentence}: {brief}") from error
