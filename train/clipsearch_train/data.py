"""Training samples from webdataset shards.

A sample is an encoded image with captions and labels. The encoded bytes stay in memory (53,000 photos of
144 px are 140 MB); decoding and augmentation happen when a batch is drawn. Shards are untrusted input:
only local files, no shell, no unpickling, nothing extracted.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipsearch.errors import TrainingError

# Before webdataset is imported: no `pipe:` URLs, no unpickling of members.
os.environ["WDS_SECURE"] = "1"

IMAGE_EXTENSIONS = ("webp", "jpg", "jpeg", "png")
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")


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
    """What was left out while reading shards, and why: `skipped[reason]` counts samples."""

    samples: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    def skip(self, reason: str) -> None:
        """Count a sample that cannot be used."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1


def read_shards(paths: Sequence[Path], limit: int | None = None) -> tuple[list[Sample], ShardReport]:
    """All samples of the given tar shards (`.tar` or `.tar.gz`), in order; at most `limit` of each shard.

    Raises TrainingError when a shard is missing or cannot be read as a tar, or when nothing is left.
    """
    samples: list[Sample] = []
    report = ShardReport()
    for path in paths:
        for raw in itertools.islice(_raw_samples(path), limit):
            sample = _sample(raw, report)
            if sample is not None:
                samples.append(sample)
    report.samples = len(samples)
    if not samples:
        raise TrainingError(f"No usable sample in {', '.join(str(path) for path in paths) or 'no shard'}.")
    return samples, report


def _raw_samples(path: Path) -> Iterator[dict[str, Any]]:
    import webdataset as wds

    if not path.is_file():
        raise TrainingError(f"There is no shard {path}.")
    try:
        yield from wds.WebDataset(str(path), shardshuffle=False, handler=wds.handlers.reraise_exception)
    except (OSError, EOFError, ValueError) as error:
        raise TrainingError(f"{path} is not a whole tar shard: {error}") from error


def _sample(raw: dict[str, Any], report: ShardReport) -> Sample | None:
    image = next((raw[ext] for ext in IMAGE_EXTENSIONS if ext in raw), None)
    if image is None:
        report.skip("no image")
        return None
    try:
        text = json.loads(raw["json"]) if "json" in raw else {}
        if "txt" in raw:
            text.setdefault("captions", [raw["txt"].decode("utf-8")])
        captions = tuple(str(caption) for caption in text.get("captions", ()))
        labels = tuple(str(label) for label in text.get("labels") or _one(text.get("label")))
        index = text.get("class_index")
        return Sample(
            key=str(raw["__key__"]),
            image=image,
            source=str(text.get("source", "")),
            captions=captions,
            labels=labels,
            label_index=None if index is None else int(index),
        )
    except (ValueError, TypeError, AttributeError) as error:
        report.skip(f"unreadable text ({type(error).__name__})")
        return None


def _one(value: object) -> tuple[str, ...]:
    return () if value is None else (str(value),)


def decode(data: bytes) -> Image.Image:
    """Encoded bytes of a training image -> RGB.

    Raises OSError, ValueError or SyntaxError for bytes that are not such an image.
    """
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        return image.convert("RGB")


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
