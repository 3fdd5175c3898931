"""Shifted copies of images: the same picture blurred, noisy, compressed, grey, drawn or coarse.

Severities and their constants are those of ImageNet-C (Hendrycks & Dietterich 2019, `make_imagenet_c.py` of
hendrycks/robustness) where it has the shift: `blur` is its gaussian_blur, `noise` its gaussian_noise, `jpeg`
its jpeg_compression, `resolution` its pixelate. They are meant for a centre crop of 224 px, so that is what
an image is made to first; the model's own preprocessing follows. `grayscale` and `sketch` have one severity;
`sketch` imitates the pencil drawings of ImageNet-Sketch (Wang et al. 2019) with the softly thresholded
difference of Gaussians of Winnemöller, Olsen & Gooch (2006, "Real-time video abstraction", §3.2).
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from clipsearch.errors import UsageError
from clipsearch.preprocess import Preprocess

EDGE = 224
SIGMAS = (1, 2, 3, 4, 6)
"""Standard deviation of the blur, in pixels."""
NOISES = (0.08, 0.12, 0.18, 0.26, 0.38)
"""Standard deviation of the noise, where white is 1."""
QUALITIES = (25, 18, 15, 10, 7)
"""JPEG quality."""
SCALES = (0.6, 0.5, 0.4, 0.3, 0.25)
"""Edge of the coarse picture, where the crop's is 1."""

# Of the sketch: the fine blur in pixels, the coarse one as a multiple of it (that paper's 1.6), how dark
# against its surroundings a line must be, and how soon it is black. The last two were chosen by eye.
_FINE, _COARSE, _FAINT, _SHARP = 1.0, 1.6, 0.008, 50.0


@dataclass(frozen=True, order=True)
class Shift:
    """One kind of shift at one severity, 1 the mildest. Raises UsageError for what there is not."""

    name: str
    severity: int = 1

    def __post_init__(self) -> None:
        if self.name not in SHIFTS:
            raise UsageError(f"There is no shift {self.name!r}; there are {', '.join(SHIFTS)}.")
        most = SHIFTS[self.name][1]
        if not 1 <= self.severity <= most:
            told = f"severities 1 to {most}" if most > 1 else "one severity only"
            raise UsageError(f"The shift {self.name} has {told}, not {self.severity}.")

    def __str__(self) -> str:
        """`blur 3`, or `sketch` where there is only one severity."""
        return f"{self.name} {self.severity}" if SHIFTS[self.name][1] > 1 else self.name

    def apply(self, image: Image.Image, key: str, seed: int = 0) -> Image.Image:
        """The shifted copy: RGB -> RGB of 224 × 224 px.

        The noise is drawn from `seed`, the image's `key` and the severity, so it is the same in every run and
        for every model, whatever the order.
        """
        crop = Image.fromarray(Preprocess(EDGE).pixels(image))
        rng = np.random.default_rng([seed, zlib.crc32(key.encode("utf-8", "surrogateescape")), self.severity])
        return SHIFTS[self.name][0](crop, self.severity, rng)


def shifts_named(names: list[str], severities: list[int]) -> tuple[Shift, ...]:
    """Every named shift at every severity; `all` names all. Those with one severity have it once.

    Raises UsageError.
    """
    wanted = list(SHIFTS) if "all" in names else list(dict.fromkeys(names))
    found = []
    for name in wanted:
        single = name in SHIFTS and SHIFTS[name][1] == 1
        found += [Shift(name)] if single else [Shift(name, severity) for severity in severities]
    return tuple(dict.fromkeys(found))


def _blur(image: Image.Image, severity: int, _rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(SIGMAS[severity - 1]))


def _noise(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32) / 255
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(NOISES[severity - 1])
    return _image(pixels + noise)


def _jpeg(image: Image.Image, severity: int, _rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITIES[severity - 1])
    return Image.open(buffer, formats=["JPEG"]).convert("RGB")


def _resolution(image: Image.Image, severity: int, _rng: np.random.Generator) -> Image.Image:
    edge = int(EDGE * SCALES[severity - 1])
    return image.resize((edge, edge), Image.Resampling.BOX).resize((EDGE, EDGE), Image.Resampling.BOX)


def _grayscale(image: Image.Image, _severity: int, _rng: np.random.Generator) -> Image.Image:
    return ImageOps.grayscale(image).convert("RGB")


def _sketch(image: Image.Image, _severity: int, _rng: np.random.Generator) -> Image.Image:
    """Dark lines where the picture is darker than around it: 1 + tanh(φ·min(0, G_σ − G_kσ + ε))."""
    # Noise would be drawn as well; a median takes it away and keeps edges.
    grey = ImageOps.autocontrast(ImageOps.grayscale(image)).filter(ImageFilter.MedianFilter(3))
    fine, coarse = (
        np.asarray(grey.filter(ImageFilter.GaussianBlur(sigma)), dtype=np.float32) / 255
        for sigma in (_FINE, _FINE * _COARSE)
    )
    drawn = 1 + np.tanh(_SHARP * np.minimum(fine - coarse + np.float32(_FAINT), 0))
    return _image(np.repeat(drawn[..., None], 3, axis=2))


def _image(pixels_YXC: npt.NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.rint(pixels_YXC.clip(0, 1) * 255).astype(np.uint8))


Apply = Callable[[Image.Image, int, np.random.Generator], Image.Image]

SHIFTS: dict[str, tuple[Apply, int]] = {
    "blur": (_blur, len(SIGMAS)),
    "noise": (_noise, len(NOISES)),
    "jpeg": (_jpeg, len(QUALITIES)),
    "resolution": (_resolution, len(SCALES)),
    "grayscale": (_grayscale, 1),
    "sketch": (_sketch, 1),
}
"""What each shift does, and its number of severities."""
