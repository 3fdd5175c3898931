"""A model folder without torch: its tensors where they lie on the disk, its sizes, its fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.digests import sha256_of
from clipsearch.layouts import openai_layout, table
from clipsearch.mapped import BFLOAT16, Mapped, map_tensors
from clipsearch.model_files import (
    as_invalid,
    find_weights,
    fingerprint_of,
    infer_config,
    preprocess_of,
    settings_of,
)
from clipsearch.preprocess import Preprocess
from clipsearch.sizes import ClipConfig
from clipsearch.tensor_shapes import check_tensors


@dataclass(frozen=True)
class MappedModel:
    """What is in a model folder; `tensors` under OpenAI's names, over a memory map."""

    folder: Path
    tensors: dict[str, Mapped]
    config: ClipConfig
    preprocess: Preprocess
    fingerprint: str


def map_model(folder: Path, *, whole: bool = False) -> MappedModel | None:
    """Look at a model folder or a weights file; None for weights that only torch reads (`.bin`, `.pt`).

    Without `whole` it is for those who know the fingerprint, and so have loaded this very model whole: its
    tensors are not checked again, beyond what the fingerprint is made from, and the image tower may lack
    some. Raises ModelNotFound, ModelInvalid.
    """
    weights = find_weights(folder)
    if weights.suffix != ".safetensors":
        return None
    with (
        as_invalid(f"{weights.parent} is not a CLIP model that clipsearch can read"),
        weights.open("rb") as file,
    ):
        settings = settings_of(weights)
        asked = None if settings is None else table(settings, "model_cfg")
        mapped = map_tensors(file)
        tensors = openai_layout(mapped if whole else _without_pictures(mapped), asked or {}, np.concatenate)
        config = infer_config(tensors, asked)
        if whole:
            check_tensors({name: (t.shape, _floating(t)) for name, t in tensors.items()}, config)
        preprocess = preprocess_of(table(settings or {}, "preprocess_cfg"), config.vision.image_size)
        fingerprint = fingerprint_of(sha256_of(file), preprocess, config)
    return MappedModel(weights.parent, tensors, config, preprocess, fingerprint)


def _without_pictures(tensors: dict[str, Mapped]) -> dict[str, Mapped]:
    """Leave out the queries, keys and values of transformers' image tower: joining would copy them."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not (name.startswith("vision_model.encoder.") and ".self_attn." in name)
    }


def _floating(tensor: Mapped) -> bool:
    return tensor.dtype.kind == "f" or tensor.dtype == BFLOAT16
