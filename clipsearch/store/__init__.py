"""The catalog: what the library knows about photos, as rows of SQLite. It knows no vectors, only slots.

`Store` loads SQLAlchemy, so it is asked for by name (``from clipsearch.store.catalog import Store``); the row
types below are free.
"""

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
