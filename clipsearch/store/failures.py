"""Queries about the files that gave no image."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, case, delete, select
from sqlalchemy.dialects.sqlite import insert

from clipsearch.store.chunks import chunks
from clipsearch.store.models import Failure
from clipsearch.store.rows import FailureRow, NewFailure

_FAILURE_COLUMNS = (
    Failure.path,
    Failure.root_id,
    Failure.size,
    Failure.mtime_ns,
    Failure.reason,
    Failure.kind,
    Failure.attempts,
    Failure.last_run,
)


class Failures:
    """The files that gave no image, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def note(self, failures: Sequence[NewFailure], run_id: int | None = None) -> None:
        """Insert or update a row for each; `attempts` counts up while size and mtime stay the same."""
        if not failures:
            return
        statement = insert(Failure)
        new = statement.excluded
        same = (Failure.size == new.size) & (Failure.mtime_ns == new.mtime_ns)
        changes = {
            "root_id": new.root_id,
            "size": new.size,
            "mtime_ns": new.mtime_ns,
            "reason": new.reason,
            "kind": new.kind,
            "last_run": new.last_run,
            "attempts": case((same, Failure.attempts + 1), else_=1),
        }
        values = [
            {
                "path": failure.path,
                "root_id": failure.root_id,
                "size": failure.size,
                "mtime_ns": failure.mtime_ns,
                "reason": failure.reason.encode("utf-8", "replace").decode("utf-8"),
                "kind": failure.kind,
                "attempts": 1,
                "last_run": run_id,
            }
            for failure in failures
        ]
        upsert = statement.on_conflict_do_update(index_elements=[Failure.path], set_=changes)
        self._connection.execute(upsert, values)

    def clear(self, paths: Sequence[bytes]) -> None:
        """Forget the failures of these paths: the files are gone, or are images now."""
        for part in chunks(paths):
            self._connection.execute(delete(Failure).where(Failure.path.in_(part)))

    def all(self, limit: int | None = None) -> list[FailureRow]:
        """Return the failures in order of path."""
        query = select(*_FAILURE_COLUMNS).order_by(Failure.path).limit(limit)
        return [FailureRow(*row) for row in self._connection.execute(query)]
