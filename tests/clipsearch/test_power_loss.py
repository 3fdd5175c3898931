"""Power cuts: an indexing run is recorded call by call, and what a disk may hold after each call is tried.

strace records every write, length, name and sync of the run, SQLite's too. The model of the disk: a sync of
a file makes its bytes safe, a sync of a folder its names. Of what was not synced, bytes may be lost, torn at
any place, or written although earlier ones were not; names come in their order, up to any of them, whatever
became of the bytes behind them. Then the library must hold what it acknowledged, and the next run finish the
work.

CLIPSEARCH_POWER_CUTS says how many states are tried.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clipsearch.errors import ClipsearchError

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_crashes import SERVER, Indexer, check_invariant, state

CUTS = int(os.environ.get("CLIPSEARCH_POWER_CUTS", "24"))
CALLS = "openat,pwrite64,write,ftruncate,fdatasync,fsync,rename,renameat,unlink,unlinkat,mkdir"
UNMODELLED = ("catalog.db-shm",)  # SQLite makes it anew
LEDGERS = ("acknowledged", "phase")  # the test's own, safe at once

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@dataclass
class Inode:
    """What of a file is safe, and what came since: ("write", at, bytes) or ("cut", size)."""

    safe: bytes = b""
    pending: list = field(default_factory=list)

    def after(self, changes):
        data = bytearray(self.safe)
        for kind, at, new in changes:
            if kind == "cut":
                del data[at:]
                data.extend(bytes(max(0, at - len(data))))
            else:
                data.extend(bytes(max(0, at - len(data))))
                data[at : at + len(new)] = new
        return bytes(data)


@dataclass
class Disk:
    """Names → inodes, as the program sees them (`now`), and the changes of names that are not safe."""

    now: dict = field(default_factory=dict)
    safe: dict = field(default_factory=dict)
    pending: list = field(default_factory=list)
    folders: set = field(default_factory=set)
    ledger: dict = field(default_factory=dict)

    def name(self, path, inode):
        """`path` is now that inode; None removes the name."""
        _set(self.now, path, inode)
        self.pending.append((path, inode))

    def sync_folder(self, folder):
        left = []
        for path, inode in self.pending:
            if str(Path(path).parent) == folder:
                _set(self.safe, path, inode)
            else:
                left.append((path, inode))
        self.pending = left

    def cut(self, chance):
        """The files after a power cut: path → bytes."""
        names = dict(self.safe)
        for path, inode in self.pending[: chance.randint(0, len(self.pending))]:
            _set(names, path, inode)
        keep = chance.choice([0.0, 0.5, 0.9, 1.0])
        return {path: inode.after(_surviving(inode.pending, keep, chance)) for path, inode in names.items()}


def _set(names, path, inode):
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode


def _surviving(pending, keep, chance):
    survived = []
    for kind, at, data in pending:
        if chance.random() >= keep:
            continue
        if kind == "write" and chance.random() < 0.3:
            data = data[: chance.randint(0, len(data))]
        survived.append((kind, at, data))
    return survived


CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?.*$")
HEX = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def _bytes(text):
    return bytes.fromhex(text.replace("\\x", ""))


def _texts(arguments):
    return [_bytes(text).decode() for text in HEX.findall(arguments)]


def _path_of(arguments):
    """The path behind the descriptor that a call begins with."""
    return re.match(r"\d+<([^>]*)>", arguments)[1].encode().decode("unicode_escape")


class Player:
    """Applies recorded calls to a disk."""

    def __init__(self, home):
        self.home = str(home)
        self.disk = Disk()
        self.offsets = {}

    def ours(self, path):
        return path.startswith(self.home + "/") and not path.endswith(UNMODELLED)

    def play(self, line):
        """Apply a line of strace; whether it changed the disk."""
        match = CALL.match(line)
        if match is None or int(match[3]) < 0:
            return False
        call, arguments, result = match[1], match[2], int(match[3])
        if call == "openat":
            return self.opened(_texts(arguments)[0], arguments, result)
        if call in ("rename", "renameat", "unlink", "unlinkat", "mkdir"):
            return self.named(call, *_texts(arguments))
        path = _path_of(arguments)
        if not self.ours(path):
            return False
        return self.changed(call, path, arguments, result)

    def opened(self, path, arguments, descriptor):
        self.offsets[descriptor] = 0
        if not self.ours(path) or "O_CREAT" not in arguments:
            return False
        if Path(path).name in LEDGERS:
            self.disk.ledger.setdefault(path, b"")
        elif path not in self.disk.now:
            self.disk.name(path, Inode())
        elif "O_TRUNC" in arguments:
            self.disk.now[path].pending.append(("cut", 0, b""))
        return True

    def named(self, call, *paths):
        if not all(self.ours(path) for path in paths):
            return False
        if call == "mkdir":
            self.disk.folders.add(paths[0])  # as good as safe: nothing of a library is true without a file
        elif call.startswith("unlink"):
            if paths[0] in self.disk.now:
                self.disk.name(paths[0], None)
        else:
            inode = self.disk.now[paths[0]]
            self.disk.name(paths[1], inode)
            self.disk.name(paths[0], None)
        return True

    def changed(self, call, path, arguments, result):
        if Path(path).name in LEDGERS:
            if call == "write":
                data = _bytes(HEX.search(arguments)[1])
                old = self.disk.ledger[path] if Path(path).name == "acknowledged" else b""
                self.disk.ledger[path] = old + data
            return True
        if path in self.disk.folders | {self.home}:  # SQLite uses fdatasync for folders too
            self.disk.sync_folder(path)
            return True
        inode = self.disk.now.get(path)
        if inode is None:  # removed and still open
            return False
        if call in ("fsync", "fdatasync"):
            inode.safe, inode.pending = inode.after(inode.pending), []
        elif call == "ftruncate":
            inode.pending.append(("cut", int(arguments.rpartition(",")[2]), b""))
        else:
            data = _bytes(HEX.search(arguments)[1])[:result]
            descriptor = int(arguments.partition("<")[0])
            if call == "pwrite64":
                at = int(arguments.rpartition(",")[2])
            else:
                at = self.offsets.get(descriptor, 0)
                self.offsets[descriptor] = at + len(data)
            inode.pending.append(("write", at, data))
        return True


@pytest.fixture(scope="module")
def indexer():
    indexer = Indexer()
    yield indexer
    indexer.close()


@pytest.fixture(scope="module")
def homes():
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder).resolve()


@pytest.fixture(scope="module")
def recorded(homes):
    """The home of a run, and its calls."""
    home, log = homes / "run", homes / "log"
    home.mkdir()
    command = ["strace", "-f", "-qq", "-xx", "-y", "-s", "10000000", "-o", log, "-e", f"trace={CALLS}"]
    order = {"library": str(home / "library"), "failpoint": None, "trace": None}
    environment = os.environ | {"CRASH_ORDER": json.dumps(order), "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([*command, sys.executable, SERVER, "--once"], env=environment, check=True)
    return home, log.read_text().splitlines()


def lay_out(disk, home, chance):
    """What the disk holds after a power cut, as files below `home`."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    for folder in sorted(disk.folders):
        Path(folder).mkdir(parents=True, exist_ok=True)
    for path, data in (disk.cut(chance) | disk.ledger).items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)


