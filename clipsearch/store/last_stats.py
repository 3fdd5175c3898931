"""The stats of files as an indexing run last saw them; apart, for processes that live for a moment."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipsearch.store.rows import LastStat

_STATS = (
    "SELECT path,"
    " CASE WHEN missing_since IS NULL AND max(mtime_ns, ctime_ns) < verified_at_ns - ? THEN size END,"
    " mtime_ns, ctime_ns, inode FROM files"
)


def last_stats(
    driver: sqlite3.Connection, root_id: int, racy_ns: int, bounds: tuple[bytes, bytes] | None = None
) -> dict[bytes, LastStat]:
    """Return path → stat, for every file of a root: a part of what `Known.files` returns, in half the time.

    The size is None of a missing file, and of one that was not read more than `racy_ns` after its last
    change. With `bounds` only paths from the first one on and before the second.
    """
    if bounds is not None:
        query = f"{_STATS} WHERE +root_id = ? AND path >= ? AND path < ?"
    else:
        # The only root has all files, and finding each by an index takes longer than going through them.
        [(one,)] = driver.execute("SELECT count(*) = 1 FROM roots")
        query = f"{_STATS} NOT INDEXED WHERE root_id = ?" if one else f"{_STATS} WHERE root_id = ?"
    rows = driver.execute(query, (racy_ns, root_id, *(bounds or ()))).fetchall()
    return {row[0]: row for row in rows}
