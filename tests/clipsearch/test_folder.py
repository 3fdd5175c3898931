import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from clipsearch import durable
from clipsearch.errors import (
    LibraryDamaged,
    LibraryEmpty,
    LibraryLocked,
    LibraryNotFound,
    LibraryVersion,
    ModelInvalid,
    ModelMismatch,
    StorageError,
)
from clipsearch.folder import Batch, LibraryFolder
from clipsearch.store import FoundFile, NewImage, SlotFilter, migrations
from clipsearch.vectors import VectorError, VectorFile

DIM = 8


@dataclass(frozen=True)
class Stat:
    path: bytes
    size: int = 10
    mtime_ns: int = 1_700_000_000_000_000_000
    ctime_ns: int = 0
    inode: int = 1
    device: int = 1


@dataclass(frozen=True)
class Metadata:
    width: int = 4
    height: int = 3
    format: str = "JPEG"
    taken_at: str | None = None
    taken_offset: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    camera: str | None = None
    lens: str | None = None
    caption: str | None = None
    keywords: tuple[str, ...] = ()


def image(name, root=1):
    content = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return NewImage(content, 10, Metadata(), [FoundFile(root, Stat(b"/p/" + name.encode()))])


def embeddings(names):
    vectors = np.stack([np.random.default_rng(list(name.encode())).normal(size=DIM) for name in names])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def batch(names, space):
    return Batch(images=[image(name) for name in names], vectors=embeddings(names), space_id=space.id)


def fill(folder, names="abc"):
    """Index one made-up photo for each letter."""
    with folder.writer() as writer:
        space = writer.ensure_space("fingerprint", "mini", "bundled", DIM)
        with writer.changing() as catalog:
            catalog.roots.add(b"/p", None)
        writer.commit(batch(names, space))
        return space


def paths(folder):
    with folder.snapshot() as snapshot:
        return [path for hit in snapshot.hits(snapshot.visible) for path in hit.paths]


def in_a_process(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], text=True, **options)


@pytest.fixture
def folder(tmp_path):
    with LibraryFolder.create(tmp_path / "library") as folder:
        yield folder


def test_no_library_is_a_sentence_with_the_way_out(tmp_path):
    with pytest.raises(LibraryNotFound, match=r"`clipsearch index DIR` makes one"):
        LibraryFolder.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_create_makes_it_once_and_then_opens_it(tmp_path):
    with LibraryFolder.create(tmp_path / "a" / "b") as folder:
        fill(folder)
    with LibraryFolder.create(tmp_path / "a" / "b") as folder:
        assert paths(folder) == [b"/p/a", b"/p/b", b"/p/c"]


def test_an_empty_library_says_how_to_fill_it(folder):
    with pytest.raises(LibraryEmpty, match="clipsearch index DIR"), folder.snapshot():
        pass
    with pytest.raises(LibraryEmpty):
        folder.require_model("fingerprint", "mini")


def test_what_was_committed_is_there(folder):
    fill(folder)
    with folder.snapshot() as snapshot:
        assert snapshot.visible.tolist() == [0, 1, 2]
        assert np.allclose(snapshot.vectors, embeddings("abc"), atol=5e-4)
        assert snapshot.space.slots == 3
        assert snapshot.generation == folder.generation() == 3
    assert folder.check().is_good


def test_what_is_visible_is_read_once_a_state(folder, monkeypatch):
    from clipsearch.store.search import Search

    space, read, asked = fill(folder), Search.visible_slots, []
    monkeypatch.setattr(Search, "visible_slots", lambda *args: asked.append(args) or read(*args))

    def seen():
        with folder.snapshot() as snapshot:
            return snapshot.visible.tolist(), snapshot.slots_where(SlotFilter()).tolist()

    assert seen() == seen() == ([0, 1, 2], [0, 1, 2])
    assert len(asked) == 1
    with folder.writer() as writer:
        with writer.reading() as catalog:
            known = catalog.known.files(1)
        writer.commit(Batch(missing=[known[b"/p/b"].file_id]))
    assert seen() == ([0, 2], [0, 2])
    with folder.writer() as writer:
        writer.commit(batch("d", space))
    assert seen() == ([0, 2, 3], [0, 2, 3])
    assert len(asked) == 3
    with folder.snapshot() as snapshot, pytest.raises(ValueError, match="read-only"):
        snapshot.visible[0] = 1


