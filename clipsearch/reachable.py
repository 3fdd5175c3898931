"""Whether the folders of a library can be reached now: a disk may be unplugged, a share may not answer."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterable
from typing import Literal

PATIENCE = 1.0
"""Seconds that all folders together get to answer; a network drive without its server may take minutes."""

_waiting: dict[bytes, threading.Thread] = {}


def root_state(root: bytes) -> Literal["online", "missing", "empty"]:
    """Whether a root can be scanned for what has vanished from it.

    "missing": not there, or not to be listed. "empty": a folder without entries but hidden ones, as the
    mount point of a disk that is not mounted looks. Neither says anything about the photos.
    """
    try:
        if stat.S_ISREG(os.stat(root).st_mode):  # noqa: PTH116 (bytes)
            return "online"
        with os.scandir(root) as entries:
            return "online" if any(not entry.name.startswith(b".") for entry in entries) else "empty"
    except OSError:
        return "missing"


def reachable(roots: Iterable[bytes], patience: float = PATIENCE) -> set[bytes]:
    """Those of `roots` that are online, known within `patience` seconds; one that does not answer is not."""
    found: set[bytes] = set()

    def look(root: bytes) -> None:
        if root_state(root) == "online":
            found.add(root)

    until = time.monotonic() + patience
    threads = []
    for root in roots:
        stuck = _waiting.get(root)
        if stuck is not None and stuck.is_alive():  # one thread is enough to wait for it
            continue
        _waiting[root] = threading.Thread(target=look, args=(root,), name="reachable", daemon=True)
        _waiting[root].start()
        threads.append(_waiting[root])
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return set(found)
