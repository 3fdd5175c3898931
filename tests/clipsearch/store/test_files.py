import os
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.store import FoundFile, KnownFile, NewFailure, PruneResult


def test_known_gives_back_what_the_scan_saw(scene):
    image = scene.add("a", b"/p/a.jpg")
    known = scene.catalog.known.files(scene.root)
    file = known[b"/p/a.jpg"]
    assert file == KnownFile(
        file.file_id, image, 10, 1_700_000_000_000_000_000, 1_700_000_000_000_000_001, 7, 3, False, 5
    )
    assert scene.catalog.known.files(scene.root + 1) == {}


@pytest.mark.parametrize("number", [0, 2**63 - 1, 2**63, 2**64 - 1])
def test_inodes_and_devices_of_64_bits_come_back_as_they_were(scene, number):
    [image] = scene.catalog.images.record([scene.image("a")])
    scene.catalog.files.place([(image, scene.file(b"/p/a", inode=number, device=number))])
    file = scene.catalog.known.files(scene.root)[b"/p/a"]
    assert (file.inode, file.device) == (number, number)


@pytest.mark.parametrize("year", [1901, 2242])
def test_odd_times_come_back_as_they_were(scene, year):
    time = int(datetime(year, 3, 1).timestamp()) * 10**9
    image = scene.add("a", b"/p/a", mtime_ns=time)
    assert scene.catalog.known.files(scene.root)[b"/p/a"].mtime_ns == time
    assert scene.catalog.images.get(image).dated_at.startswith(str(year))


def test_a_time_beyond_every_calendar_does_no_harm(scene):
    image = scene.add("a", b"/p/a", mtime_ns=2**80)
    assert scene.catalog.known.files(scene.root)[b"/p/a"].mtime_ns == 2**63 - 1
    assert scene.catalog.images.get(image).dated_at is None


def test_a_stat_tells_that_nothing_is_to_be_done_only_of_a_file_that_had_come_to_rest(scene):
    image = scene.add("a", b"/p/a", b"/p/gone")
    scene.catalog.files.mark_missing([scene.file_id(b"/p/gone")])
    times = {"b": (10, 10, 13), "c": (11, 10, 13), "d": (10, 11, 13), "e": (10, 10, 12)}
    for name, (mtime_ns, ctime_ns, verified) in times.items():
        stat = scene.file(b"/p/" + name.encode(), mtime_ns=mtime_ns, ctime_ns=ctime_ns).stat
        scene.catalog.files.place([(image, FoundFile(scene.root, stat, verified))])
    stats = scene.catalog.known.stats(scene.root, 2)
    assert {path: size for path, (_, size, *_) in stats.items()} == {
        **dict.fromkeys((b"/p/a", b"/p/gone", b"/p/c", b"/p/d", b"/p/e")),
        b"/p/b": 10,
    }
    assert stats[b"/p/b"] == (b"/p/b", 10, 10, 10, 7)
    scene.catalog.roots.add(b"/q", "device 1")
    assert scene.catalog.known.stats(scene.root, 2) == stats
    assert scene.catalog.known.stats(scene.root + 1, 2) == {}


def test_files_at_paths_are_those_of_the_root(scene):
    scene.add("a", b"/p/a", b"/p/b")
    files = scene.catalog.known.files(scene.root)
    assert scene.catalog.known.files_at(scene.root, [b"/p/b", b"/p/c"]) == {b"/p/b": files[b"/p/b"]}
    assert scene.catalog.known.files_at(scene.root + 1, [b"/p/b"]) == {}


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name), unique=True))
def test_any_bytes_are_a_path(scene, names):
    [image] = scene.catalog.images.record([scene.image("a")])
    before = set(scene.catalog.known.files(scene.root))
    paths = {b"/p/" + name for name in names}
    scene.catalog.files.place([(image, scene.file(path)) for path in paths])
    assert set(scene.catalog.known.files(scene.root)) == before | paths


def test_a_copy_is_a_second_path_of_the_same_image(scene):
    image = scene.add("a", b"/p/a")
    scene.catalog.files.place([(image, scene.file(b"/p/copy"))])
    [hit] = scene.catalog.search.hits(scene.space, [0])
    assert hit.paths == (b"/p/a", b"/p/copy")


