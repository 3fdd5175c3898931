"""The words of a model in use, without torch: texts to unit vectors, for queries that hold no picture."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ModelInvalid, UsageError
from clipsearch.mapped_model import MappedModel, map_model
from clipsearch.model_files import tokenizer_of
from clipsearch.text_tower import TextTower
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.zoo import resolve

Vectors = npt.NDArray[np.float32]


class Tower(Protocol):
    """Token ids (n, context length) -> features (n, dim), not of unit length."""

    def encode(self, tokens_NL: npt.NDArray[np.int64], /) -> Vectors:
        """See `clipsearch.text_tower.TextTower`."""


class TextEncoder:
    """Embeds texts with one model, as `clipsearch.encoder.Encoder` does, to 1e-5."""

    def __init__(self, name: str, fingerprint: str, tower: Tower, tokenizer: ClipTokenizer) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self._tower = tower
        self._tokenizer = tokenizer

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Texts -> float32 (n, dim), unit rows. Raises ModelInvalid for damaged weights, UsageError."""
        check_texts(texts)
        return unit_rows(self._tower.encode(self._tokenizer(texts)), self.name)


def load_text_encoder(
    name_or_folder: str | Path, fingerprint: str, *, resident: bool = False
) -> TextEncoder | None:
    """The words of a model by name or folder, if it is the one with that fingerprint, else None.

    `resident`: for a program that embeds one text after another, see `clipsearch.resident_text`.

    None also for weights that only torch reads (`.bin`, `.pt`). Whoever knows the fingerprint has loaded this
    very model whole: its tensors are not checked again, beyond what the fingerprint is made from.
    Raises ModelNotFound, ModelInvalid.
    """
    found = resolve(name_or_folder)
    model = map_model(found.folder)
    if model is None or model.fingerprint != fingerprint:
        return None
    tokenizer = tokenizer_of(model.folder, model.config.text)
    return TextEncoder(found.name, fingerprint, _tower(model, resident=resident), tokenizer)


def _tower(model: MappedModel, *, resident: bool) -> Tower:
    config = model.config
    if resident and find_spec("onnxruntime") is not None:
        from clipsearch.resident_text import ResidentTextTower, worth_it

        if worth_it(config.text):
            try:
                return ResidentTextTower(model.tensors, config)
            except ValueError as error:
                raise ModelInvalid(f"The weights of {model.folder} are damaged: {error}.") from error
    return TextTower(model.tensors, config.text, quick_gelu=config.quick_gelu)


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
