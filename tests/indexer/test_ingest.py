# ruff: noqa: PTH102, PTH115, PTH118, PTH119, PTH123
# Some names here are no text, which pathlib cannot hold.
import errno
import importlib
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from clipsearch import durable
from clipsearch.errors import LibraryLocked, ModelInvalid, StorageError, UsageError
from clipsearch.folder import LibraryFolder
from clipsearch_indexer import places, plan, run, scan, scanner
from clipsearch_indexer.decode import DecodePool
from clipsearch_indexer.ingest import Options, Progress, ingest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
fakes = importlib.import_module("fakes")
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def serial(monkeypatch):
    """Decode in this process, without waiting for a time stamp to grow old."""
    monkeypatch.setattr("clipsearch_indexer.decode.DecodePool", fakes.SerialPool)
    monkeypatch.setattr(plan, "RACY_NS", -50_000_000)
    fakes.SerialPool.opened.clear()
    return fakes.SerialPool


@pytest.fixture
def folder(tmp_path):
    with LibraryFolder.create(tmp_path / "library") as folder:
        yield folder


@pytest.fixture
def photos(tmp_path):
    """Four photos, two of one content, at `photos`."""
    root = tmp_path / "photos"
    fakes.write(root / "red.png", RED)
    fakes.write(root / "green.png", GREEN)
    fakes.write(root / "trip" / "blue.png", BLUE)
    fakes.write(root / "trip" / "blue again.png", BLUE)
    return root


@pytest.fixture(params=["cpu", "cuda"])
def encoder(request):
    """One that has the caller wait, and one that works beside it."""
    encoder = fakes.ColourEncoder()
    encoder.device = request.param
    return encoder


@pytest.fixture
def index(folder, encoder):
    def index(*roots, encoder=encoder, **options):
        return ingest(folder, encoder, [os.fsencode(root) for root in roots], Options(**options))

    return index


def path(*parts):
    return os.fsencode(os.path.join(*parts))


def told(summary):
    """The numbers of a summary that are not zero."""
    return {name: count for name, count in summary.counts().items() if count}


def test_a_first_run_embeds_each_content_once(index, folder, photos, encoder):
    assert told(index(photos)) == {"new": 3, "copies": 1}
    assert encoder.images == 3
    assert fakes.colours(folder) == {
        path(photos, "red.png"): (1, 0, 0),
        path(photos, "green.png"): (0, 1, 0),
        path(photos, "trip", "blue.png"): (0, 0, 1),
        path(photos, "trip", "blue again.png"): (0, 0, 1),
    }


def test_a_rerun_opens_no_file_and_embeds_nothing(index, photos, encoder, serial):
    index(photos)
    encoder.batches.clear()
    serial.opened.clear()
    assert told(index(photos)) == {"unchanged": 4}
    assert told(index()) == {"unchanged": 4}
    assert serial.opened == []
    assert encoder.batches == []


def test_a_file_written_just_before_it_was_read_is_read_again(index, photos, encoder, serial, monkeypatch):
    monkeypatch.setattr(plan, "RACY_NS", 2_000_000_000)
    index(photos)
    encoder.batches.clear()
    serial.opened.clear()
    assert told(index(photos)) == {"unchanged": 4}
    assert len(serial.opened) == 4
    assert encoder.batches == []


def test_a_moved_file_and_a_renamed_folder_keep_their_images(index, folder, photos, encoder):
    index(photos)
    before = fakes.contents(folder)
    with folder.snapshot() as state:
        ids = {hit.image.hash: hit.image.id for hit in state.hits(state.visible)}
    (photos / "red.png").rename(photos / "rouge.png")
    (photos / "trip").rename(photos / "holiday")
    encoder.batches.clear()
    assert told(index(photos)) == {"moved": 3, "unchanged": 1}
    assert encoder.batches == []
    assert fakes.contents(folder) == {
        path(photos, "rouge.png"): before[path(photos, "red.png")],
        path(photos, "green.png"): before[path(photos, "green.png")],
        path(photos, "holiday", "blue.png"): before[path(photos, "trip", "blue.png")],
        path(photos, "holiday", "blue again.png"): before[path(photos, "trip", "blue.png")],
    }
    with folder.snapshot() as state:
        assert {hit.image.hash: hit.image.id for hit in state.hits(state.visible)} == ids
    with folder.reading() as catalog:
        assert catalog.counts.all().missing == 0


