"""check, repair, backup and restore over a library of four photos."""

import importlib
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from clipsearch import Library
from clipsearch.errors import LibraryDamaged, LibraryLocked, LibraryNotFound, StorageError
from clipsearch.folder import LibraryFolder
from clipsearch.folder.seal import read_seal
from clipsearch_indexer import plan

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
fakes = importlib.import_module("fakes")
COLOURS = {"red": (255, 0, 0), "orange": (255, 128, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture(autouse=True)
def serial(monkeypatch):
    monkeypatch.setattr("clipsearch_indexer.decode.DecodePool", fakes.SerialPool)
    monkeypatch.setattr(plan, "RACY_NS", -50_000_000)
    fakes.SerialPool.opened.clear()


@pytest.fixture
def photos(tmp_path):
    for name, colour in COLOURS.items():
        fakes.write(tmp_path / "photos" / f"{name}.png", colour)
    return tmp_path / "photos"


@pytest.fixture
def path(tmp_path, photos):
    """A library, closed."""
    with opened(tmp_path / "library", create=True) as library:
        library.index([photos])
    return tmp_path / "library"


def opened(path, **options):
    return Library.open(path, encoder=fakes.ColourEncoder(), **options)


def names(library, query="red"):
    return [Path(hit.path).stem for hit in library.search(query)]


def vectors(path):
    [file] = path.glob("spaces/*/vectors.*")
    return file


def flip(file, at, bit=1):
    data = bytearray(file.read_bytes())
    data[at] ^= bit
    file.write_bytes(data)


def change(path, statement, *values):
    """Change the catalog behind the library's back."""
    connection = sqlite3.connect(path / "catalog.db")
    connection.execute(statement, values)
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def test_a_library_is_sealed_when_the_writer_leaves(path, photos):
    with opened(path) as library:
        health = library.check()
        assert health.is_good
        assert health.is_sealed
        assert health.photos is None
        deep = library.check(deep=True)
        assert deep.is_good
        assert (deep.photos.same, deep.photos.is_good) == (4, True)
        first = read_seal(path / "SEAL")
        library.index()
        assert read_seal(path / "SEAL").generation > first.generation
        (name,) = [name for name in first.files if name != "catalog.db"]
        assert read_seal(path / "SEAL").files[name] == first.files[name]


def test_while_a_writer_is_at_work_there_is_no_seal_and_every_row_is_compared(path):
    with LibraryFolder.open(path) as folder, folder.writer() as writer:
        with writer.changing() as catalog:
            catalog.runs.start()
        health = folder.check(deep=False)
        assert health.is_good
        assert not health.is_sealed
        flip(vectors(path), 0)
        assert folder.check(deep=False).spaces[0].damaged == [0]


def test_a_flipped_bit_in_the_vectors_is_refused_named_and_mended(path, photos):
    before = vectors(path).read_bytes()
    flip(vectors(path), 7)
    with opened(path) as library:
        with pytest.raises(LibraryDamaged, match=r"check. names the photos .*repair"):
            library.search("red")
        [space] = library.check().spaces
        assert space.damaged == [1]
        [hit] = space.hits
        fakes.SerialPool.opened.clear()
        repaired, summary = library.repair()
        assert (repaired.dropped, list(repaired.paths)) == (1, list(hit.paths))
        assert summary.reembedded == 1
        assert fakes.SerialPool.opened == list(hit.paths)  # only that one
        assert library.check(deep=True).is_good
        assert names(library)[:2] == ["red", "orange"]
        assert library.repair() == (repaired.__class__(0, [], 0, False, False, 0, 0), None)
        assert library.compact() == 1
        assert library.check(deep=True).is_good
    assert len(vectors(path).read_bytes()) == len(before)


def test_a_flipped_bit_in_a_row_that_nobody_uses_is_found_and_mended(path, photos):
    (photos / "red.png").unlink()
    with opened(path) as library:
        library.index()
        library.prune()
    with LibraryFolder.open(path) as folder, folder.reading() as catalog:
        [dead] = catalog.embeddings.dead_slots(1)
    flip(vectors(path), dead * 6)
    with opened(path) as library:
        assert library.check().spaces[0].damaged == [dead]
        library.repair()
        assert library.check(deep=True).is_good
        assert len(names(library)) == 3


def test_a_damaged_row_is_neither_compacted_nor_backed_up(path, photos, tmp_path):
    (photos / "red.png").unlink()
    with opened(path) as library:
        library.index()
        library.prune()
        flip(vectors(path), 0)
        with pytest.raises(LibraryDamaged, match="repair"):
            library.backup(tmp_path / "copy")
        with pytest.raises(LibraryDamaged, match="repair"):
            library.compact()
    assert not list(tmp_path.glob("*copy*"))


def test_a_catalog_that_another_program_changed_is_refused_and_can_be_accepted(path, photos):
    change(path, "UPDATE images SET camera = 'nobody''s' WHERE id = 1")
    before = (path / "catalog.db").read_bytes()
    with opened(path) as library:
        for command in (lambda: library.search("red"), library.index, library.prune):
            with pytest.raises(LibraryDamaged, match="restore"):
                command()
        assert library.check().problems == ["catalog.db is not the file that clipsearch left"]
        assert (path / "catalog.db").read_bytes() == before
        fakes.SerialPool.opened.clear()
        repaired, summary = library.repair()
        assert repaired.accepted
        assert repaired.rereads
        assert summary.unchanged == len(fakes.SerialPool.opened) == 4
        assert library.check(deep=True).is_good
        assert len(names(library)) == 4


def test_a_catalog_that_contradicts_itself_is_left_as_it_is(path):
    change(path, "UPDATE spaces SET slots = 2")
    before = {file: file.read_bytes() for file in (path / "catalog.db", vectors(path))}
    with opened(path) as library:
        with pytest.raises(LibraryDamaged, match="cannot be repaired"):
            library.repair()
        assert not library.check().is_good
    assert {file: file.read_bytes() for file in before} == before


def test_a_generation_that_is_no_number_is_a_sentence(path):
    change(path, "UPDATE meta SET value = '1x' WHERE key = 'generation'")
    with pytest.raises(LibraryDamaged, match="not a number"), opened(path) as library:
        library.search("red")


def test_photos_that_rot_unnoticed_are_named_and_read_again(path, photos, monkeypatch):
    was = (photos / "red.png").stat()
    flip(photos / "red.png", 60)
    os.utime(photos / "red.png", ns=(was.st_atime_ns, was.st_mtime_ns))
    (photos / "green.png").unlink()
    fakes.write(photos / "blue.png", (9, 9, 9), size=(9, 9))
    shutil.copy(photos / "orange.png", photos.parent / "elsewhere")
    with opened(path) as library:
        found = library.check(deep=True)
        assert found.is_good  # the library is: the photos are another matter
        assert not found.photos.is_good
        assert found.photos.changed == [os.fsencode(photos / "red.png")]
        assert (found.photos.same, found.photos.newer, found.photos.gone) == (1, 1, 1)
        assert found.photos.unreadable == []
        seen = []
        library.check(deep=True, report=lambda *progress: seen.append(progress))
        assert seen[-1] == ("reading photos", 4, 4)
        repaired, summary = library.repair(reread=True)
        assert repaired.is_nothing
        assert (summary.new + len(summary.failed), summary.missing, summary.unchanged) == (2, 1, 1)
        assert library.check(deep=True).photos.is_good


def test_a_photo_that_cannot_be_read_is_told(path, photos):
    (photos / "red.png").unlink()
    os.mkfifo(photos / "red.png")
    with opened(path) as library:
        unreadable = library.check(deep=True).photos.unreadable
    assert unreadable == [(os.fsencode(photos / "red.png"), "not a regular file")]


def test_a_backup_is_restored_and_what_was_there_is_kept(path, photos, tmp_path):
    copy = tmp_path / "copy"
    with opened(path) as library:
        library.backup(copy)
        (photos / "red.png").unlink()
        library.index()
        library.prune()
    assert (copy / "SEAL").exists()
    (path / "catalog.db").write_bytes(b"rubbish" * 1000)
    aside = Library.restore(copy, path)
    assert aside == path.with_name("library.replaced-1")
    assert (aside / "catalog.db").read_bytes() == b"rubbish" * 1000
    with opened(path) as library:
        assert library.check(deep=True).is_good
        assert names(library)[:2] == ["red", "orange"]
        library.index()
        assert len(names(library)) == 3
    assert Library.restore(copy, path) == path.with_name("library.replaced-2")
    assert Library.restore(copy, tmp_path / "new" / "library") is None
    with opened(tmp_path / "new" / "library") as library:
        assert len(names(library)) == 4
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_plain_copy_of_a_library_at_rest_is_a_backup_too(path, tmp_path):
    shutil.copytree(path, tmp_path / "plain")
    Library.restore(tmp_path / "plain", tmp_path / "other")
    with opened(tmp_path / "other") as library:
        assert library.check(deep=True).is_good


@pytest.mark.parametrize("what", ["vectors", "catalog", "cut"])
def test_a_damaged_backup_is_not_restored(path, tmp_path, what):
    copy = tmp_path / "copy"
    with opened(path) as library:
        library.backup(copy)
    if what == "vectors":
        flip(vectors(copy), 3)
    elif what == "cut":
        os.truncate(vectors(copy), 5)
    else:
        flip(copy / "catalog.db", 5000)
    with pytest.raises(LibraryDamaged):
        Library.restore(copy, path)
    with opened(path) as library:
        assert len(names(library)) == 4
    assert {file.name for file in tmp_path.iterdir()} == {"copy", "library", "photos"}


def test_what_is_no_backup_or_no_place_for_one(path, photos, tmp_path):
    with opened(path) as library:
        library.backup(tmp_path / "copy")
    with pytest.raises(LibraryNotFound, match="no backup"):
        Library.restore(photos, path)
    with pytest.raises(StorageError, match="no library but holds something"):
        Library.restore(tmp_path / "copy", photos)
    with opened(path) as library, pytest.raises(StorageError, match="in the library itself"):
        library.backup(path / "in")
    for place in (tmp_path / "copy", tmp_path / "copy" / "in", tmp_path):
        with pytest.raises(StorageError, match="within each other"):
            Library.restore(tmp_path / "copy", place)
    with LibraryFolder.open(path) as folder, folder.writer(), pytest.raises(LibraryLocked, match="process"):
        Library.restore(tmp_path / "copy", path)
    assert {file.name for file in tmp_path.iterdir()} == {"copy", "library", "photos"}


def test_backup_and_restore_that_fail_leave_nothing(path, tmp_path, monkeypatch):
    with opened(path) as library:
        for step in ("backup.sync", "seal.write", "backup-folder.rename"):
            monkeypatch.setenv("CLIPSEARCH_FAILPOINT", f"{step}:enospc:1")
            with pytest.raises(StorageError, match="full"):
                library.backup(tmp_path / "copy")
            assert {file.name for file in tmp_path.iterdir()} == {"library", "photos"}
            monkeypatch.delenv("CLIPSEARCH_FAILPOINT")
        library.backup(tmp_path / "copy")
    for step in ("restore-copy.write", "restore-aside.rename"):
        monkeypatch.setenv("CLIPSEARCH_FAILPOINT", f"{step}:enospc:1")
        with pytest.raises(StorageError, match="full"):
            Library.restore(tmp_path / "copy", path)
        assert {file.name for file in tmp_path.iterdir()} == {"copy", "library", "photos"}
        monkeypatch.delenv("CLIPSEARCH_FAILPOINT")
