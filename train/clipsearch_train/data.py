"""Training samples from webdataset shards.

A shard is a tar whose members share a key (the path up to the first dot of the name): `0001.jpg` with
`0001.json` (`source`, `captions`, `labels`) or `0001.txt`. A sample is an encoded image with captions and
labels. The encoded bytes stay in memory (53,000 photos of 144 px are 140 MB); decoding and augmentation
happen when a batch is drawn. Shards are untrusted input: only local files are opened, nothing is extracted,
no member but images and texts is looked into, and a bad sample is counted and named.
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipsearch.errors import TrainingError
from clipsearch.images import PIXEL_LIMIT, to_rgb

IMAGE_EXTENSIONS = ("webp", "jpg", "jpeg", "png")
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
TEXT_EXTENSIONS = ("json", "txt")
MEMBER_LIMIT = 256 << 20
"""Bytes of the largest member that is read."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One training image, still encoded, and what is said about it."""

    key: str
    image: bytes
    source: str
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    label_index: int | None = None


@dataclass
class ShardReport:
    """What was left out while reading shards: `skipped[reason]` lists the keys of samples."""

    samples: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, key: str) -> None:
        """Note a sample that cannot be used."""
        self.skipped.setdefault(reason, []).append(key)

    def __str__(self) -> str:
        """`3 without an image (a, b, c), 20 with unreadable text (d, e, f, …)`, or `none`."""
        told = [f"{len(keys):,} {reason} ({named(keys)})" for reason, keys in self.skipped.items()]
        return ", ".join(told) or "none"


def named(keys: Sequence[str], most: int = 3) -> str:
    """The first few of some names."""
    return ", ".join([*keys[:most], *(["…"] if len(keys) > most else [])])


def find_shards(data: Path, patterns: Sequence[str]) -> list[Path]:
    """Files that match globs relative to `data`, in order. Raises TrainingError where one matches nothing."""
    found: list[Path] = []
    for pattern in patterns:
        try:
            matching = sorted(data.glob(pattern))
        except (ValueError, NotImplementedError) as error:
            raise TrainingError(f"{pattern!r} is not a pattern of files below {data}: {error}.") from error
        if not matching:
            raise TrainingError(f"No file matches {pattern!r} in {data}.")
        found += matching
    return found


def read_shards(paths: Sequence[Path], limit: int | None = None) -> tuple[list[Sample], ShardReport]:
    """All samples of the given tar shards (`.tar` or `.tar.gz`), in order; at most `limit` of each shard.

    Raises TrainingError when a shard is missing or cannot be read as a tar, or when nothing is left.
    """
    samples: list[Sample] = []
    report = ShardReport()
    for path in paths:
        for key, parts in itertools.islice(_raw_samples(path), limit):
            sample = _sample(key, parts, report)
            if sample is not None:
                samples.append(sample)
    report.samples = len(samples)
    if not samples:
        raise TrainingError(f"No usable sample in {', '.join(str(path) for path in paths) or 'no shard'}.")
    return samples, report


class _Member(tarfile.TarInfo):
    """A member of a shard that must end as a tar ends: tarfile takes garbage, or a cut, for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _raw_samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    if not path.is_file():
        raise TrainingError(f"There is no shard {path}.")
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as archive:
            members = (member for member in archive if member.isreg())
            for key, group in itertools.groupby(members, lambda member: _split(member.name)[0]):
                yield key, _parts(archive, group)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise TrainingError(f"{path} is not a whole tar shard: {error}.") from error


def _split(name: str) -> tuple[str, str]:
    """A member's name at the first dot behind its folder: (key, extension)."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _parts(archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo]) -> dict[str, bytes]:
    parts: dict[str, bytes] = {}
    for member in members:
        extension = _split(member.name)[1]
        wanted = extension in IMAGE_EXTENSIONS or extension in TEXT_EXTENSIONS
        if wanted and member.size <= MEMBER_LIMIT and (file := archive.extractfile(member)) is not None:
            parts[extension] = file.read()
    return parts


def _sample(key: str, parts: Mapping[str, bytes], report: ShardReport) -> Sample | None:
    image = next((parts[extension] for extension in IMAGE_EXTENSIONS if extension in parts), None)
    if image is None:
        report.skip("without an image", key)
        return None
    try:
        text = json.loads(parts["json"]) if "json" in parts else {}
        if "txt" in parts:
            text.setdefault("captions", [parts["txt"].decode("utf-8")])
        index = text.get("class_index")
        return Sample(
            key=key,
            image=image,
            source=str(text.get("source") or ""),
            captions=_texts(text.get("captions")) or _texts(text.get("caption")),
            labels=_texts(text.get("labels")) or _texts(text.get("label")),
            label_index=None if index is None else int(index),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        report.skip("with unreadable text", key)
        return None


def _texts(value: object) -> tuple[str, ...]:
    """A text, or a list of them, without empty ones; TypeError for anything else."""
    values = [value] if isinstance(value, (str, int)) else [] if value is None else value
    if not isinstance(values, list) or any(isinstance(item, (list, dict)) for item in values):
        raise TypeError("neither a text nor a list of texts")
    return tuple(text for item in values if (text := str(item).strip()))


def decode(data: bytes) -> Image.Image:
    """Encoded bytes of a training image -> RGB. Raises ValueError for bytes that are not such an image."""
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise ValueError("too many pixels")
            image.load()
            return to_rgb(image)
    except Exception as error:  # a decoder that meets nonsense raises nearly anything
        raise ValueError(f"not an image: {error}") from error


def random_resized_crop(
    image: Image.Image, size: int, min_scale: float, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """A random square of the image, resized: RGB -> uint8 (size, size, 3).

    The paper's only augmentation (§2.4) is a random square crop; `min_scale` is the least share of
    the largest centred square's area that a crop may have.
    """
    width, height = image.size
    edge = round(min(width, height) * float(np.sqrt(rng.uniform(min_scale, 1.0))))
    left = int(rng.integers(0, width - edge + 1))
    top = int(rng.integers(0, height - edge + 1))
    box = (left, top, left + edge, top + edge)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def shrunk(image: Image.Image, edge: int) -> Image.Image:
    """The image with its shorter side at most `edge` pixels: what a thumbnail would have kept of it."""
    factor = edge / min(image.size)
    if factor >= 1:
        return image
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
