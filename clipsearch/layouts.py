"""Tensor names of other layouts, translated to OpenAI's (the ones `clipsearch.model` uses)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

# OpenAI's archives carry these sizes as tensors; the shapes say the same.
_METADATA = ("input_resolution", "context_length", "vocab_size")


def strip_prefixes(tensors: Tensors) -> dict[str, Tensor]:
    """Drop what wrappers add: `module.` (DDP), `text.` (OpenCLIP's custom text), size metadata, buffers."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("module.").removeprefix("text.")
        if name not in _METADATA and not name.endswith("attn_mask") and not name.endswith("position_ids"):
            out[name] = tensor
    return out




def from_hugging_face(tensors: Tensors) -> dict[str, Tensor]:
    """`transformers.CLIPModel` names and layouts -> OpenAI's."""
    out: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        block = re.fullmatch(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)", name)
        if block is None:
            if name in _HF_NAMES:
                out[_HF_NAMES[name]] = tensor.T if name.endswith("_projection.weight") else tensor
            else:
                out[name] = tensor
            continue
        tower = "transformer" if block[1] == "text" else "visual.transformer"
        prefix = f"{tower}.resblocks.{block[2]}."
        qkv = re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", block[3])
        if qkv is not None:
            joined.setdefault(f"{prefix}attn.in_proj_{qkv[2]}", {})[qkv[1]] = tensor
        else:
            module, kind = block[3].rsplit(".", 1)
            out[f"{prefix}{_HF_BLOCK[module]}.{kind}"] = tensor
    for name, parts in joined.items():
        out[name] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return out


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
