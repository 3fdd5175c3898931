import resource
import sqlite3
from contextlib import contextmanager

import pytest

from clipsearch.errors import LibraryDamaged, LibraryLocked, StorageError
from clipsearch.store import NewFailure
from clipsearch.store import connect as connect_module
from clipsearch.store.catalog import Store
from clipsearch.store.reader import Reader


def test_a_change_is_kept_whole_with_the_next_generation(store):
    with store.writing() as catalog:
        catalog.roots.add(b"/p", None)
        assert catalog.generation() == 0
    with store.reading() as catalog:
        assert catalog.generation() == 1
        assert len(catalog.roots.all()) == 1


def test_a_change_that_raises_never_was(store):
    def change():
        with store.writing() as catalog:
            catalog.roots.add(b"/p", None)
            raise KeyError

    with pytest.raises(KeyError):
        change()
    with store.reading() as catalog:
        assert catalog.generation() == 0
        assert catalog.roots.all() == []


def test_a_reader_sees_one_state_while_a_writer_commits(store):
    with Store(store.path) as reader:
        with reader.reading() as before:
            with store.writing() as catalog:
                catalog.roots.add(b"/p", None)
            assert (before.generation(), before.roots.all()) == (0, [])
        with reader.reading() as after:
            assert (after.generation(), len(after.roots.all())) == (1, 1)


def test_a_reader_can_change_nothing(store):
    with (
        Store(store.path) as reader,
        pytest.raises(StorageError, match="cannot be opened or written"),
        reader.writing() as catalog,
    ):
        catalog.roots.add(b"/p", None)


def test_the_settings_that_durability_rests_on(store):
    with store._link() as link:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint")
        values = [link.driver.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    assert values == ["wal", 2, 1, 1000]
    with Store(store.path) as reader, reader._link() as link:
        assert link.driver.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)


def test_what_sqlalchemy_builds_is_part_of_the_transaction(store):
    def change(name):
        with store.writing() as catalog:
            root = catalog.roots.add(name, None)
            catalog.failures.note([NewFailure(root, name, 3, 4, "truncated", "corrupt")])
            if name == b"/never":
                raise KeyError

    with pytest.raises(KeyError):
        change(b"/never")
    change(b"/kept")
    with store.reading() as catalog:
        assert [root.path for root in catalog.roots.all()] == [b"/kept"]
        assert [failure.path for failure in catalog.failures.all()] == [b"/kept"]


def test_checkpoint_does_not_wait_for_a_reader(store):
    with Store(store.path) as reader, reader.reading():
        with store.writing() as catalog:
            catalog.roots.add(b"/p", None)
        store.checkpoint()
    with store.reading() as catalog:
        assert len(catalog.roots.all()) == 1


def test_a_full_disk_rolls_back_and_keeps_the_rows(store):
    with store.writing() as catalog:
        catalog.roots.add(b"/kept", None)
    with store._link() as link:
        (pages,) = link.driver.execute("PRAGMA page_count").fetchone()
        link.driver.execute(f"PRAGMA max_page_count = {pages}")

    def fill():
        with store.writing() as catalog:
            for number in range(1000):
                catalog.roots.add(b"/root/%d" % number, None)

    with pytest.raises(StorageError, match="disk is full"):
        fill()
    with store.reading() as catalog:
        assert [root.path for root in catalog.roots.all()] == [b"/kept"]
        assert catalog.generation() == 1
        assert catalog.integrity() == []


@contextmanager
def no_room():
    """No file takes a byte, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", [Store, Reader])
def test_a_full_disk_is_read_and_what_is_written_when_there_is_room_is_seen(tmp_path, kind):
    path = tmp_path / "catalog.db"
    Store(path, "create").close()  # which takes SQLite's shared memory with it
    with no_room(), pytest.raises(StorageError, match="takes no more bytes"):
        Store(path, "write")
    with no_room():
        catalog = kind(path)
        with catalog.reading() as reading:
            assert reading.generation() == 0
    with Store(path, "write") as store, store.writing() as writing:
        writing.roots.add(b"/new", None)
    with catalog.reading() as reading:
        assert reading.generation() == 1
    catalog.close()


def test_another_program_that_writes_is_named_as_such(store, monkeypatch):
    monkeypatch.setattr(connect_module, "WRITER_PRAGMAS", ("busy_timeout = 1",))
    other = sqlite3.connect(store.path)
    other.execute("BEGIN IMMEDIATE")
    with (
        Store(store.path, "write") as second,
        pytest.raises(LibraryLocked, match="in use by another program"),
        second.writing(),
    ):
        pass
    other.close()


def test_a_copy_is_of_the_state_that_the_transaction_sees(store, tmp_path):
    with Store(store.path) as reader, reader.reading() as view:
        with store.writing() as catalog:
            catalog.roots.add(b"/p", None)
        view.copy_to(tmp_path / "copy.db")
    with Store(tmp_path / "copy.db") as copy, copy.reading() as catalog:
        assert catalog.generation() == 0
        assert catalog.integrity() == []


@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("damage", ["header", "text", "zeros"])
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path, access, damage):
    path = tmp_path / "catalog.db"
    Store(path, "create").close()
    data = path.read_bytes()
    path.write_bytes(
        {
            "header": b"\xff" * 16 + data[16:],
            "text": b"this is no database" * 50,
            "zeros": data[:100] + bytes(len(data) - 100),
        }[damage]
    )
    before = path.read_bytes()
    with pytest.raises(LibraryDamaged, match="put a backup in its place"):
        Store(path, access)
    assert path.read_bytes() == before


def test_a_damaged_page_is_noticed_when_it_is_read(store):
    with store.writing() as catalog:
        catalog.roots.add(b"/p", None)
    store.checkpoint()
    page = 4096
    data = bytearray(store.path.read_bytes())
    data[page:] = b"\xff" * (len(data) - page)
    store.close()
    store.path.write_bytes(data)
    with pytest.raises(LibraryDamaged), Store(store.path) as damaged, damaged.reading() as catalog:
        catalog.roots.all()


def test_integrity_names_what_does_not_fit_together(scene):
    image = scene.add("a", b"/p/a")
    connection = scene.catalog._driver
    connection.execute("UPDATE images SET hidden = 1")
    connection.execute("UPDATE spaces SET slots = 5")
    assert scene.problems() == [
        "1 spaces do not account for every slot as an embedding or a tombstone",
        "1 images are hidden although a file is there, or shown although none is",
    ]
    connection.execute(f"UPDATE images SET hidden = 0 WHERE id = {image}")
    connection.execute("UPDATE spaces SET slots = 1")
