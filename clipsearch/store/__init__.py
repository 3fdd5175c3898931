"""The catalog: what the library knows about photos, as rows of SQLite. It knows no vectors, only slots.

`Store` loads SQLAlchemy, so it is asked for by name (``from clipsearch.store.catalog import Store``); the row
types below are free.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsearch.store.rows import (
        CatalogCounts,
        FailureRow,
        FoundFile,
        Hit,
        ImageRow,
        KnownFailure,
        KnownFile,
        LastStat,
        NewFailure,
        NewImage,
        PendingImage,
        PruneResult,
        RootCounts,
        RootRow,
        RunRow,
        SlotFilter,
        SpaceRow,
    )

__all__ = [
    "CatalogCounts",
    "FailureRow",
    "FoundFile",
    "Hit",
    "ImageRow",
    "KnownFailure",
    "KnownFile",
    "LastStat",
    "NewFailure",
    "NewImage",
    "PendingImage",
    "PruneResult",
    "RootCounts",
    "RootRow",
    "RunRow",
    "SlotFilter",
    "SpaceRow",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'clipsearch.store' has no attribute {name!r}")
    return getattr(import_module("clipsearch.store.rows"), name)
