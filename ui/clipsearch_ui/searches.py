"""Recent and saved searches of a library: ``searches.json`` beside the catalog, which may be deleted."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from clipsearch import durable
from clipsearch.errors import StorageError

RECENT = 12
_LONGEST = 500


class Searches:
    """The searches of one library; kept in memory where its folder cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "searches.json"
        self._lock = threading.Lock()
        self._saved, self._recent = _read(self._path)

    @property
    def saved(self) -> dict[str, str]:
        """Name → the address's query string."""
        return dict(self._saved)

    @property
    def recent(self) -> list[str]:
        """The last queries, newest first."""
        return list(self._recent)

    def note(self, query: str) -> None:
        """Remember that this was asked."""
        query = query.strip()[:_LONGEST]
        with self._lock:
            if query and "picture:" not in query and self._recent[:1] != [query]:
                self._recent = [query, *(other for other in self._recent if other != query)][:RECENT]
                self._write()

    def save(self, name: str, address: str) -> None:
        """Keep a search under a name; an old one of that name is replaced."""
        with self._lock:
            self._saved = {**self._saved, name.strip()[:80]: address[:4000]}
            self._write()

    def forget(self, name: str) -> None:
        """Remove a saved search."""
        with self._lock:
            self._saved = {other: address for other, address in self._saved.items() if other != name}
            self._write()

    def clear_recent(self) -> None:
        """Forget what was asked."""
        with self._lock:
            self._recent = []
            self._write()

    def _write(self) -> None:
        content = json.dumps({"saved": self._saved, "recent": self._recent}, indent=1)
        try:
            durable.replace(self._path, content.encode(), name="searches")
        except StorageError:
            return


def _read(path: Path) -> tuple[dict[str, str], list[str]]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        saved = {str(name): str(address) for name, address in content["saved"].items()}
        return saved, [str(query) for query in content["recent"]][:RECENT]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, []
