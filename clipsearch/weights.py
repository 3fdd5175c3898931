"""Model folders in and out: OpenCLIP, Hugging Face `CLIPModel` and OpenAI layouts.

Model files are untrusted: tensors are read with safetensors, or with `torch.load(weights_only=True)`;
of a TorchScript archive only the tensors are read, through an unpickler that knows nothing but tensors.
Widths and depths come from the tensors, so a config cannot disagree with the weights; a config only
says what tensors cannot (activation, heads, preprocessing).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipsearch.errors import ModelInvalid, ModelNotFound
from clipsearch.layouts import Tensors, from_hugging_face, strip_prefixes
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
TOKENIZER = "tokenizer.json"
# In order of preference; the first that is there is read.
_WEIGHT_FILES = (
    OPEN_CLIP_WEIGHTS,
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
_TRUNK = "mobilenet_edgetpu_100"


@dataclass(frozen=True)
class LoadedModel:
    """A CLIP model in evaluation mode with what it needs to be used.

    `fingerprint` is the hash of weights, preprocessing and embedding size: vectors of two models
    may meet only where it is equal.
    """

    model: Clip
    preprocess: Preprocess
    tokenizer: ClipTokenizer
    fingerprint: str


def load_folder(folder: Path) -> LoadedModel:
    """Open a model folder of any of the three layouts.

    Raises ModelNotFound when the folder holds no weights, ModelInvalid when what it holds is not a
    whole CLIP model.
    """
    weights = find_weights(folder)
    tensors = read_tensors(weights)
    config_file = folder / OPEN_CLIP_CONFIG
    hf_config_file = folder / "config.json"
    settings: dict[str, Any] = {}
    quick_gelu: bool | None = None
    if config_file.is_file():
        settings = read_json(config_file)
        quick_gelu = bool(settings.get("model_cfg", {}).get("quick_gelu", False))
    elif hf_config_file.is_file():
        quick_gelu = _hf_quick_gelu(read_json(hf_config_file))
        settings = {"preprocess_cfg": _hf_preprocess(folder)}
    model = build(tensors, settings.get("model_cfg", {}), quick_gelu)
    preprocess = Preprocess.from_dict(settings.get("preprocess_cfg", {}), model.config.vision.image_size)
    tokenizer = _find_tokenizer(folder, model.config.text)
    fingerprint = _fingerprint(folder, weights, preprocess, model.config.embed_dim)
    return LoadedModel(model, preprocess, tokenizer, fingerprint)


def build(tensors: Tensors, model_cfg: Mapping[str, Any], quick_gelu: bool | None) -> Clip:
    """A model with the given tensors, in any layout, in evaluation mode and single precision.

    `quick_gelu` None means "as OpenAI's own weights": their layout carries no config.
    Raises ModelInvalid when tensors are missing, left over or of the wrong shape.
    """
    tensors = strip_prefixes(tensors)
    if "vision_model.embeddings.class_embedding" in tensors:
        tensors = from_hugging_face(tensors)
    try:
        config = infer_config(tensors, model_cfg, quick_gelu)
        with torch.device("meta"):
            model = Clip(config)
        floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
        model.load_state_dict(floats, strict=True, assign=True)
    except (KeyError, RuntimeError, IndexError, ValueError, ZeroDivisionError) as error:
        raise ModelInvalid(f"These weights are not a CLIP model clipsearch knows: {_brief(error)}") from error
    return model.eval().requires_grad_(False)


def infer_config(tensors: Tensors, model_cfg: Mapping[str, Any], quick_gelu: bool | None) -> ClipConfig:
    """Sizes from the tensors' shapes, the rest from OpenCLIP's `model_cfg`."""
    width = tensors["ln_final.weight"].shape[0]
    text_cfg, vision_cfg = model_cfg.get("text_cfg", {}), model_cfg.get("vision_cfg", {})
    for unsupported in ("hf_model_name", "embed_cls", "no_causal_mask"):
        if text_cfg.get(unsupported):
            raise ValueError(f"text towers with {unsupported} are not supported")
    text = TextConfig(
        context_length=tensors["positional_embedding"].shape[0],
        vocab_size=tensors["token_embedding.weight"].shape[0],
        width=width,
        heads=text_cfg.get("heads", width // 64),
        layers=_count(tensors, "transformer.resblocks."),
    )
    return ClipConfig(
        embed_dim=tensors["text_projection"].shape[1],
        vision=_infer_vision(tensors, vision_cfg),
        text=text,
        quick_gelu=True if quick_gelu is None else quick_gelu,
    )


def _infer_vision(tensors: Tensors, vision_cfg: Mapping[str, Any]) -> VisionConfig:
    head_width = vision_cfg.get("head_width", 64)
    if "visual.trunk.conv_stem.weight" in tensors:
        proj = "mlp" if "visual.head.mlp.fc1.weight" in tensors else "linear"
        return VisionConfig(vision_cfg["image_size"], 0, 0, None, trunk=_TRUNK, trunk_proj=proj)
    if "visual.proj" in tensors:
        width, _, patch, _ = tensors["visual.conv1.weight"].shape
        grid = round((tensors["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        layers = _count(tensors, "visual.transformer.resblocks.")
        return VisionConfig(grid * patch, layers, width, patch, head_width)
    stages = tuple(_count(tensors, f"visual.layer{stage}.") for stage in range(1, 5))
    width = tensors["visual.layer1.0.conv1.weight"].shape[0]
    grid = round((tensors["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    first, second, third, fourth = stages
    return VisionConfig(grid * 32, (first, second, third, fourth), width, None, head_width)


def _count(tensors: Tensors, prefix: str) -> int:
    """How many numbered children the prefix has."""
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def find_weights(folder: Path) -> Path:
    """The weights file of a model folder. Raises ModelNotFound."""
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    if folder.is_file():
        return folder
    others = [path for path in sorted(folder.glob("*")) if path.suffix in (".safetensors", ".pt")]
    if len(others) == 1:
        return others[0]
    raise ModelNotFound(f"{folder} holds no CLIP weights ({', '.join(_WEIGHT_FILES[:2])} or one .pt file).")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file; never runs code from it.

    Raises ModelInvalid for anything but a safetensors file, a plain state dict or a TorchScript archive.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return _read_torch(path)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise ModelInvalid(f"{path} cannot be read as model weights: {_brief(error)}") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    import pickle

    from clipsearch.torchscript import is_torchscript, read_torchscript

    if is_torchscript(path):
        return read_torchscript(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"it holds more than tensors ({_brief(error)})") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError("it is not a dictionary of tensors")
    return loaded


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelInvalid."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelInvalid(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelInvalid(f"{path} is not a JSON object.")
    return values


def _hf_quick_gelu(config: Mapping[str, Any]) -> bool:
    # transformers' CLIPConfig defaults to quick_gelu in both towers.
    acts = {config.get(tower, {}).get("hidden_act", "quick_gelu") for tower in ("text_config", "vision_config")}
    if len(acts) != 1 or not acts <= {"quick_gelu", "gelu"}:
        raise ModelInvalid(f"config.json asks for the activations {sorted(acts)}, which clipsearch does not know.")
    return acts == {"quick_gelu"}


def _hf_preprocess(folder: Path) -> dict[str, Any]:
    path = folder / "preprocessor_config.json"
    values = read_json(path) if path.is_file() else {}
    return {"mean": values["image_mean"], "std": values["image_std"]} if "image_mean" in values else {}


def _find_tokenizer(folder: Path, text: TextConfig) -> ClipTokenizer:
    path = (folder if folder.is_dir() else folder.parent) / TOKENIZER
    if not path.is_file():
        raise ModelNotFound(
            f"{path.parent} holds no {TOKENIZER}; put the model's own beside its weights "
            "(any released CLIP repository on the hub has one)."
        )
    tokenizer = ClipTokenizer.load(path, text.context_length)
    if tokenizer.vocab_size != text.vocab_size:
        raise ModelInvalid(
            f"{path} has {tokenizer.vocab_size} tokens and the text tower {text.vocab_size}: "
            "they do not belong together."
        )
    return tokenizer


def _fingerprint(folder: Path, weights: Path, preprocess: Preprocess, embed_dim: int) -> str:
    digest = hashlib.sha256()
    with weights.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(json.dumps([preprocess.to_dict(), embed_dim], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def save_folder(
    folder: Path, model: Clip, preprocess: Preprocess, tokenizer: ClipTokenizer, *, half: bool = True
) -> None:
    """Write an OpenCLIP model folder (config, safetensors, tokenizer); `half` stores float16.

    Raises OSError when the disk does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (t.half() if half and t.is_floating_point() else t).contiguous()
        for name, t in model.state_dict().items()
    }
    config = {"model_cfg": model_cfg(model.config), "preprocess_cfg": preprocess.to_dict()}
    save_file(tensors, folder / OPEN_CLIP_WEIGHTS, metadata={"format": "pt"})
    (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(folder / TOKENIZER)


def model_cfg(config: ClipConfig) -> dict[str, Any]:
    """OpenCLIP's `model_cfg` of a model."""
    vision, text = config.vision, config.text
    vision_cfg: dict[str, Any] = {"image_size": vision.image_size}
    if vision.trunk is not None:
        vision_cfg |= {
            "timm_model_name": vision.trunk,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": vision.trunk_proj,
        }
    else:
        layers = list(vision.layers) if isinstance(vision.layers, tuple) else vision.layers
        vision_cfg |= {"layers": layers, "width": vision.width, "patch_size": vision.patch_size}
        if vision.head_width != 64:
            vision_cfg["head_width"] = vision.head_width
    text_cfg: dict[str, Any] = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.heads,
        "layers": text.layers,
    }
    if text.vocab_size != TextConfig.vocab_size:
        # OpenCLIP's own tokenizer is the released one; any other is read from the folder.
        text_cfg["hf_tokenizer_name"] = "."
    cfg: dict[str, Any] = {"embed_dim": config.embed_dim, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    if config.quick_gelu:
        cfg["quick_gelu"] = True
    return cfg
