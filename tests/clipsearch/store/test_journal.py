from clipsearch.store import KnownFailure, NewFailure


def failure(scene, **changes):
    values = {
        "path": b"/p/\xff",
        "size": 3,
        "mtime_ns": 4,
        "reason": "cut short",
        "kind": "corrupt",
    } | changes
    return NewFailure(root_id=scene.root, **values)


def test_attempts_count_up_until_the_file_changes(scene):
    run = scene.catalog.runs.start()
    for _ in range(3):
        scene.catalog.failures.note([failure(scene)], run)
    assert scene.catalog.known.failures(scene.root) == {b"/p/\xff": KnownFailure(3, 4, "corrupt", 3)}
    scene.catalog.failures.note([failure(scene, mtime_ns=5, reason="bad \udcff header")], run)
    [row] = scene.catalog.failures.all()
    assert (row.attempts, row.reason, row.last_run) == (1, "bad ? header", run)
    scene.catalog.failures.clear([b"/p/\xff"])
    assert scene.catalog.failures.all() == []


def test_a_run_that_never_ended_was_interrupted(scene):
    first = scene.catalog.runs.start()
    second = scene.catalog.runs.start()
    scene.catalog.runs.finish(second, "done", {"images": 3})
    runs = scene.catalog.runs.last(5)
    assert [(run.id, run.status) for run in runs] == [(second, "done"), (first, "interrupted")]
    assert runs[0].counts == {"images": 3}
    assert runs[0].ended_at is not None


def test_roots_keep_their_id_and_say_what_is_offline(scene):
    again = scene.catalog.roots.add(b"/p", "another device")
    assert again == scene.root
    scene.catalog.roots.set_online(again, False)
    scene.catalog.roots.set_scanned(again, "2024-01-01T00:00:00")
    root = scene.catalog.roots.get(b"/p")
    assert (root.filesystem_id, root.online, root.last_scanned) == ("device 1", False, "2024-01-01T00:00:00")
    scene.catalog.roots.set_online(again, True, filesystem_id="another device")
    assert scene.catalog.roots.get(b"/p").filesystem_id == "another device"
    assert scene.catalog.roots.get(b"/P") is None


def test_counts_by_root(scene):
    other = scene.catalog.roots.add(b"/other", None)
    scene.add("a", b"/p/a", b"/p/copy")
    scene.add("b", b"/other/b", root=other)
    scene.add("c", b"/p/c")
    scene.catalog.files.mark_missing([scene.file_id(b"/p/c")])
    scene.catalog.failures.note([failure(scene)])
    counts = scene.catalog.counts.all()
    assert (counts.images, counts.hidden_images, counts.files, counts.missing, counts.failed) == (
        2,
        1,
        3,
        1,
        1,
    )
    assert [(row.root.path, row.files, row.missing, row.failed) for row in counts.by_root] == [
        (b"/other", 1, 0, 0),
        (b"/p", 2, 1, 1),
    ]
