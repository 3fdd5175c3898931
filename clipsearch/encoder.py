"""A model ready for use: texts and images in, unit vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from clipsearch.errors import ModelInvalid, UsageError
from clipsearch.images import decode
from clipsearch.weights import LoadedModel, load_folder
from clipsearch.zoo import resolve

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Device:
    """Where the towers run and in which precision the image tower does.

    Text always runs in single precision: one short query costs nothing, and the last digits of its
    vector decide between near-equal photos.
    """

    name: str
    image_dtype: torch.dtype

    @classmethod
    def pick(cls, name: str | None = None) -> Device:
        """The named torch device, or the best one there is.

        Raises UsageError for a device that torch does not have here.
        """
        if name is None:
            name = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"There is no device {name!r} for torch on this machine.") from error
        half = torch.float16 if name.startswith(("cuda", "mps")) else torch.float32
        return cls(name, half)


class Encoder:
    """Embeds texts and images with one model.

    Rows of every result are float32 of unit length; two of them compare by their dot product.
    """

    def __init__(self, name: str, source: str, loaded: LoadedModel, device: Device) -> None:
        self.name = name
        self.source = source
        self.fingerprint = loaded.fingerprint
        self.preprocess = loaded.preprocess
        self._tokenizer = loaded.tokenizer
        self._device = device
        self._model = loaded.model.to(device.name)
        # Convolutions are several times faster over channels-last memory on CPUs and tensor cores.
        self._model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device.image_dtype == torch.float16:
            self._model.visual.half()

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._model.config.embed_dim

    @property
    def device(self) -> str:
        """The torch device that encodes."""
        return self._device.name

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines with before a softmax (paper §2.3)."""
        return float(self._model.logit_scale.exp())

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], batch: int = 256) -> Vectors:
        """Texts -> float32 (n, dim), unit rows."""
        rows = [
            self._model.encode_text(torch.from_numpy(self._tokenizer(texts[start : start + batch])).to(self.device))
            for start in range(0, len(texts), batch)
        ]
        return self._unit(rows)

    @torch.inference_mode()
    def encode_pixels(self, pixels_NYXC: npt.NDArray[np.uint8]) -> Vectors:
        """uint8 (n, size, size, 3), as `preprocess.pixels` makes them -> float32 (n, dim), unit rows."""
        x = self.preprocess.normalise(pixels_NYXC).to(self.device, self._device.image_dtype)
        return self._unit([self._model.encode_image(x)])

    def encode_images(self, images: Sequence[Image.Image | str | Path], batch: int = 32) -> Vectors:
        """PIL images or paths -> float32 (n, dim), unit rows.

        Raises ImageError for a file that cannot be read as an image.
        """
        size = self.preprocess.size
        rows = [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(images), batch):
            pixels = np.empty((len(images[start : start + batch]), size, size, 3), np.uint8)
            for row, image in enumerate(images[start : start + batch]):
                rgb = image.convert("RGB") if isinstance(image, Image.Image) else decode(image)[0]
                pixels[row] = self.preprocess.pixels(rgb)
            rows.append(self.encode_pixels(pixels))
        return np.concatenate(rows)

    def _unit(self, rows: list[torch.Tensor]) -> Vectors:
        if not rows:
            return np.zeros((0, self.dim), np.float32)
        unit = F.normalize(torch.cat(rows).float(), dim=-1).cpu().numpy()
        if not np.isfinite(unit).all():
            raise ModelInvalid(f"The model {self.name} gave an embedding that is not a number; its weights are damaged.")
        return np.asarray(unit, dtype=np.float32)


def load_model(
    name_or_folder: str | Path | None = None,
    *,
    device: str | None = None,
) -> Encoder:
    """Load a model by name (`mini`, a pulled one) or from a folder.

    None picks the best model on this machine. Nothing is ever downloaded here; see `clipsearch.zoo.pull`.
    Raises ModelNotFound, ModelInvalid or UsageError (no such device).
    """
    found = resolve(name_or_folder)
    return Encoder(found.name, str(found.folder), load_folder(found.folder), Device.pick(device))