def test_a_snapshot_stays_while_a_writer_goes_on(folder):
    space = fill(folder)
    with folder.snapshot() as snapshot:
        with folder.writer() as writer:
            writer.commit(batch("de", space))
            with writer.reading() as catalog:
                known = catalog.known.files(1)
            writer.commit(Batch(missing=[known[b"/p/a"].file_id]))
            writer.prune()
            writer.compact(space.id)
        assert len(snapshot.vectors) == 3
        assert snapshot.visible.tolist() == [0, 1, 2]
        assert np.allclose(snapshot.vectors, embeddings("abc"), atol=5e-4)
        assert [hit.paths for hit in snapshot.hits([0])] == [(b"/p/a",)]
        old = snapshot.key
    with folder.snapshot() as snapshot:
        assert np.allclose(snapshot.vectors, embeddings("bcde"), atol=5e-4)
        assert snapshot.key != old


def test_a_compaction_between_two_looks_at_the_vectors_is_no_damage(folder, monkeypatch):
    space = fill(folder)
    with folder.writer() as writer:
        with writer.reading() as catalog:
            known = catalog.known.files(1)
        writer.commit(Batch(missing=[known[b"/p/a"].file_id]))
        writer.prune()
        measured = VectorFile.rows_on_disk

        def compacted_meanwhile(file):
            rows = measured(file)
            monkeypatch.setattr(VectorFile, "rows_on_disk", measured)
            writer.compact(space.id)
            return rows

        monkeypatch.setattr(VectorFile, "rows_on_disk", compacted_meanwhile)
        assert folder.check().is_good
        assert VectorFile.rows_on_disk is measured
    assert paths(folder) == [b"/p/b", b"/p/c"]


READER = """
import sys
from pathlib import Path
from clipsearch.folder import LibraryFolder
print("ready", flush=True)
with LibraryFolder.open(Path(sys.argv[1])) as folder:
    last = 0
    while last < int(sys.argv[2]):
        with folder.snapshot() as snapshot:
            assert snapshot.generation >= last
            last = snapshot.generation
            slots = snapshot.space.slots
            assert slots == len(snapshot.vectors) == len(snapshot.visible)
            assert len(snapshot.hits(snapshot.visible)) == slots
            norms = (snapshot.vectors.astype("f4") ** 2).sum(axis=1)
            assert not len(norms) or abs(norms - 1).max() < 0.01
"""


def test_readers_beside_a_writer_see_whole_states(folder):
    space = fill(folder)
    commits = 30
    last = folder.generation() + commits
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    readers = [in_a_process(READER, folder.path, last, **pipes) for _ in range(2)]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n"
    with folder.writer() as writer:
        for number in range(commits):
            writer.commit(batch([f"x{number}", f"y{number}"], space))
    for reader in readers:
        _, errors = reader.communicate()
        assert reader.returncode == 0, errors


def test_rejected_embeddings_leave_the_writer_usable(folder):
    space = fill(folder)
    bad = embeddings("de")
    bad[1, 0] = np.nan
    with folder.writer() as writer:
        with pytest.raises(VectorError) as caught:
            writer.commit(Batch(images=[image("d"), image("e")], vectors=bad, space_id=space.id))
        assert caught.value.rows == (1,)
        with pytest.raises(VectorError, match="1 embeddings for 2 images"):
            writer.commit(Batch(images=[image("d"), image("e")], vectors=embeddings("d"), space_id=space.id))
        writer.commit(batch("f", space))
    assert paths(folder) == [b"/p/a", b"/p/b", b"/p/c", b"/p/f"]


def test_after_a_failure_the_writer_refuses_until_it_is_opened_anew(folder, monkeypatch):
    space = fill(folder)
    monkeypatch.setattr(durable, "_arrivals", {})
    with folder.writer() as writer:
        monkeypatch.setenv(durable.FAILPOINT_VARIABLE, "vectors.sync:eio")
        with pytest.raises(StorageError, match="disk failed"):
            writer.commit(batch("d", space))
        with pytest.raises(StorageError, match="open the library again"):
            writer.commit(batch("e", space))
        monkeypatch.delenv(durable.FAILPOINT_VARIABLE)
        with pytest.raises(StorageError, match="open the library again"):
            writer.prune()
    assert folder.check().is_good
    fill(folder, "de")
    assert paths(folder) == [b"/p/a", b"/p/b", b"/p/c", b"/p/d", b"/p/e"]


