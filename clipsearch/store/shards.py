"""Queries about tar shards whose images are all known."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from clipsearch.store.rows import KnownShard

_KEEP = (
    "INSERT OR REPLACE INTO shards (root_id, path, size, mtime_ns, ctime_ns, inode, rule, files)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, (SELECT count(*) FROM files"
    " WHERE path >= ? AND path < ? AND missing_since IS NULL))"
)


class Shards:
    """The shards, within one transaction."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def keep(self, root_id: int, shards: Sequence[KnownShard]) -> None:
        """Note that all images of these shards are known, with how many that are now (not `files`)."""
        self._driver.executemany(
            _KEEP, [(root_id, *shard[:-1], shard.path + b"/", shard.path + b"0") for shard in shards]
        )

    def forget(self, paths: Iterable[bytes]) -> None:
        """Have these shards opened by the next run that meets them."""
        self._driver.executemany("DELETE FROM shards WHERE path = ?", [(path,) for path in paths])
