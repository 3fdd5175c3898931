"""The words of a model in use, without torch: texts to unit vectors, for queries that hold no picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ModelInvalid, UsageError
from clipsearch.mapped_model import map_model
from clipsearch.model_files import tokenizer_of
from clipsearch.text_tower import TextTower
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.zoo import resolve

Vectors = npt.NDArray[np.float32]


class TextEncoder:
    """Embeds texts with one model, as `clipsearch.encoder.Encoder` does, to 1e-5."""

    def __init__(self, name: str, fingerprint: str, tower: TextTower, tokenizer: ClipTokenizer) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self._tower = tower
        self._tokenizer = tokenizer

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Texts -> float32 (n, dim), unit rows. Raises ModelInvalid for damaged weights, UsageError."""
        check_texts(texts)
        return unit_rows(self._tower.encode(self._tokenizer(texts)), self.name)


def load_text_encoder(name_or_folder: str | Path, fingerprint: str) -> TextEncoder | None:
    """The words of a model by name or folder, if it is the one with that fingerprint, else None.

    None also for weights that only torch reads (`.bin`, `.pt`). Whoever knows the fingerprint has loaded this
    very model whole: its tensors are not checked again, beyond what the fingerprint is made from.
    Raises ModelNotFound, ModelInvalid.
    """
    found = resolve(name_or_folder)
    model = map_model(found.folder)
    if model is None or model.fingerprint != fingerprint:
        return None
    config = model.config
    tower = TextTower(model.tensors, config.text, quick_gelu=config.quick_gelu)
    return TextEncoder(found.name, fingerprint, tower, tokenizer_of(model.folder, config.text))


def check_texts(texts: Sequence[str]) -> None:
    """Raise UsageError for a single text, which is a sequence of letters."""
    if isinstance(texts, str):
        raise UsageError("encode_text takes a list of texts.")


def unit_rows(features: Vectors, model: str) -> Vectors:
    """float32 (n, dim) features at unit length. Raises ModelInvalid, naming the model, where that fails."""
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        # Not "norm is 0 or not finite": a comparison with NaN is false.
        bad = np.flatnonzero(~((norms > 0) & np.isfinite(norms)))
    if bad.size:
        told = ", ".join(map(str, bad[:10])) + (", …" if bad.size > 10 else "")
        raise ModelInvalid(
            f"The model {model} gave no usable embedding for {bad.size} of {len(features)} inputs "
            f"(rows {told}); its weights are damaged."
        )
    unit: Vectors = features / norms
    return unit
