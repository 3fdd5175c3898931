"""kill -9, a failing and a full disk at every step of indexing: nothing that was committed is lost."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import LibraryNotFound, StorageError
from clipsearch.folder import LibraryFolder

SERVER = Path(__file__).with_name("crash_server.py")
KILLED = -9


class Indexer:
    """Runs the indexer of crash_server.py, each time in a process of its own."""

    def __init__(self):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        environment.pop("CLIPSEARCH_FAILPOINT", None)
        self.process = subprocess.Popen(
            [sys.executable, SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, home, failpoint=None, trace=None):
        order = {"library": str(home / "library"), "failpoint": failpoint, "trace": trace and str(trace)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def indexer():
    indexer = Indexer()
    yield indexer
    indexer.close()


@pytest.fixture(scope="module")
def homes():
    """A folder in memory where there is one: a killed process loses what memory loses, which is nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def undisturbed(indexer, homes):
    """The steps that an undisturbed run passes, and the state that it ends in."""
    home = homes / "undisturbed"
    home.mkdir()
    assert indexer.run(home, trace=home / "trace") == 0
    counted, steps = Counter(), []
    for name in json.loads((home / "trace").read_text()):
        counted[name] += 1
        steps.append((name, counted[name]))
    return steps, state(home)


def state(home):
    """What the library says of every path, independent of slots and ids: (hash, vector bytes, missing)."""
    with LibraryFolder.open(home / "library") as folder, folder.snapshot() as snapshot:
        files = {}
        for hit in snapshot.hits(snapshot.visible):
            row = snapshot.vectors[hit.slot].tobytes()
            files.update(dict.fromkeys(hit.paths, (hit.image.hash, row)))
        with folder.reading() as catalog:  # of the same state: nobody writes
            known = catalog.known.files(1)
            failures = [(row.path, row.reason) for row in catalog.failures.all()]
        return (
            files,
            {path: bool(file.missing) for path, file in known.items()},
            failures,
            snapshot.space.slots,
        )


def check_invariant(home):
    """Everything committed is whole, and everything acknowledged is committed (or was pruned at the end)."""
    try:
        folder = LibraryFolder.open(home / "library")
    except LibraryNotFound:
        assert not (home / "acknowledged").exists()
        return
    with folder:
        health = folder.check()
        assert health.is_good, health
        # An empty file is about to say that the first phase is over.
        phase = int((home / "phase").read_text() or 2) if (home / "phase").exists() else 1
        acknowledged = home / "acknowledged"
        if phase == 1 and acknowledged.exists():
            hashes = [bytes.fromhex(line) for line in acknowledged.read_text().split()]
            with folder.reading() as catalog:
                assert set(catalog.images.ids_by_hash(hashes)) == set(hashes)


def test_the_undisturbed_run_passes_every_step(undisturbed):
    steps, (files, known, failures, slots) = undisturbed
    assert len(steps) >= 60
    assert {name for name, _ in steps} >= {
        "lock.taken",
        "vectors.open",
        "vectors.write",
        "vectors.sync",
        "vectors.synced",
        "vectors.dirsync",
        "catalog.begin",
        "catalog.rows",
        "catalog.commit",
        "catalog.committed",
        "catalog.checkpoint",
        "catalog.checkpointed",
        "compact.rename",
        "compact.renamed",
    }
    assert set(files) == set(known)
    assert not any(known.values())
    assert slots == len({content for content, _ in files.values()}) == 7
    assert failures == [(b"/p/broken.jpg", "truncated")]


def test_kill_at_every_step_then_in_the_recovery(indexer, undisturbed, homes):
    steps, expected = undisturbed
    again = cycle(["recovery.open", "recovery.sync", "recovery.synced"])
    in_recovery = 0
    for number, (name, nth) in enumerate(steps):
        home = homes / str(number)
        home.mkdir()
        assert indexer.run(home, f"{name}:kill:{nth}") == KILLED, (name, nth)
        check_invariant(home)
        if name in ("vectors.write", "vectors.synced", "catalog.commit"):
            in_recovery += indexer.run(home, f"{next(again)}:kill") == KILLED
            check_invariant(home)
        assert indexer.run(home) == 0
        assert state(home) == expected, (name, nth)
    assert in_recovery >= 6


@pytest.mark.parametrize("action", ["eio", "enospc", "short"])
def test_a_failing_disk_at_every_step(indexer, undisturbed, homes, action):
    steps, expected = undisturbed
    for number, (name, nth) in enumerate(steps):
        if nth > 1 or (action != "eio" and not name.endswith((".write", ".rows", ".commit"))):
            continue  # to the code that meets them, the three differ only where bytes are written
        home = homes / f"{action}{number}"
        home.mkdir()
        status = indexer.run(home, f"{name}:{action}:{nth}")
        assert status == StorageError.exit_code, (name, nth, status)
        assert ("disk is full" if action == "enospc" else "disk failed") in (home / "error").read_text()
        check_invariant(home)
        assert indexer.run(home) == 0
        assert state(home) == expected, (name, nth)


def test_a_tail_torn_at_each_byte_of_the_last_row(indexer, undisturbed, homes):
    _, expected = undisturbed
    home = homes / "torn"
    home.mkdir()
    assert indexer.run(home, "catalog.begin:kill:6") == KILLED
    [vectors] = (home / "library" / "spaces" / "fingerprint").glob("vectors.*")
    with LibraryFolder.open(home / "library") as folder:
        space = folder.active_space()
        committed = space.slots * space.dim * 2
        whole = vectors.read_bytes()
        assert len(whole) > committed > 0
        for tail in range(space.dim * 2 + 1):
            for filling in (whole[committed : committed + tail], bytes(tail)):
                vectors.write_bytes(whole[:committed] + filling)
                with folder.snapshot() as snapshot:
                    assert np.array_equal(snapshot.vectors.ravel(), np.frombuffer(whole[:committed], "<f2"))
                with folder.writer() as writer:
                    assert writer.recovery.cut_bytes == tail
                assert vectors.read_bytes() == whole[:committed]
    assert indexer.run(home) == 0
    assert state(home) == expected
