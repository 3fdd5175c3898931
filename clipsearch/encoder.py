"""A model ready for use: texts and images in, unit vectors out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from clipsearch.errors import ImageError, UsageError
from clipsearch.images import decode, to_rgb
from clipsearch.model import VisionTransformer, fold_batch_norms
from clipsearch.text_encoder import check_texts, unit_rows
from clipsearch.weights import LoadedModel, load_folder
from clipsearch.zoo import resolve

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Device:
    """Where the towers run, and in which precision the image tower does.

    GPUs run it in float16 (`half`). On a CPU with bfloat16 instructions a ViT multiplies its matrices in
    bfloat16 (`bf16`) and keeps everything between them in single precision: for ViT-B/32 3 times faster,
    at a mean cosine of 0.99996 to single precision. Convolutional towers lose more (0.9998) and stay single.

    Text always runs in single precision: one short query costs nothing, and the last digits of its
    vector decide between near-equal photos.
    """

    name: str
    half: bool = False
    bf16: bool = False

    @classmethod
    def pick(cls, name: str | None = None) -> Device:
        """The named torch device, or the best one there is.

        Raises UsageError for a device that torch does not have here.
        """
        if name is None:
            name = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
        try:
            torch.ones(1, device=name).cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UsageError(f"There is no device {name!r} for torch on this machine.") from error
        kind = torch.device(name).type
        return cls(name, half=kind in ("cuda", "mps"), bf16=kind == "cpu" and cpu_has_bf16())


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16)."""
    # mkldnn itself answers "yes" from AVX512 on, where bfloat16 is emulated and slower than float32.
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


class Encoder:
    """Embeds texts and images with one model.

    Rows of every result are float32 of unit length; two of them compare by their dot product.
    The encoder takes the loaded model over and prepares it for inference: it cannot be trained any more.
    """

    def __init__(self, name: str, source: str, loaded: LoadedModel, device: Device) -> None:
        self.name = name
        self.source = source
        self.fingerprint = loaded.fingerprint
        self.preprocess = loaded.preprocess
        self._tokenizer = loaded.tokenizer
        self._device = device
        tower = loaded.model.visual
        fold_batch_norms(tower)
        # Convolutions are several times faster over channels-last memory on CPUs and tensor cores.
        tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._autocast = device.bf16 and isinstance(tower, VisionTransformer)
        if device.half:
            tower.half()
        if self._autocast:
            _matrices_to_bf16(tower)
        self._dtype = torch.float16 if device.half else torch.float32
        with self._device_errors():
            self._model = loaded.model.to(device.name)

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
        """Texts -> float32 (n, dim), unit rows. Raises ModelInvalid for damaged weights, UsageError."""
        check_texts(texts)
        with self._device_errors():
            rows = [
                self._model.encode_text(
                    torch.from_numpy(self._tokenizer(texts[start : start + batch])).to(self.device)
                )
                for start in range(0, len(texts), batch)
            ]
            return self._unit(rows)

    @torch.inference_mode()
    def encode_pixels(self, pixels_NYXC: npt.NDArray[np.uint8]) -> Vectors:
        """uint8 (n, size, size, 3), as `preprocess.pixels` makes them -> float32 (n, dim), unit rows.

        Raises ModelInvalid for damaged weights, UsageError when the device runs out of memory.
        """
        if not len(pixels_NYXC):
            return self._unit([])
        with self._device_errors(), torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            x = self.preprocess.normalise(pixels_NYXC).to(self.device, self._dtype)
            return self._unit([self._model.encode_image(x)])

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

    def _unit(self, rows: list[torch.Tensor]) -> Vectors:
        if not rows:
            return np.zeros((0, self.dim), np.float32)
        return unit_rows(np.asarray(torch.cat(rows).float().cpu().numpy(), np.float32), self.name)

    @contextmanager
    def _device_errors(self) -> Iterator[None]:
        try:
            yield
        except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
            raise UsageError(
                f"The device {self.device} failed ({str(error).splitlines()[0]}); "
                "try a smaller batch, or --device cpu."
            ) from error


def _matrices_to_bf16(tower: torch.nn.Module) -> None:
    """Round once what autocast would round at every call; gains and biases stay single."""
    for parameter in tower.parameters():
        if parameter.ndim >= 2:
            parameter.data = parameter.data.bfloat16()


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

    None picks the best model on this machine. Nothing is ever downloaded here; see `clipsearch.zoo.pull`.
    Raises ModelNotFound, ModelInvalid or UsageError (no such device).
    """
    found = resolve(name_or_folder)
    return Encoder(found.name, str(found.folder), load_folder(found.folder), Device.pick(device))
