"""Kills that meet a recovery, in pairs, and kills at system calls that write, SQLite's among them.

CLIPSEARCH_KILLS says how many; CI takes a few, spread over all (`test_crashes` has one at every step),
and `make crash-test` takes 616 pairs and 154 calls.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_crashes import KILLED, SERVER, Indexer, check_invariant, state

KILLS = int(os.environ.get("CLIPSEARCH_KILLS", "8"))
SECOND_KILLS = 8
# What can leave something behind: bytes, lengths, names, and the promises that they are on the disk.
CALLS = "pwrite64,write,ftruncate,fdatasync,fsync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"


@pytest.fixture(scope="module")
def indexer():
    indexer = Indexer()
    yield indexer
    indexer.close()


@pytest.fixture
def homes():
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def expected(indexer, homes):
    home = homes / "undisturbed"
    home.mkdir()
    assert indexer.run(home) == 0
    return state(home)


def numbered(trace):
    """(name, nth) of each step of a trace."""
    counted, steps = Counter(), []
    for name in json.loads(trace.read_text()):
        counted[name] += 1
        steps.append((name, counted[name]))
    return steps


def spread(items, count):
    """At most `count` of `items`, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def second_kills(steps, count):
    """`count` of the steps of a run that recovers: those of the recovery first, then others, spread."""
    recovery = [step for step in steps if step[0].startswith("recovery.")]
    others = [step for step in steps if step not in recovery]
    return [*recovery, *spread(others, max(1, count - len(recovery)))][:count]


def test_a_second_kill_in_the_run_that_recovers(indexer, expected, homes):
    home = homes / "first"
    home.mkdir()
    indexer.run(home, trace=homes / "trace")
    firsts = numbered(homes / "trace")
    seconds = max(1, min(SECOND_KILLS, KILLS // len(firsts)))
    points = in_recovery = 0
    for number, (name, nth) in enumerate(spread(firsts, KILLS)):
        killed, again = homes / f"{number}", homes / "again"
        killed.mkdir()
        assert indexer.run(killed, f"{name}:kill:{nth}") == KILLED
        check_invariant(killed)
        shutil.copytree(killed, again)
        indexer.run(again, trace=homes / "trace")
        assert state(again) == expected, (name, nth)
        for second, arrival in second_kills(numbered(homes / "trace"), seconds):
            shutil.rmtree(again)
            shutil.copytree(killed, again)
            assert indexer.run(again, f"{second}:kill:{arrival}") == KILLED
            check_invariant(again)
            assert indexer.run(again) == 0
            assert state(again) == expected, (name, nth, second, arrival)
            points += 1
            in_recovery += second.startswith("recovery.")
        shutil.rmtree(again)
        shutil.rmtree(killed)
    assert points >= min(KILLS, len(firsts))
    assert in_recovery >= max(1, points // 9)  # all but the first steps leave something to recover from


def traced(home, inject, order):
    """Run the indexer under strace; its exit status."""
    command = ["strace", "-f", "-qq", "-o", str(home.with_suffix(".log")), "-e", f"trace={CALLS}", *inject]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "CRASH_ORDER": json.dumps(order)}
    return subprocess.run([*command, sys.executable, SERVER, "--once"], env=environment).returncode


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_kill_at_any_system_call_that_writes(indexer, expected, homes):
    """SQLite's own writes among them, which have no failpoints."""
    home = homes / "counted"
    home.mkdir()
    order = {"library": str(home / "library"), "failpoint": None, "trace": None}
    assert traced(home, [], order) == 0
    counted, points = Counter(), []
    for line in home.with_suffix(".log").read_text().splitlines():
        call = line.split()[1].partition("(")[0]
        counted[call] += 1  # as strace does, which counts each kind of call for itself
        points.append((call, counted[call]))
    assert len(points) > 150
    assert {"pwrite64", "fdatasync", "ftruncate"} <= set(counted)
    for number, (call, nth) in enumerate(chosen(points, max(3, KILLS // 4))):
        home = homes / f"call{number}"
        home.mkdir()
        order["library"] = str(home / "library")
        assert traced(home, ["-e", f"inject={call}:signal=KILL:when={nth}"], order) == KILLED, (call, nth)
        check_invariant(home)
        assert indexer.run(home) == 0
        assert state(home) == expected, (call, nth)
        shutil.rmtree(home)


def chosen(points, count):
    """`count` of (call, nth), at random; the rare calls, renames and syncs among them, come first."""
    points = random.Random(0).sample(points, len(points))
    rare = [point for point in points if point[0] not in ("pwrite64", "write")]
    common = [point for point in points if point not in rare]
    half = count // 2
    return [*rare[:half], *common[: count - half], *rare[half:]][:count]
