"""The numbers of a status."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from clipsearch.store.models import Embedding, Failure, File, Image, Space, Tombstone
from clipsearch.store.roots import Roots
from clipsearch.store.rows import CatalogCounts, RootCounts


class Counts:
    """The numbers of the catalog, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self) -> CatalogCounts:
        """Return all numbers; embeddings and tombstones are those of the active space."""
        hidden = self._count(select(func.count()).select_from(Image).where(Image.hidden == True))  # noqa: E712
        active = select(Space.id).where(Space.active == True).scalar_subquery()  # noqa: E712
        files, missing, failed = self._by_root(File), self._missing_by_root(), self._by_root(Failure)
        return CatalogCounts(
            images=self._count(select(func.count()).select_from(Image)) - hidden,
            hidden_images=hidden,
            files=sum(files.values()) - sum(missing.values()),
            missing=sum(missing.values()),
            failed=sum(failed.values()),
            embeddings=self._count(
                select(func.count()).select_from(Embedding).where(Embedding.space_id == active)
            ),
            tombstones=self._count(
                select(func.count()).select_from(Tombstone).where(Tombstone.space_id == active)
            ),
            by_root=[
                RootCounts(
                    root=root,
                    files=files.get(root.id, 0) - missing.get(root.id, 0),
                    missing=missing.get(root.id, 0),
                    failed=failed.get(root.id, 0),
                )
                for root in Roots(self._connection).all()
            ],
        )

    def _count(self, query: object) -> int:
        return int(self._connection.execute(query).scalar_one())  # type: ignore[call-overload]

    def _by_root(self, table: type[File] | type[Failure]) -> dict[int | None, int]:
        query = select(table.root_id, func.count()).group_by(table.root_id)
        return {root: count for root, count in self._connection.execute(query)}  # noqa: C416 - rows, not pairs

    def _missing_by_root(self) -> dict[int | None, int]:
        query = select(File.root_id, func.count()).where(File.missing_since.is_not(None))
        return {root: count for root, count in self._connection.execute(query.group_by(File.root_id))}  # noqa: C416