def test_metadata_may_enter_before_the_embeddings(folder):
    space = fill(folder)
    with folder.writer() as writer:
        [first, second] = writer.commit(Batch(images=[image("d"), image("e")]))
        with writer.reading() as catalog:
            assert catalog.known.count_pending(space.id) == 2
        writer.commit(Batch(encoded=[second, first], vectors=embeddings("ed"), space_id=space.id))
    with folder.snapshot() as snapshot:
        assert [hit.paths for hit in snapshot.hits([3, 4])] == [(b"/p/e",), (b"/p/d",)]


def test_another_model_fills_up_beside_the_first_and_then_takes_over(folder):
    fill(folder)
    with folder.writer() as writer:
        other = writer.ensure_space("another", "big", "hub", DIM)
        assert not other.active
        with writer.reading() as catalog:
            pending = catalog.known.pending(other.id)
        ids = [image.image_id for image in pending]
        writer.commit(Batch(encoded=ids, vectors=embeddings("xyz"), space_id=other.id))
        with pytest.raises(ModelMismatch, match=r"made with mini .* comes from big"):
            folder.require_model("another", "big")
        writer.activate(other.id)
        assert folder.require_model("another", "big").slots == 3
        with pytest.raises(ModelMismatch, match="answers the queries"):
            writer.delete_space(other.id)
        writer.delete_space(1)
    assert folder.check().is_good
    assert [space.space.fingerprint for space in folder.check().spaces] == ["another"]


def test_a_space_is_one_model_of_one_size(folder):
    space = fill(folder)
    with folder.writer() as writer:
        assert writer.ensure_space("fingerprint", "mini", "bundled", DIM).id == space.id
        with pytest.raises(ModelMismatch, match="gives 16 numbers"):
            writer.ensure_space("fingerprint", "mini", "bundled", 16)
        with pytest.raises(ModelInvalid, match="no fingerprint"):
            writer.ensure_space("../../outside", "mini", "bundled", DIM)


