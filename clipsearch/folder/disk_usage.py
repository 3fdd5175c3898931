"""How much room a library takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipsearch.folder.layout import Layout


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Bytes on the disk."""

    catalog: int
    vectors: int
    index: int
    thumbs: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.catalog + self.vectors + self.index + self.thumbs

    @classmethod
    def of(cls, layout: Layout) -> DiskUsage:
        """Measure a library."""
        return cls(
            catalog=_bytes(layout.folder.glob("catalog.db*")),
            vectors=_bytes(layout.spaces.glob("*/vectors.*")),
            index=_bytes(layout.spaces.glob("*/index.*")),
            thumbs=_bytes(layout.thumbs.rglob("*")),
        )


def _bytes(paths: Iterator[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:  # gone meanwhile
            continue
    return total
