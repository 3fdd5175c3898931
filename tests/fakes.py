"""An encoder whose right answers can be computed by hand, and photos of one colour for it."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from clipsearch.images import decode
from clipsearch.preprocess import Preprocess
from clipsearch_indexer.worker import Limits, Setup, serve

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourEncoder:
    """An image is its mean colour, a word the colour of that name, each as a unit vector of three."""

    def __init__(self, name="colours", dim=3):
        self.name = name
        self.source = f"/models/{name}"
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()[:16]
        self.preprocess = Preprocess(8)
        self.dim = dim
        self.device = "cpu"
        self.batches = []

    @property
    def images(self):
        """How many images were embedded."""
        return sum(self.batches)

    def encode_pixels(self, pixels_NYXC):
        self.batches.append(len(pixels_NYXC))
        return self._unit(pixels_NYXC.reshape(len(pixels_NYXC), -1, 3).mean(axis=1))

    def encode_images(self, images):
        rgb = [image if isinstance(image, Image.Image) else decode(image)[0] for image in images]
        return self.encode_pixels(np.stack([self.preprocess.pixels(image) for image in rgb]))

    def encode_text(self, texts):
        return self._unit(np.array([COLOURS.get(text, (1, 1, 1)) for text in texts], float))

    def _unit(self, colours):
        rows = np.zeros((len(colours), self.dim))
        rows[:, :3] = colours
        with np.errstate(invalid="ignore"):  # black has no direction: NaN
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class SerialPool:
    """What `DecodePool` does, in this process; `opened` lists the paths that were read."""

    opened: list[bytes] = []  # noqa: RUF012 - shared on purpose

    def __init__(self, workers, to_pixels, cover, *, follow_symlinks=False):
        self._setup = Setup(to_pixels, cover, Limits(), follow_symlinks)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        pass

    def run(self, jobs, *, ahead):
        for job in jobs:
            self.opened.append(job.path)
            yield serve(job, self._setup)


def png(colour, note="", size=(8, 8)):
    """The bytes of a photo of one colour; another `note` makes another content of it."""
    info = PngImagePlugin.PngInfo()
    info.add_text("note", note)
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def write(path, colour, note="", **options):
    path = Path(os.fsdecode(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(colour, note, **options))
    return path


def contents(folder):
    """Path → content hash, of every file that can be found now, and with an embedding that is right."""
    assert folder.check().is_good
    with folder.snapshot() as photos:
        return {path: hit.image.hash for hit in photos.hits(photos.visible) for path in hit.paths}


def colours(folder):
    """Path → the stored vector, rounded, of every file that can be found now."""
    with folder.snapshot() as photos:
        return {
            path: tuple(np.round(photos.vectors[hit.slot].astype(float), 2).tolist())
            for hit in photos.hits(photos.visible)
            for path in hit.paths
        }
