import pytest

from clipsearch.errors import LibraryDamaged


def test_the_same_content_is_one_image(scene):
    images = [scene.image("a", b"/p/1"), scene.image("b", b"/p/2"), scene.image("a", b"/p/3")]
    first, second, third = scene.catalog.images.record(images)
    assert first == third != second
    assert scene.catalog.images.record([scene.image("b", caption="better")]) == [second]
    assert scene.catalog.images.get(second).caption == "better"
    hashes = [scene.hash("a"), scene.hash("unknown")]
    assert scene.catalog.images.ids_by_hash(hashes) == {scene.hash("a"): first}


def test_known_sizes_are_those_of_embedded_images(scene):
    scene.add("a", b"/p/a")
    scene.add("b", b"/p/b")
    scene.add("c", b"/p/c", embed=False)
    known = scene.catalog.known.sizes(scene.space)
    assert {size: set(hashes) for size, hashes in known.items()} == {10: {scene.hash("a"), scene.hash("b")}}


def test_text_that_is_no_unicode_is_stored_legibly(scene):
    image = scene.add("a", b"/p/a", caption="bad \udcff end", keywords=("\ud800",), camera=None)
    row = scene.catalog.images.get(image)
    assert (row.caption, row.keywords) == ("bad ? end", ("?",))


def test_pending_images_come_page_by_page_until_they_are_embedded(scene):
    ids = [scene.add(str(n), b"/p/%d" % n, b"/p/copy %d" % n, embed=False) for n in range(5)]
    scene.catalog.files.mark_missing([scene.file_id(b"/p/3"), scene.file_id(b"/p/copy 3")])
    assert scene.catalog.known.count_pending(scene.space) == 4
    page = scene.catalog.known.pending(scene.space, limit=2)
    assert [(image.image_id, image.paths) for image in page] == [
        (ids[0], (b"/p/0", b"/p/copy 0")),
        (ids[1], (b"/p/1", b"/p/copy 1")),
    ]
    rest = scene.catalog.known.pending(scene.space, after_id=ids[1])
    assert [image.image_id for image in rest] == [ids[2], ids[4]]
    scene.catalog.embeddings.add(scene.space, 0, [(image, 1) for image in ids])
    assert scene.catalog.known.pending(scene.space) == []


def test_a_space_wants_every_image_of_its_own(scene):
    image = scene.add("a", b"/p/a")
    other = scene.catalog.spaces.add("other", "big", "hub", 16)
    assert [pending.image_id for pending in scene.catalog.known.pending(other)] == [image]


def test_a_second_embedding_buries_the_first(scene):
    image = scene.add("a", b"/p/a")
    scene.catalog.embeddings.add(scene.space, 1, [(image, 5), (image, 6)])
    assert scene.visible() == [2]
    assert list(scene.catalog.embeddings.checksums(scene.space)) == [(2, 6)]
    assert scene.catalog.counts.all().tombstones == 2


def test_a_slot_is_given_only_once(scene):
    image = scene.add("a", b"/p/a")
    for slot in (0, 2):
        with pytest.raises(LibraryDamaged, match="not the next one"):
            scene.catalog.embeddings.add(scene.space, slot, [(image, 5)])


def test_dropped_embeddings_are_pending_again(scene):
    images = [scene.add(name, b"/p/" + name.encode()) for name in "abc"]
    assert scene.catalog.embeddings.drop(scene.space, [1, 7]) == 1
    assert [image.image_id for image in scene.catalog.known.pending(scene.space)] == [images[1]]
    assert scene.visible() == [0, 2]


def test_cut_forgets_the_slots_behind(scene):
    for name in "abcd":
        scene.add(name, b"/p/" + name.encode())
    scene.catalog.embeddings.drop(scene.space, [3])
    assert scene.catalog.embeddings.cut(scene.space, 2) == 1
    assert scene.catalog.spaces.get(scene.space).slots == 2
    assert scene.visible() == [0, 1]


def test_renumber_closes_the_gaps_in_order(scene):
    images = [scene.add(name, b"/p/" + name.encode()) for name in "abcde"]
    scene.catalog.embeddings.drop(scene.space, [0, 3])
    scene.catalog.embeddings.renumber(scene.space, scene.catalog.embeddings.live_slots(scene.space))
    assert [scene.catalog.search.slot_of_image(scene.space, image) for image in images] == [
        None,
        0,
        1,
        None,
        2,
    ]
    space = scene.catalog.spaces.get(scene.space)
    assert (space.slots, space.epoch) == (3, 1)


def test_the_first_space_is_active_and_one_at_a_time(scene):
    other = scene.catalog.spaces.add("other", "big", "hub", 16)
    assert scene.catalog.active_space().id == scene.space
    scene.catalog.spaces.activate(other)
    assert [space.active for space in scene.catalog.spaces.all()] == [False, True]
    scene.add("a", b"/p/a")
    scene.catalog.spaces.delete(scene.space)
    assert [space.fingerprint for space in scene.catalog.spaces.all()] == ["other"]
