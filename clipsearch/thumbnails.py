"""Small upright pictures of the library's photos, as WebP: made once, then read from the disk.

A thumbnail lies in the library at ``thumbs/ab/abcdef…-grid.webp``, named by the hash of the photo's content:
a photo that moves keeps its thumbnail, a photo that changes gets another. The folder is a cache and may be
deleted at any time; where it cannot be written, thumbnails are kept in memory. Photos are decoded by the
processes of `clipsearch_indexer.decode`, under its limits.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipsearch import durable
from clipsearch.decode_lane import DecodeLane
from clipsearch.errors import ImageError, StorageError
from clipsearch.images import DCT_MARGIN
from clipsearch_indexer.decode import Decoded, default_workers

Kind = Literal["grid", "preview"]


@dataclass(frozen=True)
class Fit:
    """Scales an image down to fit a box; picklable, for `DecodePool`."""

    width: int
    height: int

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """An upright RGB image to uint8 (H, W, 3) no larger than the box."""
        scale = min(1.0, self.width / image.width, self.height / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return np.asarray(image if size == image.size else image.resize(size, Image.Resampling.LANCZOS))


BOXES: dict[Kind, Fit] = {"grid": Fit(720, 400), "preview": Fit(1600, 1600)}
_QUALITY: dict[Kind, int] = {"grid": 78, "preview": 84}
# A JPEG is decoded at the smallest scale whose short side still is this.
_SHORT_SIDE: dict[Kind, int] = {"grid": 400, "preview": 1200}
_MEMORY = 48 << 20


class Thumbnails:
    """The thumbnails of one library; safe to use from threads. Close it, or use it as a context."""

    def __init__(self, folder: Path, decoders: Decoders | None = None) -> None:
        self._folder = folder
        self._decoders = decoders or Decoders()
        self._memory: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, content_hash: bytes, paths: Sequence[bytes], kind: Kind) -> bytes:
        """The WebP of a photo that lies, or lay, at one of `paths`.

        Raises ImageError where there is none yet and the photo cannot be read (any more).
        """
        name = f"{content_hash.hex()}-{kind}.webp"
        kept = self._kept(name)
        if kept is not None:
            return kept
        data = _webp(self._pixels(content_hash, paths, kind), kind)
        self._keep(name, data)
        return data

    def close(self) -> None:
        """End the decoders."""
        self._decoders.close()

    def __enter__(self) -> Thumbnails:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _kept(self, name: str) -> bytes | None:
        with suppress(OSError):
            return (self._folder / name[:2] / name).read_bytes()
        with self._lock:
            if name in self._memory:
                self._memory.move_to_end(name)
            return self._memory.get(name)

    def _keep(self, name: str, data: bytes) -> None:
        path = self._folder / name[:2] / name
        try:
            durable.make_directory(path.parent)
            durable.replace(path, data, name="thumb")
        except StorageError:  # full or read-only: the memory will do
            with self._lock:
                self._memory[name] = data
                while sum(map(len, self._memory.values())) > _MEMORY:
                    self._memory.popitem(last=False)

    def _pixels(self, content_hash: bytes, paths: Sequence[bytes], kind: Kind) -> npt.NDArray[np.uint8]:
        trouble = ImageError("no such file")
        for path in paths:
            try:
                decoded = self._decoders.decode(path, kind)
            except ImageError as error:
                trouble = error
                continue
            if decoded.content_hash == content_hash:
                return decoded.pixels
            trouble = ImageError("the file has changed since it was indexed")
        raise trouble


class Decoders:
    """Decoder processes for pictures of two sizes, started at first use; safe to use from threads."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or min(4, default_workers())
        self._lanes: dict[Kind, DecodeLane] = {}
        self._lock = threading.Lock()

    def decode(self, path: bytes, kind: Kind) -> Decoded:
        """The pixels of the file at `path`, upright, scaled to fit `BOXES[kind]`. Raises ImageError."""
        return self._lane(kind).decode(path)

    def decode_bytes(self, data: bytes, kind: Kind) -> Image.Image:
        """The image in `data`, as `decode` gives it. Raises ImageError."""
        return Image.fromarray(self._lane(kind).decode_bytes(data).pixels)

    def _lane(self, kind: Kind) -> DecodeLane:
        with self._lock:
            if kind not in self._lanes:
                workers = self._workers if kind == "grid" else 1
                self._lanes[kind] = DecodeLane(workers, BOXES[kind], round(_SHORT_SIDE[kind] / DCT_MARGIN))
            return self._lanes[kind]

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            for lane in self._lanes.values():
                lane.close()
            self._lanes.clear()


def _webp(pixels: npt.NDArray[np.uint8], kind: Kind) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=_QUALITY[kind], method=2)
    return file.getvalue()


def webp(image: Image.Image) -> bytes:
    """A picture as a small WebP, for showing what was searched with."""
    return _webp(BOXES["grid"](image.convert("RGB")), "grid")