HOLDER = """
import sys
from pathlib import Path
from clipsearch.folder import LibraryFolder
with LibraryFolder.open(Path(sys.argv[1])).writer():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_told_who_writes_and_a_killed_one_holds_nothing(folder):
    fill(folder)
    holder = in_a_process(HOLDER, folder.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(LibraryLocked, match=rf"written by process {holder.pid} on .+ since 20"),
        folder.writer(),
    ):
        pass
    assert paths(folder) == [b"/p/a", b"/p/b", b"/p/c"]
    holder.kill()
    assert holder.wait() == -signal.SIGKILL
    holder.stdin.close()
    holder.stdout.close()
    left = folder.layout.lock.read_text()
    assert f'"pid": {holder.pid},' in left
    # Its number is given to another process, here to this one.
    folder.layout.lock.write_text(left.replace(f"{holder.pid},", f"{os.getpid()},"))
    fill(folder, "d")
    assert len(paths(folder)) == 4


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b"\xff"])
def test_an_illegible_lock_file_still_makes_a_sentence(folder, content):
    with folder.writer():
        folder.layout.lock.write_bytes(content)
        with pytest.raises(LibraryLocked, match="written by another process"), folder.writer():
            pass


def test_lost_rows_are_refused_and_repaired_on_request(folder):
    space = fill(folder, "abcd")
    file = folder.layout.vectors(space)
    os.truncate(file, 2 * DIM * 2 + 5)
    with pytest.raises(LibraryDamaged, match="lost 2 of its 4"), folder.snapshot():
        pass
    with pytest.raises(LibraryDamaged, match="lost 2 of its 4"), folder.writer():
        pass
    assert [space.damaged for space in folder.check().spaces] == [[2, 3]]
    with folder.writer(repair=True) as writer:
        assert writer.recovery.lost_embeddings == 2
        with writer.reading() as catalog:
            pending = [image.paths for image in catalog.known.pending(space.id)]
        assert pending == [(b"/p/c",), (b"/p/d",)]
        writer.commit(batch("cd", space))
    assert folder.check().is_good
    assert len(paths(folder)) == 4


def test_check_names_the_photo_of_a_flipped_bit_and_repair_touches_only_that(folder):
    space = fill(folder, "abc")
    file = folder.layout.vectors(space)
    data = bytearray(file.read_bytes())
    data[DIM * 2 + 3] ^= 4
    file.write_bytes(data)
    [health] = folder.check().spaces
    assert [hit.paths for hit in health.hits] == [(b"/p/b",)]
    with folder.writer(repair=True) as writer:
        writer.drop_embeddings(space.id, health.damaged)
        with writer.reading() as catalog:
            [pending] = catalog.known.pending(space.id)
        writer.commit(Batch(encoded=[pending.image_id], vectors=embeddings("b"), space_id=space.id))
    assert folder.check().is_good


def test_a_removed_log_is_noticed(tmp_path):
    path = tmp_path / "library"
    code = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import test_folder
from clipsearch.folder import LibraryFolder
folder = LibraryFolder.create(Path(sys.argv[1]))
space = test_folder.fill(folder)
with folder.writer() as writer:
    writer.commit(test_folder.batch("de", space))
    os.kill(os.getpid(), 9)
"""
    assert in_a_process(code, path, Path(__file__).parent).wait() == -signal.SIGKILL
    (path / "catalog.db-wal").unlink()
    with LibraryFolder.open(path) as folder:
        assert folder.check().lost_generations == 1
        index = folder.index_path(folder.active_space())
        index.write_bytes(b"over slots that are gone")
        with folder.writer() as writer:
            assert writer.recovery.lost_generations == 1
            assert writer.recovery.cut_bytes == 2 * DIM * 2
        assert not index.exists()
        assert folder.check().is_good
        assert paths(folder) == [b"/p/a", b"/p/b", b"/p/c"]


@pytest.mark.parametrize("first", ["catalog", "vectors"])
def test_a_library_that_was_copied_while_it_was_written_is_noticed(folder, tmp_path, first):
    """File by file, with a commit between the catalog and the vectors."""
    space = fill(folder)
    parts = {"catalog": shutil.ignore_patterns("spaces", "GENERATION", "SEAL")}
    parts["vectors"] = shutil.ignore_patterns("catalog.db*", "LOCK")
    with folder.writer() as writer:
        writer.commit(batch("d", space))
        shutil.copytree(folder.path, tmp_path / "copy", ignore=parts.pop(first))
        writer.commit(batch("e", space))
        shutil.copytree(folder.path, tmp_path / "copy", ignore=parts.popitem()[1], dirs_exist_ok=True)
    with LibraryFolder.open(tmp_path / "copy") as copy:
        health = copy.check()
        lost, damaged = (1, []) if first == "catalog" else (0, [4])
        assert (health.lost_generations, health.spaces[0].damaged) == (lost, damaged)
        with copy.writer(repair=True) as writer:
            assert writer.recovery.lost_generations == lost
            assert writer.recovery.lost_embeddings == len(damaged)
            if damaged:
                with writer.reading() as catalog:
                    assert [image.paths for image in catalog.known.pending(space.id)] == [(b"/p/e",)]
        assert copy.check().is_good
        assert paths(copy) == [b"/p/a", b"/p/b", b"/p/c", b"/p/d"]


@pytest.mark.parametrize("name", ["catalog.db", "catalog.db-wal", "LOCK", "GENERATION", "SEAL", "vectors"])
@pytest.mark.parametrize("kind", ["a link", "a pipe", "a folder"])
def test_what_is_no_file_is_neither_waited_for_nor_written_through(folder, tmp_path, name, kind):
    space = fill(folder)
    folder.close()
    path = folder.layout.vectors(space) if name == "vectors" else folder.path / name
    path.unlink(missing_ok=True)
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    {"a link": lambda: path.symlink_to(outside), "a pipe": lambda: os.mkfifo(path), "a folder": path.mkdir}[
        kind
    ]()
    for way in (LibraryFolder.open, LibraryFolder.create):
        with pytest.raises(LibraryDamaged, match=f"{path.name} is {kind}.*Move it away"):
            way(folder.path)
    assert outside.read_bytes() == b"mine"


