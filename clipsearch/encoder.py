"""A model ready for use: texts and images in, unit vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from clipsearch.devices import may_have_gpu
from clipsearch.errors import ImageError, ModelInvalid, UsageError
from clipsearch.images import decode, to_rgb
from clipsearch.preprocess import Preprocess
from clipsearch.text_encoder import check_texts, unit_rows
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.zoo import Found, resolve

Vectors = npt.NDArray[np.float32]


class Towers(Protocol):
    """Both towers of a model, wherever they run: tokens and pixels in, features out, not of unit length."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""

    @property
    def device(self) -> str:
        """The torch device that encodes; "cpu" without torch, too."""

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines with before a softmax (paper §2.3)."""

    def text_features(self, tokens_NL: npt.NDArray[np.int64]) -> Vectors:
        """(N, context length) token ids, N ≥ 1 -> float32 (N, dim)."""

    def image_features(self, pixels_NYXC: npt.NDArray[np.uint8]) -> Vectors:
        """uint8 (N, size, size, 3), N ≥ 1 -> float32 (N, dim)."""


class Encoder:
    """Embeds texts and images with one model.

    Rows of every result are float32 of unit length; two of them compare by their dot product.
    """

    def __init__(
        self,
        name: str,
        source: str,
        fingerprint: str,
        preprocess: Preprocess,
        tokenizer: ClipTokenizer,
        towers: Towers,
    ) -> None:
        self.name = name
        self.source = source
        self.fingerprint = fingerprint
        self.preprocess = preprocess
        self._tokenizer = tokenizer
        self._towers = towers

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._towers.dim

    @property
    def device(self) -> str:
        """The torch device that encodes; "cpu" without torch, too."""
        return self._towers.device

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines with before a softmax (paper §2.3)."""
        return self._towers.logit_scale

    def encode_text(self, texts: Sequence[str], batch: int = 256) -> Vectors:
        """Texts -> float32 (n, dim), unit rows. Raises ModelInvalid for damaged weights, UsageError."""
        check_texts(texts)
        rows = [
            self._towers.text_features(self._tokenizer(texts[start : start + batch]))
            for start in range(0, len(texts), batch)
        ]
        return self._unit(rows)

    def encode_pixels(self, pixels_NYXC: npt.NDArray[np.uint8]) -> Vectors:
        """uint8 (n, size, size, 3), as `preprocess.pixels` makes them -> float32 (n, dim), unit rows.

        Raises ModelInvalid for damaged weights, UsageError when the device runs out of memory.
        """
        return self._unit([self._towers.image_features(pixels_NYXC)] if len(pixels_NYXC) else [])

    def encode_images(self, images: Sequence[Image.Image | str | Path], batch: int = 32) -> Vectors:
        """PIL images or paths -> float32 (n, dim), unit rows.

        Raises ImageError for what cannot be read as an image, ModelInvalid, UsageError.
        """
        if isinstance(images, (str, Path, Image.Image)):
            raise UsageError("encode_images takes a list of images.")
        size = self.preprocess.size
        rows = [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(images), batch):
            chosen = images[start : start + batch]
            pixels = np.empty((len(chosen), size, size, 3), np.uint8)
            for row, image in enumerate(chosen):
                rgb = _rendered(image) if isinstance(image, Image.Image) else decode(image)[0]
                pixels[row] = self.preprocess.pixels(rgb)
            rows.append(self.encode_pixels(pixels))
        return np.concatenate(rows)

    def _unit(self, rows: list[Vectors]) -> Vectors:
        if not rows:
            return np.zeros((0, self.dim), np.float32)
        return unit_rows(np.concatenate(rows), self.name)


def _rendered(image: Image.Image) -> Image.Image:
    """An image that someone opened, as `decode` would give it: upright, RGB. Raises ImageError."""
    try:
        return to_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"An image of mode {image.mode} cannot be rendered: {error}") from error


def load_model(
    name_or_folder: str | Path | None = None,
    *,
    device: str | None = None,
) -> Encoder:
    """Load a model by name (`mini`, a pulled one) or from a folder.

    None picks the best model on this machine. `device` is a torch device; None picks the best there is. On a
    CPU the model runs without torch, in the same precision; with bfloat16 instructions many images at once
    run in torch, see `clipsearch.bf16_tower`.
    Nothing is ever downloaded here; see `clipsearch.zoo.pull`.
    Raises ModelNotFound, ModelInvalid or UsageError (no such device).
    """
    found = resolve(name_or_folder)
    without_torch = _in_runtime(found) if _runtime_is_best(device) else None
    return without_torch or _in_torch(found, device)


def _runtime_is_best(device: str | None) -> bool:
    """Whether a model had better run in ONNX Runtime, if that can run it."""
    if device not in (None, "cpu") or find_spec("onnxruntime") is None:
        return False
    if device is None and may_have_gpu():
        from clipsearch.torch_towers import Device

        return Device.pick().name == "cpu"
    return True


def _in_runtime(found: Found) -> Encoder | None:
    """None for weights that only torch reads."""
    from clipsearch.mapped_model import map_model
    from clipsearch.model_files import tokenizer_of
    from clipsearch.runtime_towers import RuntimeTowers

    model = map_model(found.folder, whole=True)
    if model is None:
        return None
    tokenizer = tokenizer_of(model.folder, model.config.text)
    source, towers = str(found.folder), RuntimeTowers(model)
    return Encoder(found.name, source, model.fingerprint, model.preprocess, tokenizer, towers)


def _in_torch(found: Found, device: str | None) -> Encoder:
    from clipsearch.torch_towers import Device, TorchTowers
    from clipsearch.weights import load_folder

    picked, loaded = Device.pick(device), load_folder(found.folder)
    source = str(found.folder)
    try:
        towers = TorchTowers(loaded.model, loaded.preprocess, picked)
    except ValueError as error:
        raise ModelInvalid(f"The weights of {source} are damaged: {error}.") from error
    return Encoder(found.name, source, loaded.fingerprint, loaded.preprocess, loaded.tokenizer, towers)
