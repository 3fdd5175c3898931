"""Photographs of a camera's size, for measuring: the photographs of a folder enlarged, with a sensor's noise.

    python -m benchmarks.camera_photos PHOTOS OUT [--count 160] [--megapixels 2.0]

Small pictures say little of indexing, since decoding them costs nothing. Each JPEG here has the pixels asked
for, 4:2:0 chroma, quality 92 and enough noise to weigh what a camera's files do (about half a byte a pixel).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipsearch_indexer.scan import FileStat, scan

SMALLEST = 180  # pixels of the shorter side; below that a picture is an icon
NOISE = 4.0  # standard deviation, of 255
TURNS = 6  # through the folder; from the second on other parts of its pictures


def enlarged(image: Image.Image, megapixels: float, rng: np.random.Generator) -> Image.Image:
    """The same picture with so many pixels, and noise."""
    factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    size = round(image.width * factor), round(image.height * factor)
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32)
    noisy = pixels + NOISE * rng.standard_normal(pixels.shape[:2], np.float32)[..., None]
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def variant(image: Image.Image, turn: int) -> Image.Image:
    """The picture itself at the first turn through the folder; then parts of it, every other one mirrored."""
    if turn == 0:
        return image
    share = 1 - 0.08 * turn
    left, top = round(image.width * (1 - share)), round(image.height * (1 - share))
    part = image.crop((left, top, image.width, image.height))
    return ImageOps.mirror(part) if turn % 2 else part


def make(photos: Path, out: Path, count: int, megapixels: float) -> int:
    """Write up to `count` photographs into `out`; how many there are."""
    out.mkdir(parents=True, exist_ok=True)
    rng, made = np.random.default_rng(0), 0
    files = [entry for entry in scan(os.fsencode(photos)) if isinstance(entry, FileStat)]
    for turn, entry in ((turn, entry) for turn in range(TURNS) for entry in files):
        if made == count:
            break
        try:
            with Image.open(os.fsdecode(entry.path)) as opened:
                image = variant(ImageOps.exif_transpose(opened.convert("RGB")), turn)
        except (OSError, UnidentifiedImageError):
            continue
        if min(image.size) < SMALLEST:
            continue
        photo = enlarged(image, megapixels, rng)
        photo.save(out / f"IMG_{made:04}.jpg", quality=92, subsampling="4:2:0")
        made += 1
    return made


def main() -> None:
    """Make them and say how large they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--megapixels", type=float, default=2.0)
    arguments = parser.parse_args()
    made = make(arguments.photos, arguments.out, arguments.count, arguments.megapixels)
    size = sum(path.stat().st_size for path in arguments.out.glob("*.jpg"))
    print(
        f"{made} photographs of {arguments.megapixels:g} megapixels, {size / 1e6 / max(1, made):.2f} MB each"
    )


if __name__ == "__main__":
    main()
