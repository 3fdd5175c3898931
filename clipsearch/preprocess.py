"""From an upright RGB image to the pixels a model was trained on.

Equals the released evaluation transform to the pixel: shorter side to the model's edge (bicubic,
antialiased, torchvision's rounding), centre crop, then per-channel mean and standard deviation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

# openai/CLIP, clip/clip.py, `_transform`.
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
# From this ratio of the sides on only the middle of an image is resized; before, all of it is, as in the
# released transform, and then cropped. The pixels are the same but for rounding.
EXTREME = 8


@dataclass(frozen=True)
class Preprocess:
    """The evaluation transform of a model; picklable, so that decode workers can run `pixels`.

    `size` is the edge of the square input in pixels. `squash` resizes both sides to `size` without
    keeping the aspect ratio, as some released models (SigLIP) do.
    """

    size: int
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: str = "bicubic"
    squash: bool = False

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """An RGB image -> uint8 (size, size, 3), resized and cropped."""
        from PIL import Image  # not for those who only want to know the size, as a query does

        resample = Image.Resampling[self.interpolation.upper()]
        if self.squash:
            return np.asarray(image.resize((self.size, self.size), resample))
        width, height = image.size
        # torchvision.transforms.Resize: the longer side is truncated, not rounded.
        if width <= height:
            resized = (self.size, int(self.size * height / width))
        else:
            resized = (int(self.size * width / height), self.size)
        # torchvision.transforms.CenterCrop rounds half to even.
        left = round((resized[0] - self.size) / 2.0)
        top = round((resized[1] - self.size) / 2.0)
        if max(resized) > EXTREME * self.size:
            # A line of 1 × 65,000 would be enlarged to gigabytes for its middle.
            across, down = width / resized[0], height / resized[1]
            middle = (left * across, top * down, (left + self.size) * across, (top + self.size) * down)
            return np.asarray(image.resize((self.size, self.size), resample, box=middle))
        if resized != image.size:
            image = image.resize(resized, resample)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

    def normalise(self, pixels_NYXC: npt.NDArray[np.uint8], device: str | torch.device = "cpu") -> Tensor:
        """uint8 (N, Y, X, 3) -> float32 tensor (N, 3, Y, X) on `device`, channels last in memory."""
        import torch

        x = torch.from_numpy(np.ascontiguousarray(pixels_NYXC)).to(device).permute(0, 3, 1, 2)
        mean = torch.tensor(self.mean, device=device).view(3, 1, 1)
        std = torch.tensor(self.std, device=device).view(3, 1, 1)
        return x.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        """OpenCLIP's `preprocess_cfg`."""
        values = asdict(self)
        values["resize_mode"] = "squash" if values.pop("squash") else "shortest"
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any], size: int) -> Preprocess:
        """Read OpenCLIP's `preprocess_cfg`; what it leaves out is OpenAI's."""
        return cls(
            size=size,
            mean=_triple(values.get("mean", OPENAI_MEAN)),
            std=_triple(values.get("std", OPENAI_STD)),
            interpolation=values.get("interpolation", "bicubic"),
            squash=values.get("resize_mode", "shortest") == "squash",
        )


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
