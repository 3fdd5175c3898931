"""The numbers of a status."""

from __future__ import annotations

import sqlite3

from clipsearch.store.roots import Roots
from clipsearch.store.rows import CatalogCounts, RootCounts

_IN_ACTIVE = "space_id = (SELECT id FROM spaces WHERE active = 1)"


class Counts:
    """The numbers of the catalog, within one transaction."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def all(self) -> CatalogCounts:
        """Return all numbers; embeddings and tombstones are those of the active space."""
        hidden = self._count("images WHERE hidden = 1")
        # By a term, not a column: the index of the roots is no help where few files are missing.
        missing = self._by_root("files WHERE missing_since IS NOT NULL GROUP BY +root_id")
        files = self._by_root("files GROUP BY root_id")
        failed = self._by_root("failures GROUP BY root_id")
        return CatalogCounts(
            images=self._count("images") - hidden,
            hidden_images=hidden,
            files=sum(files.values()) - sum(missing.values()),
            missing=sum(missing.values()),
            failed=sum(failed.values()),
            embeddings=self._count(f"embeddings WHERE {_IN_ACTIVE}"),
            tombstones=self._count(f"tombstones WHERE {_IN_ACTIVE}"),
            by_root=[
                RootCounts(
                    root=root,
                    files=files.get(root.id, 0) - missing.get(root.id, 0),
                    missing=missing.get(root.id, 0),
                    failed=failed.get(root.id, 0),
                )
                for root in Roots(self._driver).all()
            ],
        )

    def _count(self, rows: str) -> int:
        return int(self._driver.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])  # noqa: S608 - above

    def _by_root(self, rows: str) -> dict[int | None, int]:
        return dict(self._driver.execute(f"SELECT root_id, count(*) FROM {rows}").fetchall())  # noqa: S608
