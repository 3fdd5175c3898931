"""The one place where image bytes become pixels.

Whatever the file holds, the result is what a viewer would show: RGB, upright, transparency on white, the
first frame of an animation. Whatever is wrong with it, the error is `ImageError` with a short reason.

Colour profiles are not applied: the preprocessing that released CLIP models were trained with does not
apply them either, and an embedding has to see the pixels that the model saw.
"""

from __future__ import annotations

import functools
import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    Image,
    JpegImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from clipsearch.errors import ImageError
from clipsearch.files import FILE_LIMIT, FailureKind, ImageFileError, read_file
from clipsearch.metadata import PhotoMetadata, orientation, read_metadata

__all__ = [
    "DCT_MARGIN",
    "FILE_LIMIT",
    "FORMATS",
    "PIXEL_LIMIT",
    "FailureKind",
    "ImageFileError",
    "PhotoMetadata",
    "decode",
    "formats",
    "read_file",
]

# Pillow would otherwise import all its plugins, Ghostscript's among them, to find these three.
_PLUGINS = (AvifImagePlugin, TiffImagePlugin, WebPImagePlugin)
# Without a handler of its own, Pillow's complaints about odd TIFF files go to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
"""Pillow's names of the formats that are read, whatever a file is called; HEIF joins them in `formats`."""

PIXEL_LIMIT = 178_956_970
"""Pixels of the largest image that is read: where Pillow itself refuses (twice `Image.MAX_IMAGE_PIXELS`).

Pillow warns from half of that, but phones make photos of 108 MP. At four bytes a pixel it bounds a
decoded image to 716 MB.
"""

DCT_MARGIN = 1.4
"""A JPEG is decoded at the smallest scale whose short side still is this many times the model's input.

Photos of 12 megapixels, 3,000 px on their short side, are then decoded at an eighth for inputs up to 267 px.
The embeddings of 68 large photos have a mean cosine of 0.9997 to those of a full decode, 0.9982 at least, for
a third of its CPU time (`benchmarks/dct_scale.py`).
"""

# Web images were put on white before the models were trained on them (img2dataset does so for LAION and
# DataComp), and drawings with a transparent ground are drawn for a white page.
_BACKGROUND = (255, 255, 255)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    source: Path | str | bytes | BinaryIO, *, cover: int | None = None
) -> tuple[Image.Image, PhotoMetadata]:
    """Decode an image as a viewer shows it.

    source: a path (`Path` or `str`), the file's bytes, or a binary stream, read to its end.
    cover: the edge of the model's input in pixels. JPEGs are then decoded at the smallest scale whose
        short side still is `DCT_MARGIN` times that, which costs a fraction of the time.

    Returns the image, mode RGB and upright, and its metadata, whose width and height are those of the
    stored image whatever the scale. Raises `ImageFileError`, an `ImageError`.
    """
    data = _source_bytes(source)
    if not data:
        raise ImageFileError("an empty file", "corrupt")
    with _quiet(), _translated() as seen, Image.open(io.BytesIO(data), formats=formats(data)) as image:
        seen.format = "JPEG" if image.format == "MPO" else image.format or seen.format
        stored = image.size
        _check_pixels(stored)
        if cover is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            edge = max(1, round(cover * DCT_MARGIN))
            image.draft(None, (edge, edge))  # both edges: the orientation may swap them below
            image.decodermaxblock = len(data)  # in one piece: it copies what it has not read between two
        image.load()
        # Only now: a PNG may bring its EXIF behind the pixels, and Pillow has turned a TIFF already.
        turn = orientation(image)
        metadata = read_metadata(image, stored[::-1] if turn >= 5 else stored, seen.format)
        pixels = to_rgb(image)
        return (pixels.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else pixels), metadata


def _source_bytes(source: Path | str | bytes | BinaryIO) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, (str, Path)):
        return read_file(source, follow_symlinks=True)[0]
    data = source.read(FILE_LIMIT + 1)
    if len(data) > FILE_LIMIT:
        raise ImageFileError(f"too large (the limit is {FILE_LIMIT >> 20} MiB)", "too-large")
    return data


def formats(data: bytes) -> tuple[str, ...]:
    """`FORMATS`, and HEIF where `data` may be that and pillow-heif is there to read it."""
    return (*FORMATS, "HEIF") if data[4:8] == b"ftyp" and _register_heif() else FORMATS


