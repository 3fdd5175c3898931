"""How far may a JPEG be scaled down while it is decoded? The measurement behind `images.DCT_MARGIN`.

    python benchmarks/dct_scale.py FOLDER [--model NAME] [--edge PIXELS]

For each margin: CPU time of decoding and preprocessing a photo, PSNR of the preprocessed pixels against those
of a full decode, how many photos were scaled at all and, with --model, the mean and lowest cosine between
the embeddings. Photos whose short side does not reach twice the edge are left out: nothing scales them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipsearch import images
from clipsearch.preprocess import Preprocess

MARGINS = (1.0, 1.25, 1.4, 1.5, 2.0, 3.0)
Pixels = npt.NDArray[np.uint8]


def decode_all(
    files: Sequence[bytes], edge: int, margin: float | None
) -> tuple[list[Image.Image], list[Pixels], float]:
    """Images, preprocessed pixels (edge, edge, 3) and CPU milliseconds per file; margin None: in full."""
    preprocess = Preprocess(edge)
    images.DCT_MARGIN = margin or 1.0
    start = time.process_time()
    decoded = [images.decode(data, cover=None if margin is None else edge)[0] for data in files]
    pixels = [preprocess.pixels(image) for image in decoded]
    return decoded, pixels, (time.process_time() - start) * 1000 / len(files)


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB; 99 for equal pixels."""
    error = float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2))
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="name or folder; without it, pixels alone are compared")
    parser.add_argument("--edge", type=int, default=224, help="input edge where there is no model")
    arguments = parser.parse_args()
    edge, encode = arguments.edge, None
    if arguments.model:
        edge, encode = load(arguments.model)
    files = large_jpegs(arguments.folder, edge)
    print(f"{len(files)} JPEGs with a short side of at least {2 * edge} px, model input {edge} px")
    full, reference, cost = decode_all(files, edge, None)
    vectors = encode(full) if encode else None
    print(f"{'margin':>7} {'CPU ms':>7} {'scaled':>7} {'PSNR dB: mean':>14} {'lowest':>7}", end="")
    print(f" {'cosine: mean':>13} {'lowest':>7}" if encode else "")
    print(f"{'full':>7} {cost:7.1f}")
    for margin in MARGINS:
        decoded, pixels, cost = decode_all(files, edge, margin)
        scaled = sum(a.size != b.size for a, b in zip(full, decoded, strict=True))
        ratios = [psnr(a, b) for a, b in zip(reference, pixels, strict=True)]
        line = f"{margin:7.2f} {cost:7.1f} {scaled:7d} {statistics.mean(ratios):14.1f} {min(ratios):7.1f}"
        if encode and vectors is not None:
            cosines = np.sum(vectors * encode(decoded), axis=1)
            line += f" {cosines.mean():13.4f} {cosines.min():7.4f}"
        print(line)


def load(name: str) -> tuple[int, Callable[[list[Image.Image]], npt.NDArray[np.float32]]]:
    """The input edge of a model and its function from images to unit rows (n, d)."""
    from clipsearch.encoder import load_model

    model: Any = load_model(name)
    return model.preprocess.size, model.encode_images


def large_jpegs(folder: Path, edge: int) -> list[bytes]:
    """The bytes of the JPEGs under `folder` that some margin could scale."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg"):
            with Image.open(path) as image:
                if min(image.size) >= 2 * edge:
                    found.append(path.read_bytes())
    return found


if __name__ == "__main__":
    main()
