"""What travels between the pool of decoders and its workers; without the libraries that decode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from clipsearch.files import FailureKind
from clipsearch_indexer.scan import FileStat

if TYPE_CHECKING:
    from PIL import Image

    from clipsearch.metadata import PhotoMetadata

ToPixels: TypeAlias = "Callable[[Image.Image], npt.NDArray[np.uint8]]"
"""From an upright RGB image to uint8 (S, S, 3), such as `clipsearch.preprocess.Preprocess.pixels`."""


@dataclass(frozen=True, slots=True)
class Job:
    """A file to decode, unless its content is among `known`."""

    id: int
    path: bytes
    known: tuple[bytes, ...] = ()
    """Content hashes that need no decoding."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The file was decoded."""

    id: int
    content_hash: bytes
    """BLAKE2b of the file's bytes, 16 bytes."""
    pixels: npt.NDArray[np.uint8]
    """What `to_pixels` made of the image: uint8 (S, S, 3)."""
    metadata: PhotoMetadata
    stat: FileStat
    """Of the file as it was read."""


@dataclass(frozen=True, slots=True)
class Known:
    """The file holds one of the job's known contents and was not decoded."""

    id: int
    content_hash: bytes
    stat: FileStat


@dataclass(frozen=True, slots=True)
class Failed:
    """The file gave no pixels; `reason` is a short sentence for the user."""

    id: int
    reason: str
    kind: FailureKind | Literal["crashed", "timeout"]
    stat: FileStat | None
    """Of the file as it was read; None if it was not read, or the decoder did not live to tell."""


Result = Decoded | Known | Failed


@dataclass(frozen=True)
class Limits:
    """What one file may cost before it is given up."""

    memory_bytes: int = 1 << 30
    """Address space above what the decoder needs by itself (Linux only)."""
    cpu_seconds: float = 10.0
    """Processor time, which a busy machine does not use up."""
    wall_seconds: float = 60.0
    """Time on the clock, for a decoder or a disk that hangs without working."""


@dataclass(frozen=True)
class Setup:
    """The first message to a decoder."""

    to_pixels: ToPixels
    cover: int | None
    limits: Limits
    follow_symlinks: bool