@functools.cache
def _register_heif() -> bool:
    """Register pillow-heif with Pillow; late, because it loads two video codecs."""
    try:
        import pillow_heif
    except ImportError:
        return False
    # Embedded thumbnails, depth maps and mattes are of no use here, only more to go wrong.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True


def _check_pixels(size: tuple[int, int]) -> None:
    pixels = size[0] * size[1]
    if pixels > PIXEL_LIMIT:
        raise ImageFileError(_too_many_pixels(pixels), "too-large")
    if pixels == 0:
        raise ImageFileError("an image without pixels", "corrupt")


def _too_many_pixels(pixels: int) -> str:
    return f"too many pixels ({pixels / 1e6:.0f} MP; the limit is {PIXEL_LIMIT / 1e6:.0f} MP)"


def to_rgb(image: Image.Image) -> Image.Image:
    """Render a loaded image of any of Pillow's modes as RGB on white; ValueError if there is no way."""
    if image.mode.startswith("I;16"):
        return _grey(_rescale(np.asarray(image), 65535))
    if image.mode in ("I", "F"):
        return _grey(_rescale_by_range(np.asarray(image)))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        ground = Image.new("RGB", rgba.size, _BACKGROUND)
        ground.paste(rgba, mask=rgba.getchannel("A"))
        return ground
    # CMYK needs nothing more: Pillow has undone Adobe's inversion while decoding.
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(values: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _rescale(values: npt.NDArray[np.generic], white: float) -> npt.NDArray[np.uint8]:
    """(H, W) numbers with 0 black and `white` white → uint8 (H, W), rounded."""
    scaled: npt.NDArray[np.float32] = np.asarray(values, dtype=np.float32) * np.float32(255 / white)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def _rescale_by_range(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Numbers of 32 bits say nothing about which of them is white: take the scale that they fit.

    That is 0-1, 0-255 or 0-65535, and else their own range. Numbers that are not finite are black.
    """
    numbers = np.nan_to_num(np.asarray(values, dtype=np.float32), nan=0, posinf=0, neginf=0)
    low, high = float(numbers.min()), float(numbers.max())
    scales = (1, 255, 65535) if np.issubdtype(values.dtype, np.floating) else (255, 65535)
    if low >= 0:
        for white in scales:
            if high <= white:
                return _rescale(numbers, white)
    return _rescale(numbers - np.float32(low), max(high - low, 1e-30))


@dataclass
class _Seen:
    """What was known of an image when it failed."""

    format: str = "image"


@contextmanager
def _translated() -> Iterator[_Seen]:
    """Turn whatever Pillow and its codecs raise into `ImageFileError`."""
    seen = _Seen()
    try:
        yield seen
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageFileError("not an image clipsearch can read", "corrupt") from error
    except Image.DecompressionBombError as error:
        # Found while opening: "Image size (400000000 pixels) exceeds limit of …"
        counted = re.search(r"(\d+) pixels", str(error))
        reason = _too_many_pixels(int(counted[1])) if counted else "too many pixels"
        raise ImageFileError(reason, "too-large") from error
    except MemoryError as error:
        raise ImageFileError("not enough memory to decode it", "memory") from error
    except Exception as error:
        # OSError, ValueError, SyntaxError, NotImplementedError, struct.error, zlib.error, EOFError, KeyError,
        # RuntimeError, … : a decoder that meets nonsense raises nearly anything, and each costs one file.
        raise ImageFileError(_reason(error, seen.format), "corrupt") from error


def _reason(error: Exception, name: str) -> str:
    message = " ".join(str(error).split())[:100]
    if "truncated" in message.lower() or isinstance(error, EOFError):
        return f"truncated {name}"
    return f"damaged {name} ({message})" if message.isprintable() and message else f"damaged {name}"


_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_filters = warnings.catch_warnings()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings while Pillow decodes: what matters of them is an error or a metadata field of None.

    `warnings.catch_warnings` is not thread-safe: the first decoder in sets the filters aside, the last one
    out puts them back, and nobody's filters are lost in between.
    """
    global _quiet_users, _quiet_filters
    with _quiet_lock:
        _quiet_users += 1
        if _quiet_users == 1:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.simplefilter("ignore")
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                _quiet_filters.__exit__(None, None, None)