def test_a_lock_and_a_note_are_not_written_through_links(folder, tmp_path):
    space = fill(folder)
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    with folder.writer() as writer:
        folder.layout.generation.unlink()
        folder.layout.generation.symlink_to(outside)
        writer.commit(batch("d", space))
    folder.layout.lock.unlink()
    folder.layout.lock.symlink_to(outside)
    with pytest.raises(StorageError, match="LOCK cannot be opened or written"), folder.writer():
        pass
    assert outside.read_bytes() == b"mine"


@pytest.mark.parametrize("leftover", ["gone", "empty"])
def test_embeddings_without_a_catalog_are_never_cut(folder, leftover):
    space = fill(folder)
    folder.close()
    for path in folder.path.glob("catalog.db*"):
        path.unlink()
    if leftover == "empty":
        folder.layout.catalog.touch()
    before = folder.layout.vectors(space).read_bytes()
    for way in (LibraryFolder.open, LibraryFolder.create):
        with pytest.raises(LibraryDamaged, match="embeddings beside it"):
            way(folder.path)
    assert folder.layout.vectors(space).read_bytes() == before


def test_a_damaged_header_is_refused_untouched(folder):
    fill(folder)
    folder.close()
    data = folder.layout.catalog.read_bytes()
    folder.layout.catalog.write_bytes(b"\0" * 16 + data[16:])
    before = folder.layout.catalog.read_bytes()
    for way in (LibraryFolder.open, LibraryFolder.create):
        with pytest.raises(LibraryDamaged):
            way(folder.path)
    assert folder.layout.catalog.read_bytes() == before


def test_a_newer_library_is_refused_untouched(folder):
    folder.close()
    connection = sqlite3.connect(folder.layout.catalog)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = folder.layout.catalog.read_bytes()
    for way in (LibraryFolder.open, LibraryFolder.create):
        with pytest.raises(LibraryVersion, match="update clipsearch"):
            way(folder.path)
    assert folder.layout.catalog.read_bytes() == before


def test_an_older_library_is_brought_up_to_date_unless_someone_writes(folder, monkeypatch):
    fill(folder)
    steps = (*migrations.STEPS, ["ALTER TABLE roots ADD COLUMN colour TEXT"])
    with folder.writer():
        monkeypatch.setattr(migrations, "STEPS", steps)
        monkeypatch.setattr(migrations, "CURRENT_VERSION", len(steps))
        monkeypatch.setattr(migrations.migrate, "__defaults__", (steps,))
        monkeypatch.setattr(migrations.check_version, "__defaults__", (len(steps),))
        with pytest.raises(LibraryVersion, match=r"older clipsearch .* being written"):
            LibraryFolder.open(folder.path)
    with LibraryFolder.open(folder.path) as opened:
        assert paths(opened) == [b"/p/a", b"/p/b", b"/p/c"]
        with opened.reading() as catalog:
            columns = catalog._driver.execute("PRAGMA table_info(roots)").fetchall()
    assert "colour" in {column[1] for column in columns}


def test_a_backup_is_a_library_of_one_state(folder, tmp_path):
    space = fill(folder)
    with folder.writer() as writer:
        writer.commit(batch("d", space))
        folder.backup(tmp_path / "backup")
        writer.commit(batch("e", space))
    with LibraryFolder.open(tmp_path / "backup") as backup:
        assert backup.check().is_good
        assert paths(backup) == [b"/p/a", b"/p/b", b"/p/c", b"/p/d"]
        fill(backup, "z")
    with pytest.raises(StorageError, match="exists already"):
        folder.backup(tmp_path / "backup")


