"""What other tools call things: tensor names and configs, translated to OpenCLIP's.

`clipsearch.model` uses OpenAI's tensor names, which OpenCLIP kept. What a config asks for and clipsearch does
not do is refused by name here: a model read half-right would answer, and wrongly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, Self, TypeVar

from clipsearch.errors import ModelInvalid
from clipsearch.sizes import ClipConfig
from clipsearch.trunk_blocks import TRUNKS


class Array(Protocol):
    """What is asked of a tensor here: torch's and NumPy's will do."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its axes."""

    @property
    def T(self) -> Self:  # noqa: N802 - the name it has
        """Transposed."""


A = TypeVar("A", bound=Array)
Join = Callable[[list[A]], A]
"""Puts arrays together along their first axis."""

# OpenAI's archives carry these sizes as tensors; the shapes say the same.
_METADATA = ("input_resolution", "context_length", "vocab_size")

# Options of OpenCLIP's configs that change what is computed, and the value at which they do not.
_PLAIN: dict[str, dict[str, Any]] = {
    "text_cfg": {
        "hf_model_name": None,
        "embed_cls": False,
        "no_causal_mask": False,
        "pool_type": "argmax",
        "proj_type": "linear",
    },
    "vision_cfg": {
        "attentional_pool": False,
        "global_average_pool": False,
        "input_patchnorm": False,
        "no_ln_pre": False,
        "pool_type": "tok",
        "pos_embed_type": "learnable",
        "timm_pool": "avg",
    },
}
_PLAIN_BOTH = ("act_kwargs", "norm_kwargs", "ls_init_value", "final_ln_after_pool", "qk_norm")
# Tensors that give away another architecture where no config does.
_FOREIGN = {
    "logit_bias": "a SigLIP model (trained with the sigmoid loss's bias)",
    "text_decoder.": "a CoCa model (with a caption decoder)",
    "text.cls_emb": "a CoCa model (with a text class token)",
    "text.transformer.embeddings.": "a model with a Hugging Face text tower",
    "text.transformer.encoder.": "a model with a Hugging Face text tower",
    "vision_model.head.probe": "a SigLIP model",
}


def openai_layout(tensors: Mapping[str, A], asked: Mapping[str, Any], join: Join[A]) -> dict[str, A]:
    """The tensors of any layout under OpenAI's names; `asked` is OpenCLIP's `model_cfg`.

    Raises ModelInvalid for an architecture that is not CLIP as `clipsearch.model` has it.
    """
    refuse_unsupported(tensors, asked)
    plain = strip_prefixes(tensors)
    return from_hugging_face(plain, join) if is_hugging_face(plain) else plain


def refuse_unsupported(names: Iterable[str], model_cfg: Mapping[str, Any]) -> None:
    """Raise ModelInvalid, naming it, for an architecture that is not CLIP as `clipsearch.model` has it."""
    if "multimodal_cfg" in model_cfg:
        raise ModelInvalid("This is a CoCa model (multimodal_cfg), which clipsearch does not support.")
    for part, plain in _PLAIN.items():
        for key, value in table(model_cfg, part).items():
            asked = value if value not in (None, False, {}) else plain.get(key)
            if (
                (key in plain and asked != plain[key])
                or (key in _PLAIN_BOTH and asked is not None)
                or (key == "timm_model_name" and asked not in (None, *TRUNKS))
            ):
                raise ModelInvalid(
                    f"The model asks for {part}.{key} = {value!r}, which clipsearch does not support."
                )
    for name in names:
        for start, what in _FOREIGN.items():
            if name.startswith(start):
                raise ModelInvalid(f"This is {what}, which clipsearch does not support.")


