"""Queries about when the indexer ran and what it did."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime

from clipsearch.store.rows import RunRow


class Runs:
    """The runs of the indexer, within one transaction."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def start(self) -> int:
        """Note that a run begins and return its id; one that never ended was interrupted."""
        self._driver.execute("UPDATE runs SET status = 'interrupted' WHERE status = 'running'")
        made = self._driver.execute("INSERT INTO runs (started_at, status) VALUES (?, 'running')", (_now(),))
        assert made.lastrowid is not None
        return made.lastrowid

    def finish(self, run_id: int, status: str, counts: Mapping[str, int]) -> None:
        """Note how a run ended (``done``, ``interrupted``, ``failed``) and what it did."""
        self._driver.execute(
            "UPDATE runs SET ended_at = ?, status = ?, counts = ? WHERE id = ?",
            (_now(), status, json.dumps(dict(counts)), run_id),
        )

    def last(self, limit: int = 1) -> list[RunRow]:
        """Return the latest runs, newest first."""
        query = "SELECT id, started_at, ended_at, status, counts FROM runs ORDER BY id DESC LIMIT ?"
        return [
            RunRow(run_id, started, ended, status, json.loads(counts))
            for run_id, started, ended, status, counts in self._driver.execute(query, (limit,))
        ]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
