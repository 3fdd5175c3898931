"""Cutting long lists of values to what one SQL statement takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

CHUNK = 5000  # SQLite takes 32,766 values in a statement; beyond a few thousand nothing gets quicker


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Yield `values` in pieces of at most `size`, in order."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
