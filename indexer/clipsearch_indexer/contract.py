"""What a run of the indexer is given, and what it tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.preprocess import Preprocess
from clipsearch_indexer.scan import DEFAULT_EXCLUDES

Vectors = npt.NDArray[np.float32]


class ImageEncoder(Protocol):
    """What an ingest needs of a model."""

    name: str
    source: str
    fingerprint: str
    preprocess: Preprocess

    @property
    def dim(self) -> int:
        """Length of an embedding."""

    @property
    def device(self) -> str:
        """Where it computes: "cpu", or what works beside the processors, such as "cuda"."""

    def encode_pixels(self, pixels_NYXC: npt.NDArray[np.uint8]) -> Vectors:
        """uint8 (n, size, size, 3) -> float32 (n, dim), unit rows."""


@dataclass(frozen=True)
class Options:
    """How to go about it.

    `workers` decode (None: one for each processor); `batch` images are encoded at once (None: 32, on a GPU
    256).
    """

    excludes: Sequence[str] = DEFAULT_EXCLUDES
    follow_symlinks: bool = False
    workers: int | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Progress:
    """Where a run is: `done` of `total` files (0: not known yet), `new` images so far."""

    stage: str
    done: int
    total: int
    new: int = 0


@dataclass
class Summary:
    """What a run did.

    `new` contents were embedded; `reembedded` ones were known, and are now for this model as well. `moved`
    files were found at another place, `copies` hold a content that was known, `unchanged` what they held
    before. `missing` vanished; `returned` are there again; `quarantined` failed in an earlier run and have
    not changed. `failed` lists path and reason; `unscanned` what could not be looked at; `offline` roots
    that could not be reached. `pending` photos still want an embedding of this model: while there are any,
    the library goes on with the model it had.
    """

    new: int = 0
    reembedded: int = 0
    moved: int = 0
    copies: int = 0
    unchanged: int = 0
    missing: int = 0
    returned: int = 0
    quarantined: int = 0
    pending: int = 0
    failed: list[tuple[bytes, str]] = field(default_factory=list)
    unscanned: list[tuple[bytes, str]] = field(default_factory=list)
    offline: list[bytes] = field(default_factory=list)
    seconds: float = 0.0
    encode_seconds: float = 0.0
    interrupted: bool = False

    def counts(self) -> dict[str, int]:
        """The numbers, for the journal of runs and for JSON."""
        numbers = ("new", "reembedded", "moved", "copies", "unchanged", "missing", "returned", "quarantined")
        lists = ("failed", "unscanned", "offline")
        return (
            {name: getattr(self, name) for name in numbers}
            | {"pending": self.pending}
            | {name: len(getattr(self, name)) for name in lists}
        )
