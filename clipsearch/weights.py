"""Model folders in and out: OpenCLIP, Hugging Face `CLIPModel` and OpenAI layouts.

Model files are untrusted: tensors are read with safetensors, or with `torch.load(weights_only=True)`;
of a TorchScript archive only the tensors are read, through an unpickler that knows nothing but tensors.
Widths and depths come from the tensors, so a config cannot disagree with the weights; a config only
says what tensors cannot (activation, heads, preprocessing).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from clipsearch.durable import make_directory, replace
from clipsearch.errors import ModelInvalid, ModelNotFound
from clipsearch.layouts import (
    TRUNK,
    Tensors,
    from_hugging_face,
    hugging_face_settings,
    is_hugging_face,
    model_cfg,
    refuse_unsupported,
    strip_prefixes,
    table,
)
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import END, START, ClipTokenizer

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


@dataclass(frozen=True)
class LoadedModel:
    """A CLIP model in evaluation mode with what it needs to be used.

    `fingerprint` is the hash of weights, sizes, activation and preprocessing: vectors of two models may
    meet only where it is equal.
    """

    model: Clip
    preprocess: Preprocess
    tokenizer: ClipTokenizer
    fingerprint: str


def load_folder(folder: Path) -> LoadedModel:
    """Open a model folder of any of the three layouts, or a single weights file with its tokenizer beside it.

    Raises ModelNotFound when weights or tokenizer are not there, ModelInvalid when what is there is not a
    whole CLIP model.
    """
    weights = find_weights(folder)
    tensors = read_tensors(weights)
    with _as_invalid(f"{weights.parent} is not a CLIP model that clipsearch can read"):
        settings = _settings(weights)
        model = build(tensors, None if settings is None else table(settings, "model_cfg"))
        preprocess = _preprocess(table(settings or {}, "preprocess_cfg"), model.config.vision.image_size)
    tokenizer = _find_tokenizer(weights.parent, model.config.text)
    return LoadedModel(model, preprocess, tokenizer, _fingerprint(weights, preprocess, model.config))


def _settings(weights: Path) -> dict[str, Any] | None:
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


def build(tensors: Tensors, asked: Mapping[str, Any] | None) -> Clip:
    """A model with the given tensors, in any layout, in evaluation mode and single precision.

    `asked` is OpenCLIP's `model_cfg`; None means "as OpenAI's own weights", whose layout carries no config.
    Raises ModelInvalid when tensors are missing, left over or of the wrong shape.
    """
    refuse_unsupported(tensors, asked or {})
    tensors = strip_prefixes(tensors)
    if is_hugging_face(tensors):
        tensors = from_hugging_face(tensors)
    config = infer_config(tensors, asked)
    with torch.device("meta"):
        model = Clip(config)
    _check_tensors(model, tensors)
    floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    model.load_state_dict(floats, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _check_tensors(model: Clip, tensors: Tensors) -> None:
    wanted = model.state_dict()
    # Counters of training; load_state_dict fills them in where they are missing.
    missing = [name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")]
    left_over = [name for name in tensors if name not in wanted]
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors
        and (
            tensors[name].shape != tensor.shape
            or tensors[name].is_floating_point() != tensor.is_floating_point()
        )
    ]
    told = [
        f"{len(names)} tensors {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("are missing", missing), ("are left over", left_over), ("do not fit", wrong))
        if names
    ]
    if told:
        raise ModelInvalid(f"These weights are not a CLIP model that clipsearch knows: {'; '.join(told)}.")


def infer_config(tensors: Tensors, asked: Mapping[str, Any] | None) -> ClipConfig:
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


def _infer_vision(tensors: Tensors, vision_cfg: Mapping[str, Any]) -> VisionConfig:
    if "visual.trunk.conv_stem.weight" in tensors:
        proj = "mlp" if "visual.head.mlp.fc1.weight" in tensors else "linear"
        return VisionConfig(int(vision_cfg["image_size"]), 0, 0, None, trunk=TRUNK, trunk_proj=proj)
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


def _shape(tensors: Tensors, name: str, dims: int) -> tuple[int, ...]:
    if name not in tensors:
        raise ModelInvalid(f"These weights are not a CLIP model that clipsearch knows: {name} is missing.")
    shape = tuple(tensors[name].shape)
    if len(shape) != dims or 0 in shape:
        raise ModelInvalid(f"These weights are not a CLIP model that clipsearch knows: {name} is {shape}.")
    return shape


def _count(tensors: Tensors, prefix: str) -> int:
    """How many numbered children the prefix has."""
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})


@contextmanager
def _as_invalid(sentence: str) -> Iterator[None]:
    """Turn whatever nonsense in a file brings about into ModelInvalid."""
    try:
        yield
    except (ModelInvalid, ModelNotFound):
        raise
    # Parsers of hostile bytes raise nearly anything: struct.error, BadZipFile, RecursionError, MemoryError, …
    except Exception as error:
        brief = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelInvalid(f"{sentence}: {brief}") from error


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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file; never runs code from it.

    Raises ModelInvalid for anything but a safetensors file, a plain state dict or a TorchScript archive.
    """
    with _as_invalid(f"{path} cannot be read as model weights"):
        return load_file(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_torch(path: Path) -> dict[str, Tensor]:
    import pickle
    import warnings

    from clipsearch.torchscript import is_torchscript, read_torchscript

    if is_torchscript(path):
        return read_torchscript(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # remarks on how the file was pickled
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message goes on to recommend loading it unsafely.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        named = f", such as {asked[1]}" if asked else ""
        raise ValueError(f"it holds more than tensors{named}, or is damaged") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError("it is not a dictionary of tensors")
    return {str(name): tensor for name, tensor in loaded.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelInvalid."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelInvalid(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelInvalid(f"{path} is not a JSON object.")
    return values


def _preprocess(values: Mapping[str, Any], size: int) -> Preprocess:
    """OpenCLIP's `preprocess_cfg`; `resize_mode` "longest" pads, which no model that loads here asks for."""
    mode = values.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise ModelInvalid(f"The model asks for the resize mode {mode!r}, which clipsearch does not support.")
    # OpenCLIP evaluates with bicubic whatever else a config says ("random" was for training).
    interpolation = "bilinear" if values.get("interpolation") == "bilinear" else "bicubic"
    return Preprocess.from_dict({**values, "interpolation": interpolation}, size)


def _find_tokenizer(folder: Path, text: TextConfig) -> ClipTokenizer:
    path = folder / TOKENIZER
    if not path.is_file():
        raise ModelNotFound(
            f"{folder} holds no {TOKENIZER}; put the model's own beside its weights "
            "(for OpenAI's weights, that of any released CLIP repository on the hub)."
        )
    tokenizer = ClipTokenizer.load(path, text.context_length)
    if tokenizer.vocab_size != text.vocab_size:
        raise ModelInvalid(
            f"{path} has {tokenizer.vocab_size} tokens and the text tower {text.vocab_size}: "
            "they do not belong together."
        )
    return tokenizer


def _fingerprint(weights: Path, preprocess: Preprocess, config: ClipConfig) -> str:
    digest = hashlib.sha256()
    with weights.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(json.dumps([preprocess.to_dict(), model_cfg(config)], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def save_folder(
    folder: Path, model: Clip, preprocess: Preprocess, tokenizer: ClipTokenizer, *, half: bool = True
) -> None:
    """Write an OpenCLIP model folder (config, safetensors, tokenizer); `half` stores float16.

    Each file appears whole or not at all. Raises StorageError when the disk fails.
    """
    make_directory(folder)
    tensors = {name: _stored(tensor, half) for name, tensor in model.state_dict().items()}
    config = {"model_cfg": model_cfg(model.config), "preprocess_cfg": preprocess.to_dict()}
    # What OpenCLIP's tokenizer, transformers' AutoTokenizer, needs beside tokenizer.json.
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": tokenizer.context_length,
    }
    replace(folder / OPEN_CLIP_WEIGHTS, serialise(tensors, metadata={"format": "pt"}), name="weights")
    tokenizer.save(folder / TOKENIZER)
    for name, values in ((OPEN_CLIP_CONFIG, config), ("tokenizer_config.json", tokenizer_config)):
        replace(folder / name, (json.dumps(values, indent=2) + "\n").encode(), name="config")


def _stored(tensor: Tensor, half: bool) -> Tensor:
    """A tensor as it is saved: what float16 cannot hold stays as it is."""
    tensor = tensor.detach().cpu().contiguous()
    if not half or not tensor.is_floating_point() or tensor.abs().amax() > torch.finfo(torch.float16).max:
        return tensor
    return tensor.half()
