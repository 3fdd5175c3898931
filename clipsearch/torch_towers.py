"""Both towers of a model in torch: for GPUs, and weights that only torch reads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clipsearch.bf16_tower import Bf16ImageTower, multiplies_bf16
from clipsearch.errors import UsageError
from clipsearch.model import Clip, VisionTransformer, fold_batch_norms
from clipsearch.preprocess import Preprocess

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Device:
    """Where the towers run, and in which precision the image tower does.

    GPUs run it in float16 (`half`). On a CPU with bfloat16 instructions a ViT runs in `Bf16ImageTower`
    (`bf16`).

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
        return cls(name, half=kind in ("cuda", "mps"), bf16=kind == "cpu" and multiplies_bf16())


class TorchTowers:
    """See `clipsearch.encoder.Towers`. Takes the model over: it cannot be trained any more.

    Raises ValueError for weights that are not numbers, where that is looked at (`Bf16ImageTower`).
    """

    def __init__(self, model: Clip, preprocess: Preprocess, device: Device) -> None:
        self._preprocess = preprocess
        self._device = device
        tower = model.visual
        fold_batch_norms(tower)
        # Convolutions are several times faster over channels-last memory on CPUs and tensor cores.
        tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device.half:
            tower.half()
        self._bf16 = None
        if device.bf16 and isinstance(tower, VisionTransformer):
            tensors = {f"visual.{name}": tensor.numpy() for name, tensor in tower.state_dict().items()}
            self._bf16 = Bf16ImageTower(model.config, tensors, preprocess)
        self._dtype = torch.float16 if device.half else torch.float32
        self._most = sys.maxsize  # pictures at once
        with self._device_errors():
            self._model = model.to(device.name)

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
        """What the model multiplies cosines with before a softmax."""
        return float(self._model.logit_scale.exp())

    @torch.inference_mode()
    def text_features(self, tokens_NL: npt.NDArray[np.int64]) -> Vectors:
        """Token ids -> float32 (N, dim). Raises UsageError when the device runs out of memory."""
        with self._device_errors():
            return _single(self._model.encode_text(torch.from_numpy(tokens_NL).to(self.device)))

    @torch.inference_mode()
    def image_features(self, pixels_NYXC: npt.NDArray[np.uint8]) -> Vectors:
        """Pixels, as `preprocess.pixels` makes them -> float32 (N, dim). Raises as `text_features`.

        A batch that the device has no memory for is halved, and so are those after it.
        """
        if self._bf16 is not None:
            return self._bf16.features(pixels_NYXC)
        rows: list[Vectors] = []
        done = 0
        with self._device_errors():
            while done < len(pixels_NYXC):
                part = pixels_NYXC[done : done + self._most]
                found = self._features_where_they_fit(part)
                if found is None:
                    self._most = len(part) // 2
                    continue
                rows.append(found)
                done += len(part)
        return np.concatenate(rows)

    def _features_where_they_fit(self, pixels_NYXC: npt.NDArray[np.uint8]) -> Vectors | None:
        """None where the device has no memory for so many, and they are more than one."""
        try:
            # As bytes to the device: a quarter of the traffic, and no processor has to normalise them.
            x = self._preprocess.normalise(pixels_NYXC, self.device).to(self._dtype)
            return _single(self._model.encode_image(x))
        except torch.OutOfMemoryError:
            if len(pixels_NYXC) == 1:
                raise
            return None

    @contextmanager
    def _device_errors(self) -> Iterator[None]:
        try:
            yield
        except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
            raise UsageError(
                f"The device {self.device} failed ({str(error).splitlines()[0]}); "
                "try a smaller batch, or --device cpu."
            ) from error


def _single(features: torch.Tensor) -> Vectors:
    return np.asarray(features.float().cpu().numpy(), np.float32)
