from datetime import datetime

import pytest

from clipsearch.store import SlotFilter
from clipsearch.store.search import HIDDEN_SLOTS


def found(scene, **wanted):
    return scene.catalog.search.slots_where(scene.space, SlotFilter(**wanted)).tolist()


def test_everything_is_found_without_a_filter(scene):
    scene.add("a", b"/p/a")
    scene.add("b", b"/p/b")
    assert found(scene) == scene.visible() == [0, 1]
    assert scene.catalog.search.visible_slots(scene.space).dtype == "int64"


def test_under_a_folder_wildcards_are_letters(scene):
    names = [
        b"/p/100%/a",
        b"/p/100x/a",
        b"/p/a_b/a",
        b"/p/axb/a",
        b"/p/A_b/a",
        b"/p/a_b",
        b"/p/a_b0",
        b"/p/a_b.x",
    ]
    for name in names:
        scene.add(repr(name), name)
    assert found(scene, under=[b"/p/100%"]) == [0]
    assert found(scene, under=[b"/p/a_b"]) == found(scene, under=[b"/p/a_b/"]) == [2, 5]
    assert found(scene, under=[b"/p/100%", b"/p/axb"]) == [0, 3]
    assert found(scene, under=[b"/"]) == list(range(len(names)))


def test_under_a_folder_whose_name_is_no_text(scene):
    scene.add("a", b"/p/\xff\n/a")
    scene.add("b", b"/p/\xfe\n/b")
    assert found(scene, under=[b"/p/\xff\n"]) == [0]


def test_under_counts_only_files_that_are_there(scene):
    scene.add("a", b"/p/x/a", b"/p/y/a")
    scene.catalog.files.mark_missing([scene.file_id(b"/p/x/a")])
    assert found(scene, under=[b"/p/x"]) == []
    assert found(scene, under=[b"/p/y"]) == [0]


def test_dates_use_the_exposure_and_else_the_oldest_file(scene):
    old, new = (int(datetime(year, 6, 1, 12).timestamp()) * 10**9 for year in (2011, 2022))
    scene.add("exposed", b"/p/0", taken_at="2015-05-31T18:00:00", mtime_ns=old)
    scene.add("dated by its file", b"/p/1", mtime_ns=new)
    image = scene.add("older copy", b"/p/2", mtime_ns=new)
    scene.catalog.files.place([(image, scene.file(b"/p/2 copy", mtime_ns=old))])
    assert scene.catalog.search.dates(scene.space) == [
        (2, "2011-06-01T12:00:00"),
        (0, "2015-05-31T18:00:00"),
        (1, "2022-06-01T12:00:00"),
    ]
    assert found(scene, after="2015", before="2016") == [0]
    assert found(scene, after="2015-05-31", before="2015-06") == [0]
    assert found(scene, before="2015-05-31") == [2]
    assert found(scene, after="2015-05-31T18:00:01") == [1]


def test_places(scene):
    scene.add("home", b"/p/0", latitude=48.2, longitude=16.4)
    scene.add("fiji", b"/p/1", latitude=-17.7, longitude=178.0)
    scene.add("samoa", b"/p/2", latitude=-13.8, longitude=-172.0)
    scene.add("nowhere", b"/p/3")
    assert found(scene, has_gps=True) == [0, 1, 2]
    assert found(scene, has_gps=False) == [3]
    assert found(scene, box=(40, 10, 50, 20)) == [0]
    assert found(scene, box=(-20, 170, -10, -170)) == [1, 2]
    assert scene.catalog.search.places(scene.space)[0] == (0, 48.2, 16.4)


def test_camera_format_and_words(scene):
    scene.add("a", b"/p/Holiday/1", camera="Canon EOS 5D", format="JPEG", caption="50% off_")
    scene.add("b", b"/p/2", camera="SONY", format="PNG", keywords=("Straße", "dog"))
    scene.add("c", b"/p/3_\xff")
    assert found(scene, camera="canon") == [0]
    assert found(scene, camera="%") == []
    assert found(scene, formats=["png", "webp"]) == [1]
    assert found(scene, text="50%") == [0]
    assert found(scene, text="_") == [0, 2]
    assert found(scene, text="Straße") == [1]
    assert found(scene, text="holiday") == [0]


@pytest.mark.parametrize(
    "words", ['a"b', "'; DROP TABLE images; --", "NEAR(", "*", "tag:x", "\\", "x\0y", ""]
)
def test_hostile_words_are_words(scene, words):
    scene.add("a", b"/p/a", caption=f"before {words} after", camera=words)
    scene.add("b", b"/p/b")
    assert 0 in found(scene, text=words, camera=words)
    assert scene.visible() == [0, 1]


def test_filters_narrow_together(scene):
    scene.add("a", b"/p/a", camera="x", taken_at="2020-01-01T00:00:00")
    scene.add("b", b"/p/b", camera="x", taken_at="2021-01-01T00:00:00")
    assert found(scene, camera="x", after="2021") == [1]


def test_hits_come_in_the_order_asked_with_all_paths_and_metadata(scene):
    scene.add("a", b"/p/a", caption="first", keywords=("one", "two"), latitude=1.5, longitude=2.5)
    scene.add("b", b"/p/z", b"/p/b")
    scene.add("c", b"/p/c")
    scene.catalog.files.mark_missing([scene.file_id(b"/p/c")])
    hits = scene.catalog.search.hits(scene.space, [1, 2, 0, 99])
    assert [(hit.slot, hit.paths) for hit in hits] == [(1, (b"/p/b", b"/p/z")), (0, (b"/p/a",))]
    image = hits[1].image
    assert (image.caption, image.keywords, image.latitude) == ("first", ("one", "two"), 1.5)
    assert image == scene.catalog.images.get(image.id)
    assert scene.catalog.search.slot_of_image(scene.space, image.id) == 0


def test_hits_take_one_query_whatever_their_number(scene):
    for number in range(30):
        scene.add(str(number), b"/p/%d" % number, b"/p/copy %d" % number)
    statements = []
    scene.catalog._driver.set_trace_callback(statements.append)
    assert len(scene.catalog.search.hits(scene.space, range(30))) == 30
    assert len(statements) == 1


def test_hidden_images_are_found_without_a_walk_through_all(scene):
    rows = scene.catalog._driver.execute(f"EXPLAIN QUERY PLAN {HIDDEN_SLOTS}", (scene.space,))
    plan = [row[3] for row in rows]
    assert plan[0] == "SCAN images USING INDEX images_hidden"
    assert plan[1].startswith("SEARCH embeddings")