def test_a_changed_file_shows_the_new_image_and_hides_the_old(scene):
    scene.add("old", b"/p/a")
    new = scene.add("new", b"/p/a")
    assert scene.visible() == [1]
    assert scene.catalog.known.files(scene.root)[b"/p/a"].image_id == new
    # The old content is still known: if it turns up elsewhere it costs no encoding.
    assert scene.hash("old") in scene.catalog.images.ids_by_hash([scene.hash("old")])


def test_a_move_keeps_the_file_and_its_image(scene):
    image = scene.add("a", b"/p/a")
    file = scene.file_id(b"/p/a")
    scene.catalog.files.mark_missing([file])
    scene.catalog.files.move([(file, scene.file(b"/p/b", mtime_ns=9))])
    [(path, known)] = scene.catalog.known.files(scene.root).items()
    assert (path, known.file_id, known.image_id, known.mtime_ns) == (b"/p/b", file, image, 9)
    assert scene.visible() == [0]


def test_two_files_can_swap_their_paths(scene):
    one, two = scene.add("1", b"/p/1"), scene.add("2", b"/p/2")
    first, second = scene.file_id(b"/p/1"), scene.file_id(b"/p/2")
    scene.catalog.files.move([(first, scene.file(b"/p/2")), (second, scene.file(b"/p/1"))])
    known = scene.catalog.known.files(scene.root)
    assert (known[b"/p/1"].image_id, known[b"/p/2"].image_id) == (two, one)


def test_a_move_onto_a_known_path_replaces_it(scene):
    scene.add("1", b"/p/1")
    scene.add("2", b"/p/2")
    scene.catalog.files.move([(scene.file_id(b"/p/1"), scene.file(b"/p/2"))])
    assert set(scene.catalog.known.files(scene.root)) == {b"/p/2"}
    assert scene.visible() == [0]


def test_missing_hides_and_deletes_nothing(scene):
    scene.add("a", b"/p/a")
    scene.add("b", b"/p/b", b"/p/copy of b")
    scene.catalog.files.mark_missing([scene.file_id(b"/p/a"), scene.file_id(b"/p/b")], "2024-01-01T00:00:00")
    assert scene.visible() == [1]
    known = scene.catalog.known.files(scene.root)
    assert [bool(known[path].missing) for path in sorted(known)] == [True, True, False]
    scene.catalog.files.mark_found([scene.file_id(b"/p/a")])
    assert scene.visible() == [0, 1]


def test_prune_deletes_what_is_missing_and_buries_its_slots(scene):
    scene.add("a", b"/p/a")
    scene.add("b", b"/p/b", b"/p/copy of b")
    scene.add("c", b"/p/c")
    scene.catalog.files.mark_missing([scene.file_id(path) for path in (b"/p/a", b"/p/b")])
    assert scene.catalog.files.prune() == PruneResult(files=2, images=1, embeddings=1)
    assert set(scene.catalog.known.files(scene.root)) == {b"/p/copy of b", b"/p/c"}
    assert scene.visible() == [1, 2]
    assert scene.catalog.counts.all().tombstones == 1
    assert scene.catalog.files.prune() == PruneResult(0, 0, 0)


def test_prune_spares_roots_that_are_offline_and_roots_not_named(scene):
    stick, other = scene.catalog.roots.add(b"/stick", None), scene.catalog.roots.add(b"/other", None)
    scene.add("a", b"/stick/a", root=stick)
    scene.add("b", b"/other/b", root=other)
    ids = [scene.file_id(b"/stick/a", stick), scene.file_id(b"/other/b", other)]
    scene.catalog.files.mark_missing(ids)
    scene.catalog.roots.set_online(stick, False)
    assert scene.catalog.files.prune([scene.root]).files == 0
    assert scene.catalog.files.prune().files == 1
    assert set(scene.catalog.known.files(stick)) == {b"/stick/a"}


def test_an_offline_root_stays_findable(scene):
    scene.add("a", b"/p/a")
    scene.catalog.roots.set_online(scene.root, False)
    assert scene.visible() == [0]


def test_a_file_that_is_an_image_after_all_is_no_failure(scene):
    scene.catalog.failures.note([NewFailure(scene.root, b"/p/a", 1, 2, "cut short", "corrupt")])
    scene.add("a", b"/p/a")
    assert scene.catalog.failures.all() == []


def test_paths_of_the_file_system_fit(scene):
    path = os.fsencode("/p/ü\udcff\n%_.jpg")
    scene.add("a", path)
    assert scene.catalog.search.slot_of_path(scene.space, path) == 0
