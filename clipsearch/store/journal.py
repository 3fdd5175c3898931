"""Queries about what went wrong (failures) and when the indexer ran (runs)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, case, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from clipsearch.store.chunks import chunks
from clipsearch.store.models import Failure, Run
from clipsearch.store.rows import FailureRow, KnownFailure, NewFailure, RunRow

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

    def known(self, root_id: int) -> dict[bytes, KnownFailure]:
        """Return path → what is known, for every failure under a root, in one query."""
        query = select(Failure.path, Failure.size, Failure.mtime_ns, Failure.kind, Failure.attempts)
        rows = self._connection.execute(query.where(Failure.root_id == root_id))
        return {row.path: KnownFailure(row.size, row.mtime_ns, row.kind, row.attempts) for row in rows}

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


class Runs:
    """The runs of the indexer, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self) -> int:
        """Note that a run begins and return its id; one that never ended was interrupted."""
        unfinished = update(Run).where(Run.status == "running").values(status="interrupted")
        self._connection.execute(unfinished)
        values = {"started_at": _now(), "status": "running", "counts": {}}
        key = self._connection.execute(insert(Run).values(values)).inserted_primary_key
        assert key is not None
        return int(key[0])

    def finish(self, run_id: int, status: str, counts: Mapping[str, int]) -> None:
        """Note how a run ended (``done``, ``interrupted``, ``failed``) and what it did."""
        values = {"ended_at": _now(), "status": status, "counts": dict(counts)}
        self._connection.execute(update(Run).where(Run.id == run_id).values(values))

    def last(self, limit: int = 1) -> list[RunRow]:
        """Return the latest runs, newest first."""
        query = select(Run.id, Run.started_at, Run.ended_at, Run.status, Run.counts)
        return [RunRow(*row) for row in self._connection.execute(query.order_by(Run.id.desc()).limit(limit))]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
