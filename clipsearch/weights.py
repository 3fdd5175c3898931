"""Model folders in and out: OpenCLIP, Hugging Face `CLIPModel` and OpenAI layouts.

Model files are untrusted: tensors are read with safetensors, or with `torch.load(weights_only=True)`;
of a TorchScript archive only the tensors are read, through an unpickler that knows nothing but tensors.
What a folder says of itself is read by `clipsearch.model_files`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from clipsearch.digests import sha256_of
from clipsearch.durable import make_directory, replace
from clipsearch.layouts import model_cfg, openai_layout, table
from clipsearch.model import Clip
from clipsearch.model_files import (
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    TOKENIZER,
    as_invalid,
    find_weights,
    fingerprint_of,
    infer_config,
    preprocess_of,
    settings_of,
    tokenizer_of,
)
from clipsearch.preprocess import Preprocess
from clipsearch.tensor_shapes import check_tensors
from clipsearch.tokenizer import END, START, ClipTokenizer

Tensors = Mapping[str, Tensor]


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
    with as_invalid(f"{weights.parent} is not a CLIP model that clipsearch can read"):
        settings = settings_of(weights)
        model = build(tensors, None if settings is None else table(settings, "model_cfg"))
        preprocess = preprocess_of(table(settings or {}, "preprocess_cfg"), model.config.vision.image_size)
    tokenizer = tokenizer_of(weights.parent, model.config.text)
    with weights.open("rb") as file:
        fingerprint = fingerprint_of(sha256_of(file), preprocess, model.config)
    return LoadedModel(model, preprocess, tokenizer, fingerprint)


def build(tensors: Tensors, asked: Mapping[str, Any] | None) -> Clip:
    """A model with the given tensors, in any layout, in evaluation mode and single precision.

    `asked` is OpenCLIP's `model_cfg`; None means "as OpenAI's own weights", whose layout carries no config.
    Raises ModelInvalid when tensors are missing, left over or of the wrong shape.
    """
    tensors = openai_layout(tensors, asked or {}, torch.cat)
    config = infer_config(tensors, asked)
    check_tensors({name: (tuple(t.shape), t.is_floating_point()) for name, t in tensors.items()}, config)
    with torch.device("meta"):
        model = Clip(config)
    floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    model.load_state_dict(floats, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file; never runs code from it.

    Raises ModelInvalid for anything but a safetensors file, a plain state dict or a TorchScript archive.
    """
    with as_invalid(f"{path} cannot be read as model weights"):
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
