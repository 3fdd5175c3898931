"""A scan in parts finds what one scan finds, whoever does the parts and whatever becomes of them."""
# ruff: noqa: PTH103, PTH118, PTH123
# The paths under test are bytes, which pathlib cannot hold.

import importlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.folder import LibraryFolder
from clipsearch_indexer import plan, scan_helper, scanner
from clipsearch_indexer.ingest import Options, ingest
from clipsearch_indexer.scan import EVERYWHERE, Bounds, FileStat, Settled, Unscanned, scan
from clipsearch_indexer.scan_helper import ScanHelpers, divided
from clipsearch_indexer.scan_part import ScanJob, decoded, encoded, look_over

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
fakes = importlib.import_module("fakes")
NAMES = [b"a", b"a.jpg", b"a-b", b"a0", b"b", b"\xff", b"c.png", b"!", b"~.jpg"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Folders and images whose names lie on both sides of the slash."""
    root = os.fsencode(tmp_path_factory.mktemp("tree"))
    choose = random.Random(0)
    for _ in range(150):
        *folders, name = choose.choices(NAMES, k=choose.randint(1, 4))
        folder = os.path.join(root, *(part.replace(b".jpg", b"") for part in folders))
        try:
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, name.replace(b".jpg", b"") + b".jpg"), "xb") as file:
                file.write(b"x")
        except OSError:
            continue
    return root


def parts_of(cuts):
    ends = sorted(set(cuts))
    return [Bounds(first, end) for first, end in zip([b"", *ends], [*ends, b""], strict=True)]


@given(st.data())
def test_every_file_is_in_one_part(tree, data):
    whole = list(scan(tree))
    cut = st.sampled_from([entry.path for entry in whole]) | st.builds(
        lambda one, tail: os.path.join(tree, one, tail), st.sampled_from(NAMES), st.binary(max_size=2)
    )
    parts = parts_of([tree, *data.draw(st.lists(cut, max_size=4))])
    found = [entry for bounds in parts for entry in scan(tree, bounds=bounds)]
    assert len(whole) > 50
    assert Counter(found) == Counter(whole)


@given(st.data())
def test_every_known_file_is_settled_in_one_part(tree, data):
    whole = {
        entry.path: (entry.path, entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode)
        for entry in scan(tree)
    }
    parts = parts_of(data.draw(st.lists(st.sampled_from(list(whole)), min_size=1, max_size=4)))
    settled = 0
    for bounds in parts:
        known = {path: last for path, last in whole.items() if bounds.hold(path)}
        found = list(scan(tree, known=known, bounds=bounds))
        assert known == {}
        assert all(isinstance(entry, Settled) for entry in found)
        settled += sum(entry.files for entry in found)
    assert settled == len(whole)


@pytest.mark.parametrize("folder", [b"/p/a", b"/"])
def test_bounds_of_a_folder(folder):
    below = folder.rstrip(b"/") + b"/"
    assert EVERYWHERE.cover(folder)
    assert EVERYWHERE.meet(folder)
    assert Bounds(below, below[:-1] + b"0").cover(folder)
    assert not Bounds(below + b"x").cover(folder)
    assert Bounds(below + b"x").meet(folder)
    assert not Bounds(b"", below).meet(folder)
    assert not Bounds(below[:-1] + b"0").meet(folder)
    assert Bounds(b"", below + b"x").below(folder) == (below, below + b"x")


def test_a_folder_that_cannot_be_listed_is_told_by_each_part(tree, monkeypatch):
    def failing(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("clipsearch_indexer.scan.os.scandir", failing)
    told = Unscanned(tree, "Permission denied", "directory")
    middle = os.path.join(tree, b"b")
    assert list(scan(tree, bounds=Bounds(b"", middle))) == list(scan(tree, bounds=Bounds(middle))) == [told]


@pytest.mark.parametrize(
    ("paths", "each", "most", "parts"), [(100, 1, 8, 1), (100, 1000, 2, 2), (100, 10_000, 99, 8)]
)
def test_a_part_is_worth_its_process(paths, each, most, parts):
    sample = [b"/p/%03d" % number for number in range(paths)]
    found = divided(sample, each, most)
    assert len(found) == parts
    assert (found[0].first, found[-1].end) == (b"", b"")
    assert [bounds.end for bounds in found[:-1]] == [bounds.first for bounds in found[1:]]
    sizes = [sum(bounds.hold(path) for path in sample) for bounds in found]
    assert sizes[0] + 1 >= sizes[-1] >= 100 // parts - scan_helper.LEAD / each - 1


def test_outcomes_travel():
    outcome = (
        [FileStat(b"/\xff", 1, 2, 3, 1 << 63, 5), Unscanned(b"/a", "why", "file"), Settled(b"/b", 7)],
        [b"/c"],
    )
    found, left = decoded(encoded(outcome))
    assert (found, left) == outcome
    assert [type(entry) for entry in found] == [FileStat, Unscanned, Settled]


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library of 24 photos in four folders, and how to index it anew."""
    monkeypatch.setattr("clipsearch_indexer.decode.DecodePool", fakes.SerialPool)
    monkeypatch.setattr(plan, "RACY_NS", -50_000_000)
    root = tmp_path / "photos"
    for number in range(24):
        fakes.write(root / f"{number % 4}" / f"{number:02}.png", (number + 1, 9, 0))
    with LibraryFolder.create(tmp_path / "library") as folder:

        def index(where=root, **options):
            reports = []
            summary = ingest(
                folder, fakes.ColourEncoder(), [os.fsencode(where)], Options(**options), reports.append
            )
            return summary, reports

        index()
        yield root, folder, index


@pytest.fixture
def several(monkeypatch):
    """Three processes for however few files."""
    started = []

    class Counted(ScanHelpers):
        def __enter__(self):
            started.append(len(self._jobs))
            return super().__enter__()

    monkeypatch.setattr(scan_helper, "SHARE", 1)
    monkeypatch.setattr(scan_helper, "LEAD", 0)
    monkeypatch.setattr(scanner, "processors", lambda: 3)
    monkeypatch.setattr(scanner, "ScanHelpers", Counted)
    return started


def counts(summary):
    return {name: count for name, count in summary.counts().items() if count}


def test_nothing_changed(library, several, monkeypatch):
    monkeypatch.setattr(scanner, "_REPORT_EVERY", 1)
    _, _, index = library
    summary, reports = index()
    assert counts(summary) == {"unchanged": 24}
    assert several == [2]
    assert reports[-2].done == 24  # the last one is that of the work


def change(root):
    """Change a photo, take one away, add one, move one, in other folders each."""
    fakes.write(root / "0" / "00.png", (0, 99, 0))
    (root / "1" / "01.png").unlink()
    fakes.write(root / "2" / "new.png", (0, 0, 99))
    shutil.move(root / "3" / "03.png", root / "0" / "moved.png")


def test_changes_are_found_in_every_part(library, several):
    root, _, index = library
    change(root)
    summary, _ = index()
    assert counts(summary) == {"new": 2, "moved": 1, "unchanged": 21, "missing": 1}
    assert several == [2]
    summary, _ = index()
    assert counts(summary) == {"unchanged": 24}


def test_a_folder_within_the_root(library, several):
    root, _, index = library
    change(root)
    summary, _ = index(root / "1")
    assert counts(summary) == {"unchanged": 5, "missing": 1}
    assert several == [2]


def test_no_folder_is_told_of_twice(library, several, monkeypatch):
    root, _, index = library
    told = Unscanned(os.fsencode(root), "Input/output error", "directory")
    found = scanner.scan
    monkeypatch.setattr(scanner, "scan", lambda *words, **named: [*found(*words, **named), told])
    monkeypatch.setattr(scan_helper, "_BOOT", "")  # all parts are done here
    change(root)
    summary, _ = index()
    assert summary.unscanned == [(told.path, told.reason)]
    assert counts(summary) == {"new": 2, "copies": 1, "unchanged": 21, "unscanned": 1}  # nothing has gone


@pytest.mark.parametrize(
    "broken",
    ["raise SystemExit(3)", "print('nonsense')", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
)
def test_what_a_process_fails_to_do_is_done_here(library, several, monkeypatch, broken):
    monkeypatch.setattr(scan_helper, "_BOOT", broken)
    root, _, index = library
    change(root)
    summary, _ = index()
    assert counts(summary) == {"new": 2, "moved": 1, "unchanged": 21, "missing": 1}
    assert several == [2]


def test_without_room_for_another_process_all_is_done_here(library, several, monkeypatch):
    def full(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(scan_helper.subprocess, "Popen", full)
    _, _, index = library
    summary, _ = index()
    assert counts(summary) == {"unchanged": 24}


def test_where_much_is_to_be_done_one_process_finds_out(library, several, monkeypatch):
    monkeypatch.setattr(scanner, "_DOUBTFUL", -1)
    _, _, index = library
    summary, _ = index()
    assert several == [0]
    assert counts(summary) == {"unchanged": 24}


def test_linked_folders_are_followed_by_one_process(library, several):
    root, _, index = library
    (root / "again").symlink_to(root / "0", target_is_directory=True)
    summary, _ = index(follow_symlinks=True)
    assert several == [0]
    assert counts(summary)["unchanged"] + counts(summary).get("moved", 0) == 24


def test_ctrl_c_ends_the_processes(library, several, monkeypatch):
    ended = []

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    class Watched(scan_helper.ScanHelper):
        def __exit__(self, *error):
            super().__exit__(*error)
            ended.append(self._process.poll())

    monkeypatch.setattr(scan_helper, "_BOOT", "import time; time.sleep(600)")
    monkeypatch.setattr(scan_helper, "ScanHelper", Watched)
    monkeypatch.setattr(scanner.Scanner, "_scan", interrupted)
    _, _, index = library
    summary, _ = index()
    assert summary.interrupted
    assert ended == [-9, -9]


def test_a_job_reads_no_other_part(library):
    root, folder, _ = library
    middle = os.fsencode(root / "2")
    with folder.writer() as writer:
        job = ScanJob(writer.catalog_uri, 1, os.fsencode(root), (middle, b""), (), -50_000_000, ())
        reports = []
        assert look_over(job, reports.append) == (
            [Settled(os.fsencode(root / name), 6) for name in ("2", "3")],
            [],
        )
        assert reports == [6, 12]
        doubtful = os.fsencode(root / "3" / "03.png")
        found, left = look_over(job._replace(doubtful=(doubtful,)), reports.append)
        assert [entry.path for entry in found if isinstance(entry, FileStat)] == left == [doubtful]
        with pytest.raises(sqlite3.OperationalError):
            look_over(job._replace(catalog="file:/nowhere?mode=ro"), reports.append)


def test_it_starts_with_little():
    heavy = "{'numpy', 'json', 'dataclasses'} & set(sys.modules)"
    script = f"import sys, clipsearch_indexer.scan_part; print(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
