"""Tar shards as places of photos: scanned, indexed, brought up to date."""

import importlib
import io
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsearch.folder.rehash import read_again
from clipsearch_indexer.ingest import Options, ingest
from clipsearch_indexer.messages import Job, Limits, Setup
from clipsearch_indexer.scan import Bounds, FileStat, Settled, Unscanned, scan
from clipsearch_indexer.worker import serve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
fakes = importlib.import_module("fakes")


def png(*colour):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "png")
    return out.getvalue()


def shard(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return os.fsencode(path)


def found(root, kind=FileStat, **options):
    return [entry for entry in scan(os.fsencode(root), **options) if isinstance(entry, kind)]


PHOTOS = {f"{number:03}.png": png(number * 40, 90, 9) for number in range(6)}
WORDS = {f"{number:03}.txt": f"number {number}".encode() for number in range(6)}


@pytest.fixture
def photos(tmp_path):
    """A folder of a photo and a shard of six."""
    root = tmp_path / "photos"
    shard(root / "data" / "0.tar", PHOTOS | WORDS)
    fakes.write(root / "z.png", (255, 0, 0))
    return root


def test_a_scan_finds_the_images_of_shards(photos):
    path = os.fsencode(photos / "data" / "0.tar")
    status = (photos / "data" / "0.tar").stat()
    files = found(photos)
    assert [file.path for file in files] == [path + b"/" + os.fsencode(name) for name in PHOTOS] + [
        os.fsencode(photos / "z.png")
    ]
    assert files[0].size == len(PHOTOS["000.png"])
    assert files[0][2:4] == (status.st_mtime_ns, status.st_ctime_ns)
    assert len({file.inode for file in files}) == 7
    assert found(os.fsdecode(path)) == files[:6]  # a root of its own


def test_what_a_scan_leaves_out_and_tells(photos):
    assert len(found(photos, excludes=["*.tar"])) == 1
    assert len(found(photos, excludes=["data/0.tar/00[12].png"])) == 5
    shard(photos / "hidden.tar", {".thumb/a.png": b"", "a/@eaDir/b.png": b"", "._c.png": b"", "d/e.png": b""})
    assert [os.path.basename(file.path) for file in found(photos / "hidden.tar")] == [b"e.png"]  # noqa: PTH119
    (photos / "broken.tar").write_bytes(b"no archive")
    (photos / "link.tar").symlink_to(photos / "data" / "0.tar")
    (photos / "folder.tar").mkdir()
    assert [(Path(os.fsdecode(entry.path)).name, entry.kind) for entry in found(photos, Unscanned)] == [
        ("broken.tar", "directory"),
        ("link.tar", "symlink"),
    ]
    assert len(found(photos / "link.tar", follow_symlinks=True)) == 6


def test_parts_of_shards(photos):
    shard(photos / "data" / "1.tar", {f"s/{name}": data for name, data in PHOTOS.items()})
    whole = found(photos)
    for cut in (entry.path for entry in whole):
        parts = [found(photos, bounds=Bounds(b"", cut)), found(photos, bounds=Bounds(cut))]
        assert sorted(parts[0] + parts[1]) == sorted(whole)
        assert all(parts) or cut == min(entry.path for entry in whole)
        known = {file.path: (file.path, *file[1:5]) for file in whole if file.path < cut}
        settled = list(scan(os.fsencode(photos), known=known, bounds=Bounds(b"", cut)))
        assert sum(entry.files for entry in settled if isinstance(entry, Settled)) == len(parts[0])
        assert known == {}


@pytest.fixture
def index(library):
    def index(*roots):
        summary = ingest(library, fakes.ColourEncoder(), [os.fsencode(root) for root in roots], Options())
        return {name: count for name, count in summary.counts().items() if count}

    index.folder = library
    return index


def test_shards_are_indexed_and_brought_up_to_date(index, photos):
    assert index(photos) == {"new": 7}
    assert index() == {"unchanged": 7}
    more = {"a.png": png(1, 2, 3)}
    shard(photos / "data" / "0.tar", PHOTOS | WORDS | more)
    assert index() == {"new": 1, "unchanged": 7}
    assert index() == {"unchanged": 8}
    shard(photos / "data" / "0.tar", dict(list(PHOTOS.items())[2:]))
    assert index() == {"unchanged": 5, "missing": 3}
    (photos / "data" / "0.tar").unlink()
    assert index() == {"unchanged": 1, "missing": 4}
    shard(photos / "1.tar", PHOTOS)
    assert index() == {"moved": 6, "unchanged": 1}
    assert len(fakes.contents(index.folder)) == 7


def test_a_shard_is_a_root(index, photos, tmp_path):
    path = photos / "data" / "0.tar"
    assert index(path) == {"new": 6}
    assert index() == {"unchanged": 6}
    shutil.move(path, tmp_path / "away.tar")
    assert index() == {"offline": 1}
    assert len(fakes.contents(index.folder)) == 6
    shutil.move(tmp_path / "away.tar", path)
    (photos / "data" / "other.txt").write_text("so the disk is there")
    shutil.move(path, tmp_path / "away.tar")
    assert index() == {"missing": 6}
    assert fakes.contents(index.folder) == {}
    shutil.move(tmp_path / "away.tar", path)
    assert index()["returned"] == 6
    assert index(photos) == {"new": 1, "unchanged": 6}


def test_photos_move_between_folders_and_shards(index, photos):
    index(photos)
    shard(photos / "data" / "0.tar", dict(list(PHOTOS.items())[1:]))
    (photos / "000.png").write_bytes(PHOTOS["000.png"])
    assert index() == {"moved": 1, "unchanged": 6}


def test_a_damaged_shard_loses_nothing(index, photos):
    index(photos)
    with (photos / "data" / "0.tar").open("r+b") as file:
        file.seek(4 * 1024)
        file.write(b"\xff" * 700)
    told = index()
    assert told["unscanned"] == 1
    assert "missing" not in told
    assert len(fakes.contents(index.folder)) == 7


def test_photos_in_shards_can_be_checked(index, photos):
    index(photos)
    with index.folder.reading() as catalog:
        assert read_again(catalog.files.stored()).same == 7


def test_the_words_beside_an_image_are_its_caption(photos):
    def pixels(_image):
        return np.zeros((8, 8, 3), np.uint8)

    setup = Setup(pixels, 8, Limits(), follow_symlinks=False)
    path = os.fsencode(photos / "data" / "0.tar")
    assert serve(Job(1, path + b"/003.png"), setup).metadata.caption == "number 3"
    shard(
        photos / "data" / "0.tar",
        {"a.png": PHOTOS["001.png"], "b.png": PHOTOS["002.png"], "b.txt": b"\xff \x1b[1m"},
    )
    assert serve(Job(1, path + b"/a.png"), setup).metadata.caption is None
    assert "\x1b" not in serve(Job(1, path + b"/b.png"), setup).metadata.caption
    fakes.write(photos / "y.png", (1, 2, 3))
    (photos / "y.txt").write_text("not of a shard")
    assert serve(Job(1, os.fsencode(photos / "y.png")), setup).metadata.caption is None