def test_a_file_moved_from_one_root_to_another_is_a_move(index, folder, tmp_path, encoder):
    fakes.write(tmp_path / "a" / "1.png", RED)
    fakes.write(tmp_path / "a" / "2.png", GREEN)
    fakes.write(tmp_path / "b" / "3.png", BLUE)
    index(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "1.png").rename(tmp_path / "b" / "1.png")
    encoder.batches.clear()
    assert told(index()) == {"moved": 1, "unchanged": 2}
    assert encoder.batches == []
    with folder.reading() as catalog:
        by_root = {os.path.basename(entry.root.path): entry.files for entry in catalog.counts.all().by_root}
    assert by_root == {b"a": 1, b"b": 2}


def test_two_files_that_swap_their_names_are_told_apart(index, folder, photos, encoder):
    index(photos)
    before = fakes.contents(folder)
    red, green = photos / "red.png", photos / "green.png"
    red.rename(photos / "x")
    green.rename(red)
    (photos / "x").rename(green)
    encoder.batches.clear()
    index(photos)
    after = fakes.contents(folder)
    assert encoder.batches == []
    assert after[os.fsencode(red)] == before[os.fsencode(green)]
    assert after[os.fsencode(green)] == before[os.fsencode(red)]


@pytest.mark.parametrize("most_sent", [64, 0])
def test_a_copy_costs_no_embedding(index, folder, photos, encoder, monkeypatch, most_sent):
    """Nor where too many hashes are of its size to go with the job: it is recognised when it is decoded."""
    monkeypatch.setattr(run, "MOST_SENT", most_sent)
    index(photos)
    shutil.copy(photos / "red.png", photos / "copy.png")
    encoder.batches.clear()
    assert told(index(photos)) == {"copies": 1, "unchanged": 4}
    assert encoder.batches == []
    assert path(photos, "copy.png") in fakes.contents(folder)


def test_a_touched_file_is_unchanged(index, photos, encoder):
    index(photos)
    os.utime(photos / "red.png", (1, 1))
    encoder.batches.clear()
    assert told(index(photos)) == {"unchanged": 4}
    assert encoder.batches == []


def test_a_new_content_under_an_old_name_is_embedded(index, folder, photos):
    index(photos)
    fakes.write(photos / "red.png", (0, 128, 128), size=(9, 9))
    assert told(index(photos)) == {"new": 1, "unchanged": 3}
    assert fakes.colours(folder)[path(photos, "red.png")] == (0, 0.71, 0.71)