def test_the_model_ends_where_the_run_ended(recorded):
    """Without a power cut, the files are those of the disk, byte for byte."""
    home, lines = recorded
    player = Player(home)
    for line in lines:
        player.play(line)
    assert set(player.disk.now) | set(player.disk.ledger) >= {
        str(path) for path in home.rglob("*") if path.is_file() and not path.name.endswith(UNMODELLED)
    }
    for path, inode in player.disk.now.items():
        assert inode.after(inode.pending) == Path(path).read_bytes(), path


def test_power_cuts(recorded, indexer, homes):
    home, lines = recorded
    kept, expected = homes / "kept", state(home)
    shutil.copytree(home, kept)
    changing = Player(home)
    moments = [number for number, line in enumerate(lines) if changing.play(line)]
    assert len(moments) > 200
    chance = random.Random(0)
    wanted = sorted(chance.choices(moments, k=CUTS))
    player, done = Player(home), 0
    for moment in wanted:
        for line in lines[done : moment + 1]:
            player.play(line)
        done = moment + 1
        lay_out(player.disk, home, chance)
        check_invariant(home)
        assert indexer.run(home) == 0, moment
        assert state(home) == expected, moment


def test_the_model_notices_a_sync_that_is_left_out(recorded, homes):
    """What these tests are worth: without the syncs of the vectors, acknowledged photos are lost."""
    home, lines = recorded
    chance, lost = random.Random(1), 0
    player = Player(home)
    for line in lines:
        if "fdatasync(" in line and _path_of(line.partition("(")[2]).endswith(".f16"):
            continue
        if player.play(line) and chance.random() < 0.15 and player.disk.ledger:
            lay_out(player.disk, home, chance)
            try:
                check_invariant(home)
            except (ClipsearchError, AssertionError):
                lost += 1
    assert lost > 0