def test_a_backup_lies_outside_of_the_library_by_any_name(folder, tmp_path):
    fill(folder)
    (tmp_path / "link").symlink_to(folder.path)
    inside = [folder.path / "b", tmp_path / "link" / "b", tmp_path / "x" / ".." / "library" / "b"]
    with LibraryFolder.open(tmp_path / "link") as by_link:
        for library, target in [(folder, target) for target in inside] + [(by_link, inside[0])]:
            with pytest.raises(StorageError, match="lies in the library itself"):
                library.backup(target)
    with pytest.raises(StorageError, match=r"cannot be opened or written \(File name too long\)"):
        folder.backup(tmp_path / ("x" * 300))
    folder.backup(folder.path / ".." / "backup")
    assert LibraryFolder.open(tmp_path / "backup").check().is_good


def test_a_library_behind_a_link_is_restored_where_it_lies(folder, tmp_path):
    fill(folder)
    folder.backup(tmp_path / "backup")
    (tmp_path / "other").mkdir()
    link = tmp_path / "other" / "link"
    link.symlink_to(folder.path)
    assert LibraryFolder.restore(tmp_path / "backup", link) == tmp_path / "library.replaced-1"
    assert link.is_symlink()
    assert paths(LibraryFolder.open(link)) == [b"/p/a", b"/p/b", b"/p/c"]
    with pytest.raises(StorageError, match="lie within each other"):
        LibraryFolder.restore(folder.path, link)
    with pytest.raises(StorageError, match="was replaced by another meanwhile"), folder.writer():
        pass  # what it read is of the library that was there before


def test_a_backup_that_cannot_be_put_there_is_a_sentence_about_the_backup(folder, tmp_path):
    fill(folder)
    folder.backup(tmp_path / "backup")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file is no folder"):
        LibraryFolder.restore(tmp_path / "backup", tmp_path / "file")
    catalog = tmp_path / "backup" / "catalog.db"
    catalog.write_bytes(catalog.read_bytes()[:5000])
    with pytest.raises(LibraryDamaged, match=r"The backup at .*backup is damaged itself"):
        LibraryFolder.restore(tmp_path / "backup", folder.path)


def test_leftovers_are_removed_by_the_next_writer(folder):
    space = fill(folder)
    where = folder.layout.space(space)
    for name in (".index.faiss.00.tmp", "vectors.1.f16", "index.7.faiss"):
        (where / name).write_bytes(b"leftover")
    (where / "index.json").write_bytes(b"kept")
    with folder.writer():
        pass
    assert {path.name for path in where.iterdir()} == {"vectors.f16", "index.json"}


def test_disk_usage_counts_what_is_there(folder):
    space = fill(folder)
    folder.index_path(space).write_bytes(bytes(100))
    folder.index_manifest_path(space).write_bytes(bytes(10))
    usage = folder.disk_usage()
    assert (usage.vectors, usage.index, usage.thumbs) == (3 * DIM * 2, 110, 0)
    assert usage.total > usage.catalog >= folder.layout.catalog.stat().st_size


READ_ONLY = """
import mmap, os, sys
from pathlib import Path
from clipsearch.errors import StorageError
from clipsearch.folder import LibraryFolder
import clipsearch.store.catalog
if os.getuid() == 0:
    os.setuid(65534)
path = Path(sys.argv[1])
assert not os.access(path, os.W_OK)
with LibraryFolder.open(path) as folder:
    with folder.snapshot() as snapshot:
        assert len(snapshot.hits(snapshot.visible)) == len(snapshot.vectors) == 3
    try:
        with folder.writer():
            print("written")
    except StorageError as error:
        print(error)
"""


@pytest.mark.parametrize("log", ["gone", "empty"])
def test_a_read_only_library_is_searched_and_says_why_it_is_not_written(log):
    base = Path(tempfile.mkdtemp())
    try:
        with LibraryFolder.create(base / "library") as folder:
            fill(folder)
        for path in folder.path.glob("catalog.db-*"):
            path.unlink()
        if log == "empty":
            (folder.path / "catalog.db-wal").touch()
        for path in (base, *base.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        reader = in_a_process(READ_ONLY, folder.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = reader.communicate()
        assert "Searching still works" in output, errors
        assert reader.returncode == 0, errors
    finally:
        for path in (base, *base.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(base)


def test_opening_loads_the_database_only_when_it_is_needed():
    code = "import sys, clipsearch.folder; sys.exit('sqlalchemy' in sys.modules)"
    assert in_a_process(code).wait() == 0