def test_a_new_content_of_the_same_size_and_time_is_noticed(index, folder, photos):
    photo = photos / "red.png"
    index(photos)
    was = photo.stat()
    photo.write_bytes(fakes.png((255, 255, 0))[: was.st_size].ljust(was.st_size, b"\0"))
    os.utime(photo, ns=(was.st_atime_ns, was.st_mtime_ns))
    now = photo.stat()
    assert (now.st_size, now.st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    assert told(index(photos)) == {"new": 1, "unchanged": 3}
    assert fakes.colours(folder)[path(photo)] == (0.71, 0.71, 0)


@pytest.mark.parametrize("year", [1901, 1970, 2035, 2262, 2400])
def test_any_time_of_a_file_will_do(index, folder, photos, year):
    os.utime(photos / "red.png", (0, (year - 1970) * 31_556_952))
    (photos / "bad.png").write_bytes(b"no picture")
    os.utime(photos / "bad.png", (0, (year - 1970) * 31_556_952))
    index(photos)
    assert told(index(photos))["unchanged"] == 4
    fakes.write(photos / "red.png", (9, 9, 9), size=(9, 9))
    assert told(index(photos))["new"] == 1
    assert len(fakes.contents(folder)) == 4


def test_what_vanished_is_hidden_and_comes_back(index, folder, photos, encoder):
    index(photos)
    kept = (photos / "red.png").rename(photos.parent / "kept.png")
    assert told(index(photos)) == {"missing": 1, "unchanged": 3}
    assert path(photos, "red.png") not in fakes.contents(folder)
    with folder.reading() as catalog:
        assert catalog.counts.all().missing == 1
    assert told(index(photos)) == {"unchanged": 3}
    kept.rename(photos / "red.png")
    encoder.batches.clear()
    assert told(index(photos)) == {"returned": 1, "unchanged": 3}
    assert encoder.batches == []
    assert path(photos, "red.png") in fakes.contents(folder)


def test_what_was_excluded_and_is_not_any_more_returns_unread(index, folder, photos, serial):
    index(photos)
    assert told(index(photos, excludes=["red*"])) == {"missing": 1, "unchanged": 3}
    serial.opened.clear()
    assert told(index(photos)) == {"returned": 1, "unchanged": 3}
    assert serial.opened == []
    assert len(fakes.contents(folder)) == 4


def test_a_vanished_photo_that_turns_up_elsewhere_is_a_move(index, folder, photos, encoder):
    index(photos)
    away = (photos / "red.png").rename(photos.parent / "away.png")
    index(photos)
    away.rename(photos / "trip" / "red.png")
    encoder.batches.clear()
    assert told(index(photos)) == {"moved": 1, "unchanged": 3}
    assert encoder.batches == []
    with folder.reading() as catalog:
        assert catalog.counts.all().missing == 0


def test_only_prune_deletes(index, folder, photos):
    index(photos)
    (photos / "red.png").unlink()
    (photos / "trip" / "blue.png").unlink()
    index(photos)
    with folder.writer() as writer:
        result = writer.prune()
    assert (result.files, result.images) == (2, 1)
    assert set(fakes.contents(folder)) == {path(photos, "green.png"), path(photos, "trip", "blue again.png")}


def test_a_third_that_vanishes_is_hidden_not_deleted(index, folder, tmp_path):
    root = tmp_path / "many"
    for number in range(60):
        fakes.write(root / f"{number}.png", RED, note=str(number))
    index(root)
    for number in range(20):
        (root / f"{number}.png").unlink()
    assert told(index(root)) == {"missing": 20, "unchanged": 40}
    with folder.reading() as catalog:
        counts = catalog.counts.all()
    assert (counts.images, counts.hidden_images, counts.files, counts.missing) == (40, 20, 40, 20)


# Roots that cannot be reached


def gone(root):
    root.rename(root.with_name("elsewhere"))


def emptied(root):
    gone(root)
    root.mkdir()


def almost_emptied(root):
    emptied(root)
    (root / ".lost").mkdir()


@pytest.mark.parametrize("loss", [gone, emptied, almost_emptied])
def test_a_root_that_is_gone_or_empty_is_offline_and_keeps_its_photos(index, folder, photos, loss):
    index(photos)
    before = fakes.contents(folder)
    loss(photos)
    summary = index()
    assert summary.offline == [path(photos)]
    assert told(summary) == {"offline": 1}
    assert fakes.contents(folder) == before
    with folder.reading() as catalog:
        assert [root.online for root in catalog.roots.all()] == [False]
    with folder.writer() as writer:
        assert writer.prune().files == 0
    if photos.exists():
        shutil.rmtree(photos)
    photos.with_name("elsewhere").rename(photos)
    assert told(index()) == {"unchanged": 4}
    with folder.reading() as catalog:
        assert [root.online for root in catalog.roots.all()] == [True]


def test_another_disk_at_the_same_place_is_offline(index, folder, photos, monkeypatch):
    index(photos)
    before = fakes.contents(folder)
    emptied(photos)
    fakes.write(photos / "someone else's.png", GREEN, note="other")
    monkeypatch.setattr(places, "filesystem_id", lambda path: "uuid:other")
    assert told(index()) == {"offline": 1}
    assert fakes.contents(folder) == before


def test_the_same_disk_under_another_identity_is_online(index, folder, photos, monkeypatch):
    index(photos)
    monkeypatch.setattr(places, "filesystem_id", lambda path: "fsid:1")
    assert told(index()) == {"unchanged": 4}
    with folder.reading() as catalog:
        assert [root.filesystem_id for root in catalog.roots.all()] == ["fsid:1"]


@pytest.mark.parametrize("loss", [gone, emptied])
def test_a_root_that_goes_away_while_it_is_scanned_loses_nothing(index, folder, photos, monkeypatch, loss):
    index(photos)
    before = fakes.contents(folder)

    def unplugged(*arguments, **options):
        entries = scan.scan(*arguments, **options)
        yield next(entries)
        loss(photos)
        yield from entries

    monkeypatch.setattr(scanner, "scan", unplugged)
    summary = index()
    assert summary.offline == [path(photos)]
    assert summary.missing == 0
    assert fakes.contents(folder) == before


def test_a_root_offline_beside_others_does_not_stop_them(index, folder, photos, tmp_path):
    fakes.write(tmp_path / "b" / "1.png", (9, 9, 9))
    index(photos, tmp_path / "b")
    fakes.write(tmp_path / "b" / "2.png", (9, 0, 9))
    gone(photos)
    assert told(index()) == {"new": 1, "unchanged": 1, "offline": 1}


def test_a_folder_that_never_was_is_a_sentence(index, photos, folder):
    with pytest.raises(UsageError, match=r"nothing at .*nowhere"):
        index(photos, photos.parent / "nowhere")
    index(photos)
    with pytest.raises(UsageError, match=r"nothing at .*typo"):
        index(photos / "typo")
    with folder.reading() as catalog:
        assert [root.path for root in catalog.roots.all()] == [path(photos)]
        assert catalog.runs.last()[0].status == "failed"


def test_a_folder_that_cannot_be_listed_keeps_its_rows(index, folder, photos, monkeypatch):
    index(photos)
    before = fakes.contents(folder)
    listing = os.scandir

    def failing(place):
        if os.fsencode(place).endswith(b"trip"):
            raise OSError(errno.EIO, "Input/output error")
        return listing(place)

    monkeypatch.setattr(scan.os, "scandir", failing)
    summary = index(photos)
    assert summary.unscanned == [(path(photos, "trip"), "Input/output error")]
    assert told(summary) == {"unchanged": 2, "unscanned": 1}
    assert fakes.contents(folder) == before


# Failures


def test_a_failure_is_recorded_once_and_not_tried_again_until_the_file_changes(index, folder, photos, serial):
    bad = photos / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    summary = index(photos)
    assert [name for name, _ in summary.failed] == [path(bad)]
    with folder.reading() as catalog:
        (row,) = catalog.failures.all()
    assert (row.path, row.reason, row.kind) == (path(bad), summary.failed[0][1], "corrupt")
    serial.opened.clear()
    assert told(index(photos)) == {"unchanged": 4, "quarantined": 1}
    assert serial.opened == []
    fakes.write(bad, (255, 0, 255))
    assert told(index(photos)) == {"new": 1, "unchanged": 4}
    with folder.reading() as catalog:
        assert catalog.failures.all() == []


def test_a_file_that_kills_its_decoder_is_tried_again_only_when_it_changes(
    folder, encoder, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setattr("clipsearch_indexer.decode.DecodePool", DecodePool)
    hooks = importlib.import_module("decode_hooks")
    encoder.preprocess = SimpleNamespace(size=8, pixels=hooks.Hook(tmp_path / "log"))
    for number in (10, 20):
        fakes.write(tmp_path / "photos" / f"{number}.png", (number, 0, 0))
    bad = fakes.write(tmp_path / "photos" / "bad.png", (hooks.CRASH, 0, 0))

    def index():
        (tmp_path / "log").write_text("")
        summary = ingest(folder, encoder, [path(tmp_path, "photos")], Options(workers=1))
        return told(summary), summary.failed, len((tmp_path / "log").read_text().split())

    failed = [(path(bad), "the decoder crashed (SIGSEGV)")]
    assert index() == ({"new": 2, "failed": 1}, failed, 4)  # tried twice
    for _ in range(2):
        assert index() == ({"unchanged": 2, "quarantined": 1}, [], 0)
    fakes.write(bad, (30, 0, 0), size=(9, 9))
    assert index() == ({"new": 1, "unchanged": 2}, [], 1)


def test_a_failure_is_forgotten_with_its_file(index, folder, photos):
    (photos / "bad.png").write_bytes(b"no picture")
    index(photos)
    (photos / "bad.png").unlink()
    index(photos)
    with folder.reading() as catalog:
        assert catalog.failures.all() == []


def test_a_photo_that_is_overwritten_by_rubbish_is_hidden(index, folder, photos):
    index(photos)
    (photos / "red.png").write_bytes(b"no picture")
    assert told(index(photos)) == {"failed": 1, "unchanged": 3}
    assert path(photos, "red.png") not in fakes.contents(folder)
    assert told(index(photos)) == {"quarantined": 1, "unchanged": 3}


def test_a_photo_that_may_not_be_read_for_once_stays(index, folder, photos, monkeypatch):
    index(photos)
    os.utime(photos / "red.png", (1, 1))
    before = fakes.contents(folder)
    real = os.open

    def refusing(name, *arguments, **options):
        if os.fsencode(name).endswith(b"red.png"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(name, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing)
        summary = index(photos)
    assert summary.failed == [(path(photos, "red.png"), "permission denied")]
    assert fakes.contents(folder) == before
    assert told(index(photos)) == {"unchanged": 4}
    with folder.reading() as catalog:
        assert catalog.failures.all() == []


def test_a_file_that_changes_while_it_is_read_is_told_and_tried_again(index, folder, photos, monkeypatch):
    photo, stat, grown = photos / "red.png", os.fstat, []

    def growing(descriptor):
        result = stat(descriptor)
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("red.png"):
            with photo.open("ab") as file:
                grown.append(file.write(b"x"))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", growing)
        summary = index(photos)
    assert len(grown) == 4  # before and after, and once more
    assert summary.failed == [(path(photo), "the file changed while it was read")]
    assert told(index(photos)) == {"new": 1, "unchanged": 3}


def test_a_photo_that_the_model_cannot_embed_costs_only_itself(index, folder, photos):
    fakes.write(photos / "black.png", (0, 0, 0))
    summary = index(photos)
    assert summary.failed == [(path(photos, "black.png"), "the model gives no usable embedding of it")]
    assert summary.new == 3
    assert told(index(photos)) == {"unchanged": 4, "failed": 1}


@pytest.mark.parametrize("batch", [1, 32])
def test_a_model_that_embeds_nothing_is_the_trouble_itself(index, folder, photos, encoder, batch):
    encoder.encode_pixels = lambda pixels: np.full((len(pixels), 3), np.nan, np.float32)
    with pytest.raises(ModelInvalid, match="colours"):
        index(photos, batch=batch)
    with folder.reading() as catalog:
        assert catalog.counts.all().files == 0
        assert catalog.runs.last()[0].status == "failed"


def test_a_full_disk_is_told_as_such(index, folder, photos, monkeypatch):
    monkeypatch.setattr(durable, "_arrivals", {})
    monkeypatch.setenv("CLIPSEARCH_FAILPOINT", "vectors.write:enospc:1")
    with pytest.raises(StorageError, match="full"):
        index(photos)
    monkeypatch.delenv("CLIPSEARCH_FAILPOINT")
    assert told(index(photos)) == {"new": 3, "copies": 1}


# Roots within roots, and other roots


def test_a_folder_of_a_root_needs_no_root_of_its_own(index, folder, photos):
    index(photos)
    assert told(index(photos / "trip")) == {"unchanged": 2}
    fakes.write(photos / "trip" / "new.png", (9, 9, 0))
    (photos / "red.png").unlink()  # not looked for below trip
    assert told(index(photos / "trip")) == {"new": 1, "unchanged": 2}
    with folder.reading() as catalog:
        assert [root.path for root in catalog.roots.all()] == [path(photos)]


def test_a_root_around_a_root_meets_nothing_twice(index, folder, photos):
    index(photos / "trip")
    assert told(index(photos)) == {"new": 2, "unchanged": 2}
    assert told(index()) == {"unchanged": 4}
    (photos / "trip" / "blue.png").rename(photos / "blue.png")
    assert told(index()) == {"moved": 1, "unchanged": 3}
    assert set(fakes.contents(folder)) == {
        path(photos, name) for name in ("red.png", "green.png", "blue.png", "trip/blue again.png")
    }


def test_an_inner_root_that_is_offline_is_kept_when_the_outer_is_scanned(index, folder, photos):
    index(photos / "trip")
    index(photos)
    before = fakes.contents(folder)
    emptied(photos / "trip")
    shutil.move(photos / "elsewhere", photos.parent / "unplugged")
    summary = index(photos)
    assert summary.offline == [path(photos, "trip")]
    assert told(summary) == {"unchanged": 2, "offline": 1}
    assert fakes.contents(folder) == before


def test_the_same_folder_twice_or_spelt_otherwise_is_one_root(index, folder, photos):
    assert told(index(photos, f"{photos}/", photos / "trip" / "..")) == {"new": 3, "copies": 1}
    with folder.reading() as catalog:
        assert len(catalog.roots.all()) == 1


def test_a_single_file_can_be_a_root(index, folder, photos):
    photo = photos / "red.png"
    assert told(index(photo)) == {"new": 1}
    assert set(fakes.contents(folder)) == {path(photo)}
    assert told(index()) == {"unchanged": 1}
    photo.unlink()
    assert told(index()) == {"missing": 1}
    assert fakes.contents(folder) == {}


def test_names_need_not_be_text(index, folder, tmp_path):
    root = path(tmp_path, "caf\udce9\n")
    os.mkdir(root)
    name = os.path.join(root, b"\xff\x1b[31m.png")
    with open(name, "wb") as file:
        file.write(fakes.png(RED))
    assert told(index(os.fsdecode(root))) == {"new": 1}
    assert set(fakes.contents(folder)) == {name}
    assert told(index()) == {"unchanged": 1}


def test_names_that_differ_only_in_case_or_in_spelling_are_photos_of_their_own(index, folder, tmp_path):
    names = ("caf\u00e9.png", "cafe\u0301.png", "IMG.PNG", "img.png", "stra\u00dfe.png", "STRASSE.png")
    for number, name in enumerate(names):
        fakes.write(tmp_path / "photos" / name, (number, 9, 9), note=name)
    if len(os.listdir(tmp_path / "photos")) < len(names):  # noqa: PTH208
        pytest.skip("a file system that takes them for the same")
    assert told(index(tmp_path / "photos")) == {"new": 6}
    assert set(fakes.contents(folder)) == {path(tmp_path, "photos", name) for name in names}
    assert told(index()) == {"unchanged": 6}


def test_an_empty_folder_makes_an_empty_library(index, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert told(index(tmp_path / "empty")) == {}
    assert fakes.contents(folder) == {}


# Another model


def test_another_model_fills_beside_the_first_and_then_answers(index, folder, photos, tmp_path):
    fakes.write(tmp_path / "b" / "1.png", (9, 9, 9))
    index(photos, tmp_path / "b")
    other = fakes.ColourEncoder("others", dim=5)
    seen = []
    encode = other.encode_pixels

    def watched(pixels):
        seen.append(folder.active_space().model_name)
        return encode(pixels)

    other.encode_pixels = watched
    summary = index(photos, encoder=other, batch=2)  # all roots, though one was named
    assert told(summary) == {"reembedded": 4, "unchanged": 5}
    assert seen == ["colours", "colours"]
    assert folder.active_space().model_name == "others"
    assert len(fakes.contents(folder)) == 5
    assert told(index(encoder=other)) == {"unchanged": 5}


def test_another_model_waits_for_what_is_offline(index, folder, photos, tmp_path):
    fakes.write(tmp_path / "b" / "1.png", (9, 9, 9))
    index(photos, tmp_path / "b")
    gone(photos)
    other = fakes.ColourEncoder("others")
    summary = index(encoder=other)
    assert summary.pending == 3
    assert folder.active_space().model_name == "colours"
    photos.with_name("elsewhere").rename(photos)
    assert told(index(encoder=other)) == {"reembedded": 3, "unchanged": 5}
    assert folder.active_space().model_name == "others"


def test_a_move_while_another_model_fills_keeps_the_image(index, folder, photos):
    index(photos)
    before = fakes.contents(folder)
    (photos / "red.png").rename(photos / "rouge.png")
    summary = index(photos, encoder=fakes.ColourEncoder("others"))
    assert told(summary) == {"reembedded": 3, "moved": 1, "unchanged": 3}
    assert fakes.contents(folder)[path(photos, "rouge.png")] == before[path(photos, "red.png")]
    with folder.reading() as catalog:
        assert catalog.counts.all().missing == 0


def test_what_was_hidden_when_the_model_changed_is_embedded_when_it_returns(index, folder, photos):
    index(photos)
    away = (photos / "red.png").rename(photos.parent / "away.png")
    other = fakes.ColourEncoder("others")
    index(photos)
    index(photos, encoder=other)
    away.rename(photos / "red.png")
    os.utime(photos / "red.png")
    assert told(index(photos, encoder=other)) == {"reembedded": 1, "returned": 1, "unchanged": 3}
    assert path(photos, "red.png") in fakes.contents(folder)


def test_excluded_photos_that_return_are_embedded_by_the_new_model(index, folder, photos):
    index(photos)
    other = fakes.ColourEncoder("others")
    index(photos, excludes=["red*"])
    index(photos, encoder=other, excludes=["red*"])
    assert folder.active_space().model_name == "others"
    assert told(index(photos, encoder=other)) == {"reembedded": 1, "returned": 1, "unchanged": 3}
    assert path(photos, "red.png") in fakes.contents(folder)


# Interruptions


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", range(0, 13, 3))
def test_ctrl_c_keeps_what_is_embedded_and_a_rerun_does_the_rest(folder, encoder, tmp_path, after):
    root = tmp_path / "many"
    for number in range(12):
        fakes.write(root / f"{number:02}.png", RED, note=str(number))

    def interrupting(progress: Progress):
        if progress.stage == "indexing" and progress.done == after:
            raise KeyboardInterrupt

    if after == 12:  # the last report is outside of what may be interrupted: everything is done
        after = 11
    summary = ingest(folder, encoder, [os.fsencode(root)], Options(batch=2), interrupting)
    assert summary.interrupted
    assert summary.new == encoder.images == len(fakes.contents(folder)) == after // 2 * 2
    with folder.reading() as catalog:
        assert catalog.runs.last()[0].status == "interrupted"
    rest = ingest(folder, encoder, [os.fsencode(root)], Options(batch=2))
    assert rest.new == 12 - summary.new
    assert encoder.images == len(fakes.contents(folder)) == 12


def test_an_error_of_the_caller_is_passed_on(folder, encoder, photos):
    def failing(progress):
        raise StoppedError

    with pytest.raises(StoppedError):
        ingest(folder, encoder, [os.fsencode(photos)], None, failing)
    with folder.reading() as catalog:
        assert catalog.runs.last()[0].status == "failed"


def test_a_second_indexer_is_told_who_is_at_work(folder, encoder, photos, index):
    with folder.writer(), pytest.raises(LibraryLocked, match=f"process {os.getpid()} "):
        index(photos)
    assert encoder.batches == []


def test_it_works_in_any_thread(folder, encoder, photos):
    done = []
    thread = threading.Thread(target=lambda: done.append(ingest(folder, encoder, [os.fsencode(photos)])))
    thread.start()
    thread.join()
    assert done[0].new == 3


def test_commits_come_while_it_runs(folder, encoder, photos, monkeypatch):
    monkeypatch.setattr(run, "COMMIT_SECONDS", -1.0)
    generations = []

    def watching(progress):
        generations.append(folder.generation())

    ingest(folder, encoder, [os.fsencode(photos)], Options(batch=1), watching)
    if encoder.device == "cuda":  # the rows of a photo come while the next is at work
        assert generations.pop(0) == generations[0]
    assert generations == sorted(set(generations))  # each photo is a commit of its own


def test_the_next_batch_is_collected_while_one_is_embedded(folder, tmp_path):
    root = tmp_path / "many"
    for number in range(6):
        fakes.write(root / f"{number}.png", RED, note=str(number // 2))  # each content twice
    enough = threading.Event()

    class Slow(fakes.ColourEncoder):
        def encode_pixels(self, pixels):
            assert enough.wait(60), "nothing was collected meanwhile"
            return super().encode_pixels(pixels)

    def watching(progress):
        if progress.stage == "indexing" and progress.done == 2:  # the second of the content under way is here
            enough.set()

    encoder = Slow()
    encoder.device = "cuda"
    summary = ingest(folder, encoder, [os.fsencode(root)], Options(batch=1), watching)
    assert (summary.new, summary.copies, encoder.batches) == (3, 3, [1, 1, 1])
    assert summary.encode_seconds > 0


def test_the_last_batch_of_a_gpu_may_fail(folder, encoder, photos):
    def failing(pixels):
        raise UsageError("The device cuda failed (out of memory); try a smaller batch, or --device cpu.")

    encoder.encode_pixels = failing
    with pytest.raises(UsageError, match="smaller batch"):
        ingest(folder, encoder, [os.fsencode(photos)])
    with folder.reading() as catalog:
        assert catalog.runs.last()[0].status == "failed"


def test_a_run_without_work_makes_few_commits(index, folder, photos):
    index(photos)
    before = folder.generation()
    index(photos)
    assert folder.generation() - before == 3  # the run's begin and end, and the time of the scan


def test_the_real_decoders_give_the_same(folder, encoder, photos, monkeypatch):
    monkeypatch.undo()
    (photos / "bad.png").write_bytes(b"no picture")
    progress = []
    summary = ingest(folder, encoder, [os.fsencode(photos)], Options(workers=1, batch=2), progress.append)
    assert told(summary) == {"new": 3, "copies": 1, "failed": 1}
    assert progress[-1] == Progress("indexing", 5, 5, 3)
    assert set(fakes.colours(folder).values()) == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    assert time.monotonic() > summary.seconds > 0
