"""Tar shards that are as they were are not opened, and nothing that changes is missed for it."""

import importlib
import io
import os
import random
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from clipsearch.store.last_stats import last_stats
from clipsearch.store.shards import KnownShard
from clipsearch_indexer import plan, scanner
from clipsearch_indexer.ingest import ingest
from clipsearch_indexer.run import Options
from clipsearch_indexer.scan import FileStat, Unopened, scan

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
fakes = importlib.import_module("fakes")


def png(number):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 90)).save(out, "png")
    return out.getvalue()


def shard(path, numbers, **more):
    """A shard of photos, one for each number; `more` are files by their stem."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {f"{number:04}.png": png(number) for number in numbers} | {f"{k}.png": v for k, v in more.items()}
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def photos(tmp_path):
    """Three shards of five and a photo."""
    root = tmp_path / "photos"
    for number in range(3):
        shard(root / f"s{number}" / f"{number}.tar", range(5 * number, 5 * number + 5))
    fakes.write(root / "z.png", (255, 0, 0))
    return root


class Indexing:
    """A library and what the runs of the indexer opened."""

    def __init__(self, folder):
        self.folder = folder
        self.met = []

    def __call__(self, *roots, encoder=None, **options):
        """Run, and give what was counted."""
        self.met.clear()
        encoder = encoder or fakes.ColourEncoder()
        summary = ingest(self.folder, encoder, [os.fsencode(root) for root in roots], Options(**options))
        return {name: count for name, count in summary.counts().items() if count}

    @property
    def shut(self):
        """Names of the shards that were not opened in the last run, each once."""
        names = [Path(os.fsdecode(entry.path)).name for entry in self.met if isinstance(entry, Unopened)]
        assert len(set(names)) == len(names), "told by one part of the scan"
        return sorted(names)

    def noted(self):
        """Name → images, of the shards that need not be opened."""
        with self.folder.reading() as catalog:
            rows = catalog._driver.execute("SELECT path, files FROM shards ORDER BY path").fetchall()
        return {Path(os.fsdecode(path)).name: files for path, files in rows}

    def visible(self):
        """The paths that can be found."""
        with self.folder.reading() as catalog:
            query = "SELECT path FROM files WHERE missing_since IS NULL"
            return {path for (path,) in catalog._driver.execute(query)}


@pytest.fixture
def index(library, monkeypatch):
    indexing = Indexing(library)
    look_over = scanner.Scanner.look_over

    def watched(*args):
        met, left = look_over(*args)
        indexing.met += met
        return met, left

    monkeypatch.setattr(scanner.Scanner, "look_over", watched)
    return indexing


ALL = ["0.tar", "1.tar", "2.tar"]


def test_shards_as_they_were_are_not_opened(index, photos):
    assert (index(photos), index.shut) == ({"new": 16}, [])
    assert index.noted() == {"0.tar": 5, "1.tar": 5, "2.tar": 5}
    assert (index(), index.shut) == ({"unchanged": 16}, ALL)
    assert (index(photos / "s1"), index.shut) == ({"unchanged": 5}, ["1.tar"])
    assert (index(photos / "s1" / "1.tar"), index.shut) == ({"unchanged": 5}, ["1.tar"]), "itself the place"
    fakes.write(photos / "s1" / "y.png", (9, 9, 9))
    assert (index(), index.shut) == ({"new": 1, "unchanged": 16}, ALL)


def test_a_shard_that_changed_is_opened(index, photos):
    index(photos)
    shard(photos / "s1" / "1.tar", [5, 6, 100, 101, 102, 103])
    assert (index(), index.shut) == ({"new": 4, "missing": 3, "unchanged": 13}, ["0.tar", "2.tar"])
    assert index.noted()["1.tar"] == 6
    assert (index(), index.shut) == ({"unchanged": 17}, ALL)
    status = (photos / "s0" / "0.tar").stat()
    os.utime(photos / "s0" / "0.tar", ns=(status.st_atime_ns, status.st_mtime_ns))  # changes ctime alone
    assert (index(), index.shut) == ({"unchanged": 17}, ["1.tar", "2.tar"])


def test_a_shard_that_goes_and_comes_back(index, photos, tmp_path):
    index(photos)
    shutil.move(photos / "s1" / "1.tar", tmp_path / "1.tar")
    assert index() == {"unchanged": 11, "missing": 5}
    assert index.noted() == {"0.tar": 5, "2.tar": 5}
    shutil.move(tmp_path / "1.tar", photos / "s1" / "1.tar")
    assert index() == {"unchanged": 11, "returned": 5}
    assert (index(), index.shut) == ({"unchanged": 16}, ALL)


def test_what_lies_behind_a_link_now_is_not_seen_there(index, photos, tmp_path):
    index(photos)
    (photos / "s1").rename(tmp_path / "away")  # its shards keep their times
    (photos / "s1").symlink_to(tmp_path / "away")
    assert index() == {"unchanged": 11, "missing": 5, "unscanned": 1}
    assert index.noted() == {"0.tar": 5, "2.tar": 5}
    assert index(follow_symlinks=True)["returned"] == 5
    assert index.noted() == {}, "links may lead to a shard by several paths"
    index(follow_symlinks=True)
    assert index.shut == []


def test_photos_that_cannot_be_read(index, photos, monkeypatch):
    shard(photos / "s1" / "1.tar", [5, 6], broken=b"no image")
    assert index(photos) == {"new": 13, "failed": 1}
    assert (index(), index.shut) == ({"unchanged": 13, "quarantined": 1}, ALL)
    with index.folder.writer() as writer, writer.changing() as catalog:
        catalog._driver.execute("UPDATE failures SET kind = 'permission'")
    assert (index(), index.shut) == ({"unchanged": 13, "failed": 1}, ["0.tar", "2.tar"])
    assert (index(), index.shut) == ({"unchanged": 13, "quarantined": 1}, ALL)


def test_another_model_reads_all_again(index, photos):
    index(photos)
    other = fakes.ColourEncoder("others")
    assert (index(encoder=other), index.shut) == ({"reembedded": 16, "unchanged": 16}, [])
    assert (index(encoder=other), index.shut) == ({"unchanged": 16}, ALL)


def test_what_is_left_out_decides(index, photos):
    index(photos)
    assert index(excludes=["0001.png"]) == {"unchanged": 15, "missing": 1}
    assert index(excludes=["0001.png"]) == {"unchanged": 15}
    assert index.shut == ALL
    assert (index(excludes=["1.tar"]), index.shut) == ({"unchanged": 10, "returned": 1, "missing": 5}, [])
    assert (index(), index.shut) == ({"unchanged": 11, "returned": 5}, [])
    by_path = ["s1/1.tar/000[56].png"]
    assert (index(excludes=by_path), index.shut) == ({"unchanged": 14, "missing": 2}, [])
    assert (index(excludes=by_path), index.shut) == ({"unchanged": 14}, ALL)
    assert index(photos / "s1", excludes=by_path) == {"unchanged": 3, "returned": 2}, "relative to the place"


def test_a_damaged_shard_is_told_every_time(index, photos):
    index(photos)
    with (photos / "s1" / "1.tar").open("r+b") as file:
        file.seek(3 * 1024)
        file.write(b"\xff" * 600)
    for _ in range(2):
        assert index() == {"unchanged": 14, "unscanned": 1}, "three stand before the damage"
        assert index.noted() == {"0.tar": 5, "2.tar": 5}


def test_a_repair_has_all_read(index, photos):
    index(photos)
    with index.folder.writer() as writer, writer.changing() as catalog:
        catalog.files.distrust()
    assert (index(), index.shut) == ({"unchanged": 16}, [])
    assert len(fakes.SerialPool.opened) >= 16


def test_roots_within_each_other(index, photos):
    index(photos)
    index(photos / "s1" / "1.tar", photos / "s2")
    for _ in range(2):
        assert index() == {"unchanged": 16}
    assert index.shut == ALL
    (photos / "s1" / "1.tar").unlink()
    assert index() == {"unchanged": 11, "missing": 5}


def test_a_shard_that_was_just_written_is_not_trusted(index, photos, monkeypatch):
    monkeypatch.setattr(plan, "RACY_NS", 3_600_000_000_000)
    index(photos)
    assert index.noted() == {}


def test_a_run_that_was_stopped_notes_nothing(index, photos):
    class Stopping(fakes.ColourEncoder):
        def encode_pixels(self, pixels):
            raise KeyboardInterrupt

    assert index(photos, encoder=Stopping()) == {}
    assert index.noted() == {}
    assert index() == {"new": 16}


def test_whatever_happens_is_seen(index, photos, tmp_path):
    """Random changes; after each the library holds what a scan meets."""
    rng = random.Random(7)
    names = [photos / f"s{number % 3}" / f"{number}.tar" for number in range(5)]
    index(photos)
    opened = 0
    for _ in range(25):
        name = rng.choice(names)
        act = rng.choice(["write", "write", "delete", "rename", "break", "touch", "nothing"])
        if act == "write":
            shard(name, rng.sample(range(40), rng.randrange(6)))
        elif act == "delete":
            name.unlink(missing_ok=True)
        elif act == "rename" and name.exists():
            name.rename(rng.choice(names))
        elif act == "break" and name.exists() and name.stat().st_size > 2048:
            os.truncate(name, 2048)
        elif act == "touch" and name.exists():
            name.touch()
        index()
        opened += len(names) - len(index.shut)
        met = {entry.path for entry in scan(os.fsencode(photos)) if isinstance(entry, FileStat)}
        broken = [path for path in names if path.exists() and path.stat().st_size == 2048]
        spared = tuple(os.fsencode(path) + b"/" for path in broken)
        assert {path for path in index.visible() if not path.startswith(spared)} == {
            path for path in met if not path.startswith(spared)
        }
    assert opened < 25 * 3


def test_stats_without_the_files_of_some_folders(index, photos):
    index(photos)
    everything = range(100)
    paths = [b"/a/%02d/x" % number for number in everything]
    with index.folder.writer() as writer, writer.changing() as catalog:
        driver = catalog._driver
        driver.execute("DELETE FROM files")
        driver.executemany(
            "INSERT INTO files"
            " (root_id, path, image_id, size, mtime_ns, ctime_ns, inode, device, verified_at_ns)"
            " VALUES (1, ?, 1, 1, 1, 1, 1, 1, 1)",
            [(path,) for path in paths],
        )
        rng = random.Random(3)
        for _ in range(60):
            without = [b"/a/%02d" % number for number in rng.sample(everything, rng.randrange(1, 8))]
            bounds = rng.choice([None, (b"/a/1", b"/a/7"), (b"/a/22/", b""), (b"/a/30/x", b"/a/30/x")])
            first, end = bounds or (b"", b"")
            wanted = {
                path
                for path in paths
                if first <= path and (not end or path < end) and path.rpartition(b"/")[0] not in without
            }
            assert last_stats(driver, 1, 0, bounds, without).keys() == wanted
        assert catalog.known.shards(1)[0]._replace(files=0) == KnownShard(
            *next(entry for entry in index.met if type(entry).__name__ == "Listed"),
            catalog.known.shards(1)[0].rule,
            0,
        )
        catalog.shards.forget([shard.path for shard in catalog.known.shards(1)])
        assert catalog.known.shards(1) == []
