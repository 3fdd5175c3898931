"""What an indexing run asks before it reads a file; without SQLAlchemy: finding no change is to be quick."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from clipsearch.store.chunks import chunks
from clipsearch.store.last_stats import last_stats
from clipsearch.store.rows import KnownFailure, KnownFile, KnownShard, LastStat, PendingImage

_UNSIGNED = (1 << 64) - 1
_FILES = (
    "SELECT path, id, image_id, size, mtime_ns, ctime_ns, inode, device, missing_since IS NOT NULL,"
    " verified_at_ns FROM files"
)
_PATHS = "SELECT path FROM files"
_SHARDS = "SELECT path, size, mtime_ns, ctime_ns, inode, rule, files FROM shards"
_FAILURES = "SELECT path, size, mtime_ns, kind, attempts FROM failures WHERE root_id = ?"
_SIZES = "SELECT size, hash FROM embeddings JOIN images ON images.id = image_id WHERE space_id = ?"
_PENDING = (
    "SELECT images.id, images.hash, images.size, files.path"
    " FROM images JOIN files ON files.image_id = images.id AND files.missing_since IS NULL"
    " WHERE images.id IN (SELECT id FROM images WHERE hidden = 0"
    " AND NOT EXISTS (SELECT 1 FROM embeddings WHERE image_id = images.id AND space_id = ?)"
    " AND id > ? ORDER BY id LIMIT ?) ORDER BY images.id, files.path"
)
# All images less the hidden ones and less those with an embedding; those that are both come off twice. Hidden
# ones are few, and have an index.
_COUNT_PENDING = (
    "SELECT (SELECT count(*) FROM images) - (SELECT count(*) FROM images WHERE hidden = 1)"
    " - (SELECT count(*) FROM embeddings WHERE space_id = :space)"
    " + (SELECT count(*) FROM images WHERE hidden = 1"
    " AND EXISTS (SELECT 1 FROM embeddings WHERE image_id = images.id AND space_id = :space))"
)


class Known:
    """What is known of files and images, within one transaction."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def files(self, root_id: int) -> dict[bytes, KnownFile]:
        """Return path → what is known, for every file of a root (missing ones too), in one query."""
        rows = self._driver.execute(f"{_FILES} WHERE root_id = ?", (root_id,)).fetchall()
        return _by_path(rows)

    def stats(
        self,
        root_id: int,
        racy_ns: int,
        bounds: tuple[bytes, bytes] | None = None,
        without: Iterable[bytes] = (),
    ) -> dict[bytes, LastStat]:
        """Return path → stat, for every file of a root, or those within `bounds`; see `last_stats`."""
        return last_stats(self._driver, root_id, racy_ns, bounds, without)

    def shards(self, root_id: int) -> list[KnownShard]:
        """Return the shards of a root of which all images are known, by path."""
        rows = self._driver.execute(f"{_SHARDS} WHERE root_id = ? ORDER BY path", (root_id,))
        return [KnownShard(*row) for row in rows]

    def sample(self, root_id: int, count: int) -> tuple[list[bytes], int]:
        """Return paths of about `count` files taken evenly from all, those of the root, in order.

        The second value says for how many files each of them stands.
        """
        [(last,)] = self._driver.execute("SELECT coalesce(max(id), 0) FROM files")
        step = max(1, last // count)
        ids = range(1, last + 1, step)[: 2 * count]
        places = ", ".join("?" * len(ids))
        rows = self._driver.execute(
            f"{_PATHS} WHERE +root_id = ? AND id IN ({places}) ORDER BY path", (root_id, *ids)
        )
        return [path for (path,) in rows], step

    def files_at(self, root_id: int, paths: Iterable[bytes]) -> dict[bytes, KnownFile]:
        """Return the part of `files` that is at these paths."""
        rows: list[Any] = []
        for part in chunks(list(paths)):
            places = ", ".join("?" * len(part))
            rows += self._driver.execute(
                f"{_FILES} WHERE +root_id = ? AND path IN ({places})", (root_id, *part)
            )
        return _by_path(rows)

    def failures(self, root_id: int) -> dict[bytes, KnownFailure]:
        """Return path → what is known, for every failure under a root, in one query."""
        rows = self._driver.execute(_FAILURES, (root_id,))
        return {path: KnownFailure(*rest) for path, *rest in rows}

    def pending(self, space_id: int, *, after_id: int = 0, limit: int = 1000) -> list[PendingImage]:
        """Return visible images without an embedding in the space, in order of id from past `after_id`.

        The next page starts after the last id returned.
        """
        found: dict[int, PendingImage] = {}
        for image, content, size, path in self._driver.execute(_PENDING, (space_id, after_id, limit)):
            paths = found[image].paths if image in found else ()
            found[image] = PendingImage(image, content, size, (*paths, path))
        return list(found.values())

    def sizes(self, space_id: int) -> dict[int, tuple[bytes, ...]]:
        """Return size in bytes → hashes of the images that have an embedding in the space, in one query."""
        known: dict[int, list[bytes]] = {}
        for size, content in self._driver.execute(_SIZES, (space_id,)):
            known.setdefault(size, []).append(content)
        return {size: tuple(contents) for size, contents in known.items()}

    def count_pending(self, space_id: int) -> int:
        """Return how many visible images have no embedding in the space."""
        return int(self._driver.execute(_COUNT_PENDING, {"space": space_id}).fetchone()[0])


def _by_path(rows: Sequence[Sequence[Any]]) -> dict[bytes, KnownFile]:
    make, known = tuple.__new__, KnownFile  # what KnownFile._make does, without the calls
    return {row[0]: make(known, row[1:]) for row in rows} | _unwrapped(rows)


def _unwrapped(rows: Sequence[Sequence[Any]]) -> dict[bytes, KnownFile]:
    """Return the rows whose inode or device number does not fit SQLite, with the number as it was."""
    return {
        path: KnownFile(
            file, image, size, mtime, ctime, inode & _UNSIGNED, device & _UNSIGNED, gone, verified
        )
        for path, file, image, size, mtime, ctime, inode, device, gone, verified in (
            row for row in rows if row[6] < 0 or row[7] < 0
        )
    }
