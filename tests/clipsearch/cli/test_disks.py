"""Disks that fill, fail, go away or are exchanged: real mounts, and system calls that fail."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
fakes = importlib.import_module("fakes")
FAKE = [sys.executable, str(Path(__file__).with_name("fake_cli.py"))]


class Disks:
    """What only the processes of a server see mounted; it is gone with the test."""

    def __init__(self, server):
        self._process = f"/proc/{server.pid}"
        self._mounted = []

    def _run(self, *command):
        subprocess.run(["nsenter", f"--mount={self._process}/ns/mnt", *command], check=True)

    def mount(self, place, size="4m"):
        """Mount an empty disk over what is at `place`."""
        place.mkdir(exist_ok=True)
        self._run("mount", "-t", "tmpfs", "-o", f"size={size}", "disk", place)
        self._mounted.append(place)

    def mount_again(self, disk, place):
        """Mount what is at `disk` at `place` as well."""
        self._run("mount", "--bind", disk, place)
        self._mounted.append(place)

    def grow(self, place, size):
        self._run("mount", "-o", f"remount,size={size}", place)

    def unmount(self, place):
        """Take the disk away, whoever uses it."""
        self._run("umount", "--lazy", place)
        self._mounted.remove(place)

    def at(self, place):
        """The path under which this process finds what is mounted at `place`."""
        return Path(f"{self._process}/root{place}")

    def close(self):
        for place in list(reversed(self._mounted)):
            self.unmount(place)


@pytest.fixture
def disks(mounting):
    disks = Disks(mounting)
    yield disks
    disks.close()


@pytest.fixture
def mounted(commands, mounting):
    """The command line, with the mounts of `disks`."""
    return replace(commands, server=mounting)


def four_photos(root):
    for name, colour in {**fakes.COLOURS, "grey": (90, 90, 90)}.items():
        fakes.write(root / f"{name}.png", colour)


def found(commands, **options):
    return len(commands("query", "red", "-n", "999", **options).stdout.splitlines())


def test_an_unmounted_disk_is_offline_and_keeps_its_photos(mounted, disks, tmp_path):
    disk, photos = tmp_path / "disk", tmp_path / "photos"
    photos.mkdir()
    disks.mount(disk)
    four_photos(disks.at(disk))
    disks.mount_again(disk, photos)
    mounted("index", photos)
    disks.unmount(photos)
    assert list(photos.iterdir()) == []
    done = mounted("index", code=1)
    assert "Offline: photos cannot be reached; its photos are kept." in done.stderr
    assert "(offline)" in mounted("status").stdout
    assert mounted("prune").stderr == "Forgot 0 files and 0 photos.\n"
    assert found(mounted) == 4
    disks.mount_again(disk, photos)
    assert "0 new photos, 4 unchanged" in mounted("index").stderr
    assert "(offline)" not in mounted("status").stdout


def test_a_disk_that_is_unmounted_during_the_run_loses_nothing(mounted, disks, tmp_path):
    photos = tmp_path / "photos"
    disks.mount(photos)
    four_photos(disks.at(photos))
    mounted("index", photos)
    (disks.at(photos) / "red.png").unlink()
    fakes.write(disks.at(photos) / "new.png", (9, 9, 200))
    run = mounted.by("nsenter", f"--mount=/proc/{mounted.server.pid}/ns/mnt", *FAKE)
    process = run.start("index", FAKE_PAUSE="0.5")
    assert process.stderr.readline() == "embedded\n"
    disks.unmount(photos)
    said = process.communicate()[1]
    assert process.returncode == 1
    assert "photos cannot be reached; its photos are kept." in said
    status = json.loads(mounted("status", "--json").stdout)
    assert (status["images"], status["missing"]) == (5, 0)


def test_another_disk_at_the_same_place_is_offline(mounted, disks, tmp_path):
    photos = tmp_path / "photos"
    disks.mount(photos)
    four_photos(disks.at(photos))
    mounted("index", photos)
    disks.mount(photos)
    fakes.write(disks.at(photos) / "another's.png", (9, 9, 9))
    done = mounted("index", code=1)
    assert "Offline: photos cannot be reached; its photos are kept." in done.stderr
    assert mounted("prune").stderr == "Forgot 0 files and 0 photos.\n"
    assert found(mounted) == 4
    disks.unmount(photos)
    assert "0 new photos, 4 unchanged" in mounted("index").stderr


@pytest.mark.parametrize(
    ("dim", "sentence"),
    [
        (16384, r"The disk is full: \S+/vectors\.f16 needs ([\d,]+) bytes more\. Free some space"),
        (3, r"The disk is full: \S+/catalog\.db could not take the last batch\. Free some space"),
    ],
    ids=["vectors", "catalog"],
)
def test_a_disk_that_fills_is_told_and_what_was_there_is_found(mounted, disks, tmp_path, dim, sentence):
    disk, photos, large = tmp_path / "disk", tmp_path / "photos", dim > 3
    disks.mount(disk, "420k")
    library, chosen = mounted.over(disk / "library"), {"FAKE_DIM": str(dim), "FAKE_COMMIT": "0"}
    four_photos(photos)
    library("index", photos, **chosen)
    for number in range(16):
        fakes.write(photos / f"{number}.png", (number, 200, 9), note=str(number))
    said = re.match(sentence, library.error("index", "--batch", "16" if large else "1", code=9, **chosen))
    assert said
    kept = found(library, **chosen)
    if large:
        (vectors,) = disks.at(library.library).glob("spaces/*/vectors.f16")
        assert vectors.stat().st_size == 4 * dim * 2  # what could not be used was given back
        assert 16 * dim * 2 - (420 << 10) < int(said[1].replace(",", "")) <= 16 * dim * 2
        assert kept == 4
    else:
        assert 4 <= kept < 20
    disks.grow(disk, "4m")
    assert f"{20 - kept} new photos, {kept} unchanged" in library("index", **chosen).stderr
    library("check", "--deep", **chosen)


@pytest.fixture
def failing(library):
    """Make a run of `index` in which system calls on some paths fail; what strace saw of such calls there."""
    log = library.cwd / "log"
    if not shutil.which("strace") or subprocess.run(["strace", "-o", log, "true"]).returncode:
        pytest.skip("no strace, or no right to trace")

    def run(calls, *paths, code, nth=1):
        only = [word for path in paths for word in ("-P", str(path))]
        strace = ["strace", "-f", "-qq", "-o", str(log), *only, "-e", f"trace={calls}"]
        strace += ["-e", f"inject={calls}:error=EIO:when={nth}"]
        said = library.by(*strace, *FAKE)("index", code=code, FAKE_SERIAL="1").stderr
        seen = re.findall(rf"^\d+ +(?:{calls.replace(',', '|')})\(.*$", log.read_text(), re.M)
        return said, seen

    return run


@pytest.mark.parametrize(
    ("call", "nth", "file", "kept", "sentence"),
    [
        ("fdatasync", 1, "spaces/*/vectors.f16", 4, "The disk failed at {path} (Input/output error)"),
        # All of the batch was written, and may be on the disk or not.
        ("fdatasync", 3, "catalog.db", 5, "The disk failed at {path} (disk I/O error)"),
        ("pwrite64", 20, "catalog.db", 4, "{path} takes no more bytes (disk I/O error): the disk may be"),
    ],
    ids=["sync of vectors", "sync of the catalog", "write of the catalog"],
)
def test_a_disk_that_fails_stops_the_run_and_is_not_asked_again(
    library, failing, call, nth, file, kept, sentence
):
    fakes.write(library.cwd / "photos" / "new.png", (9, 200, 9))
    (path,) = library.library.glob(file)
    log = path.with_name("catalog.db-wal") if file == "catalog.db" else path
    said, calls = failing(call, log, code=9, nth=nth)
    assert said.startswith(f"Error: {sentence.format(path=path)}")
    assert [line.endswith("(INJECTED)") for line in calls] == [False] * (nth - 1) + [True]
    assert found(library) == kept
    done = json.loads(library("index", "--json").stdout)
    assert (done["new"], done["unchanged"]) == (5 - kept, kept)
    library("check", "--deep")


@pytest.mark.parametrize(("call", "name"), [("getdents64", "sea"), ("newfstatat", "red.png")])
def test_what_cannot_be_listed_or_looked_at_is_told_and_kept(library, failing, call, name):
    said, calls = failing(call, library.cwd / "photos" / name, code=0, nth="1+")
    assert calls
    assert all(line.endswith("(INJECTED)") for line in calls)
    assert said.startswith("0 new photos, 3 unchanged")
    assert f"Not scanned: photos/{name}: Input/output error\n" in said
    assert json.loads(library("status", "--json").stdout)["missing"] == 0
    assert found(library) == 4