def table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under a key of a config, empty where there is none. Raises ModelInvalid."""
    found = values.get(key) or {}
    if not isinstance(found, Mapping):
        raise ModelInvalid(f"The model's config is damaged: {key} is {found!r}.")
    return found


def strip_prefixes(tensors: Mapping[str, A]) -> dict[str, A]:
    """Drop what wrappers add: `module.` (DDP), `text.` (OpenCLIP's custom text), size metadata, buffers."""
    out: dict[str, A] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("module.").removeprefix("text.")
        if name not in _METADATA and not name.endswith(("attn_mask", "position_ids")):
            out[name] = tensor
    return out


def is_hugging_face(names: Iterable[str]) -> bool:
    """Whether the names are those of `transformers.CLIPModel`."""
    return any(name.startswith("vision_model.") for name in names)


def from_hugging_face(tensors: Mapping[str, A], join: Join[A]) -> dict[str, A]:
    """`transformers.CLIPModel` names and layouts -> OpenAI's; names it does not know stay as they are."""
    out: dict[str, A] = {}
    joined: dict[str, dict[str, A]] = {}
    for name, tensor in tensors.items():
        block = re.fullmatch(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if block is None:
            transposed = name in ("text_projection.weight", "visual_projection.weight")
            out[_HF_NAMES.get(name, name)] = tensor.T if transposed else tensor
            continue
        tower = "transformer" if block[1] == "text" else "visual.transformer"
        prefix, module, kind = f"{tower}.resblocks.{block[2]}.", block[3], block[4]
        if module in _HF_QKV:
            joined.setdefault(f"{prefix}attn.in_proj_{kind}", {})[module] = tensor
        else:
            out[f"{prefix}{_HF_BLOCK.get(module, module)}.{kind}"] = tensor
    for name, parts in joined.items():
        if len(parts) == len(_HF_QKV):
            out[name] = join([parts[module] for module in _HF_QKV])
    return out


def hugging_face_settings(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json` and `preprocessor_config.json` of a `CLIPModel` -> OpenCLIP's settings.

    What transformers leaves out of its files are the defaults of its `CLIPTextConfig` and `CLIPVisionConfig`.
    Raises ModelInvalid for what clipsearch does not compute.
    """
    kind = config.get("model_type", "clip")
    if kind != "clip":
        raise ModelInvalid(f"config.json describes a model of type {kind!r}; clipsearch reads 'clip'.")
    # Old files hold what the user changed in a second table, which wins.
    text = {**table(config, "text_config"), **table(config, "text_config_dict")}
    vision = {**table(config, "vision_config"), **table(config, "vision_config_dict")}
    acts = {tower.get("hidden_act", "quick_gelu") for tower in (text, vision)}
    if len(acts) != 1 or not acts <= {"quick_gelu", "gelu"}:
        raise ModelInvalid(
            f"config.json asks for the activations {sorted(map(str, acts))}, which clipsearch does not do."
        )
    if {tower.get("layer_norm_eps", 1e-5) for tower in (text, vision)} != {1e-5}:
        raise ModelInvalid(
            "config.json asks for another layer_norm_eps than 1e-5, which clipsearch does not do."
        )
    # 2 is what the released configs said by mistake; transformers then reads at the highest id, as CLIP does.
    end, last = text.get("eos_token_id", 49407), text.get("vocab_size", 49408) - 1
    if end not in (2, last):
        raise ModelInvalid(
            f"config.json ends texts with token {end}; clipsearch reads at the last one, {last}."
        )
    preprocess = {"mean": preprocessor.get("image_mean"), "std": preprocessor.get("image_std")}
    if preprocessor.get("resample") == 2:
        preprocess["interpolation"] = "bilinear"
    return {
        "model_cfg": {
            "quick_gelu": acts == {"quick_gelu"},
            "text_cfg": {"heads": text.get("num_attention_heads", 8)},
            "vision_cfg": {
                "head_width": vision.get("hidden_size", 768) // max(1, vision.get("num_attention_heads", 12))
            },
        },
        "preprocess_cfg": {key: value for key, value in preprocess.items() if value is not None},
    }


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
    elif isinstance(vision.layers, tuple):
        vision_cfg |= {"layers": list(vision.layers), "width": vision.width, "patch_size": None}
    else:
        vision_cfg |= {"layers": vision.layers, "width": vision.width, "patch_size": vision.patch_size}
    if vision.trunk is None and vision.head_width != 64:
        vision_cfg["head_width"] = vision.head_width
    text_cfg: dict[str, Any] = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        # OpenCLIP reads the folder's own tokenizer where this is set.
        "hf_tokenizer_name": ".",
        "width": text.width,
        "heads": text.heads,
        "layers": text.layers,
    }
    cfg: dict[str, Any] = {"embed_dim": config.embed_dim, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    if config.quick_gelu:
        cfg["quick_gelu"] = True
    return cfg


_HF_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_HF_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_HF_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    # transformers spells it so.
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
}
