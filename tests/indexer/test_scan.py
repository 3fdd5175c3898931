# ruff: noqa: PTH118, PTH119
# The paths under test are bytes, which pathlib cannot hold.
import contextlib
import inspect
import os
import socket
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from clipsearch.reachable import root_state
from clipsearch.store import LastStat
from clipsearch_indexer.scan import (
    FileStat,
    Settled,
    Unscanned,
    filesystem_id,
    is_image_name,
    scan,
)


def make(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = Path(os.fsdecode(os.path.join(os.fsencode(root), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(root: Path, **options: Any) -> list[bytes]:
    """Paths of the files found, relative to `root`."""
    found = scan(os.fsencode(root), **options)
    return [os.path.relpath(item.path, os.fsencode(root)) for item in found if isinstance(item, FileStat)]


def rel(path: bytes, root: Path) -> str:
    return os.path.relpath(os.fsdecode(path), root)


def unscanned(root: Path, **options: Any) -> dict[str, str]:
    found = scan(os.fsencode(root), **options)
    return {rel(item.path, root): item.kind for item in found if isinstance(item, Unscanned)}


def test_images_by_suffix_in_a_stable_order(tmp_path: Path) -> None:
    make(
        tmp_path, "b.jpg", "a/z.JPG", "a/y.HeIc", "c.txt", "noext", "photo.jpg.txt", "a.jpg", "a/.jpgx", "jpg"
    )
    assert names(tmp_path) == [b"a/y.HeIc", b"a/z.JPG", b"a.jpg", b"b.jpg"]
    assert not unscanned(tmp_path)


def test_the_stat_is_that_of_the_file(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    status = (tmp_path / "a.png").stat()
    expected = (1, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    assert list(scan(os.fsencode(tmp_path))) == [FileStat(os.fsencode(tmp_path / "a.png"), *expected)]


def test_names_are_bytes(tmp_path: Path) -> None:
    nasty = [
        b"bad\xff\xfe.jpg",
        b"dir\xff/in\n.jpg",
        b"esc\x1b[31m.jpg",
        b"new\nline.jpg",
        b"..jpg",
        b"-rf.jpg",
    ]
    make(tmp_path, *nasty)
    assert sorted(names(tmp_path)) == sorted(nasty)


@pytest.mark.parametrize("name", [b"a.jpg ", b"a.jpg.", b"a.Jpeg", b"...jpg", b"x.y.webp"])
def test_image_names(name: bytes) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize("name", [b"jpg", b"a.jpg.part", b"a.", b"", b"a.svg", b"Thumbs.db"])
def test_other_names(name: bytes) -> None:
    assert not is_image_name(name)


def test_hidden_and_generated_files_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, ".hidden.jpg", "._a.jpg", ".thumbnails/a.jpg", "@eaDir/a.jpg", "x/__MACOSX/a.jpg")
    make(tmp_path, "node_modules/a.jpg", "kept.jpg", "..two/dots.jpg")
    assert names(tmp_path) == [b"..two/dots.jpg", b"kept.jpg"]
    assert len(names(tmp_path, excludes=())) == 8


def test_exclude_patterns(tmp_path: Path) -> None:
    make(tmp_path, "a/raw/1.jpg", "b/raw/2.jpg", "b/3_edit.jpg", "raw.jpg")
    assert names(tmp_path, excludes=["raw"]) == [b"b/3_edit.jpg", b"raw.jpg"]
    assert names(tmp_path, excludes=["a/raw/"]) == [b"b/3_edit.jpg", b"b/raw/2.jpg", b"raw.jpg"]
    assert names(tmp_path, excludes=["b/*"]) == [b"a/raw/1.jpg", b"raw.jpg"]
    assert names(tmp_path, excludes=["*_edit.*", "[ab]/raw"]) == [b"raw.jpg"]


def test_links_and_special_files_are_reported_and_left_alone(tmp_path: Path) -> None:
    make(tmp_path, "real.jpg", "sub/in.jpg")
    for target, name in [
        ("real.jpg", "link.jpg"),
        ("nowhere", "dangling.jpg"),
        ("self.jpg", "self.jpg"),
        ("..", "sub/up"),
        ("/dev/zero", "zero.jpg"),
        ("/etc", "etc"),
        ("/etc/passwd", "passwd"),
    ]:
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "fifo.jpg")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # the path of a socket must be short
        server.bind("socket.png")
    assert names(tmp_path) == [b"real.jpg", b"sub/in.jpg"]
    links = ("dangling.jpg", "etc", "link.jpg", "self.jpg", "sub/up", "zero.jpg")
    assert unscanned(tmp_path) == {
        **dict.fromkeys(links, "symlink"),
        "fifo.jpg": "special",
        "socket.png": "special",
    }


def test_following_links_enters_each_folder_once(tmp_path: Path) -> None:
    make(tmp_path, "root/a.jpg", "outside/b.jpg")
    (tmp_path / "root/loop").symlink_to(".")
    (tmp_path / "root/one").symlink_to("../outside")
    (tmp_path / "root/two").symlink_to("../outside")
    (tmp_path / "root/link.jpg").symlink_to("a.jpg")
    (tmp_path / "root/self.jpg").symlink_to("self.jpg")
    root = tmp_path / "root"
    assert names(root, follow_symlinks=True) == [b"a.jpg", b"link.jpg", b"one/b.jpg"]
    assert unscanned(root, follow_symlinks=True) == {"self.jpg": "file"}


def test_deep_nesting_needs_no_recursion(tmp_path: Path) -> None:
    deep = "/".join("n" * 300) + "/deep.jpg"
    make(tmp_path, deep)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert names(tmp_path) == [deep.encode()]
    finally:
        sys.setrecursionlimit(limit)


def test_a_path_beyond_the_systems_limit_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(22):
        Path("d" * 200).mkdir()
        monkeypatch.chdir("d" * 200)
    Path("deep.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert names(tmp_path) == []
    assert list(unscanned(tmp_path).values()) == ["directory"]


class Broken:
    """A listing of a folder that fails after its entries."""

    def __init__(self, entries: list[Any]) -> None:
        self.entries = entries

    def __enter__(self) -> Any:
        yield from self.entries
        raise OSError(5, "Input/output error")

    def __exit__(self, *_: object) -> None:
        pass


def test_a_folder_that_fails_half_way_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jpg", "bad/b.jpg", "c.jpg")
    listing = os.scandir

    def scandir(path: bytes) -> Any:
        if not path.endswith(b"bad"):
            return listing(path)
        with listing(path) as entries:
            return Broken(list(entries))

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(tmp_path) == [b"a.jpg", b"bad/b.jpg", b"c.jpg"]
    assert unscanned(tmp_path) == {"bad": "directory"}


def test_a_folder_that_may_not_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jpg", "locked/b.jpg")
    listing = os.scandir

    def scandir(path: bytes) -> Any:
        if path.endswith(b"locked"):
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = list(scan(os.fsencode(tmp_path)))
    assert found[1:] == [Unscanned(os.fsencode(tmp_path / "locked"), "Permission denied", "directory")]


class Unstatable:
    """A directory entry whose stat fails, as in a folder that may be listed and not entered."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.name = os.path.basename(path)

    def is_symlink(self) -> bool:
        return False

    def is_dir(self) -> bool:
        return False

    def stat(self) -> os.stat_result:
        raise PermissionError(13, "Permission denied")


def test_a_file_that_may_not_be_looked_at_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Unstatable(os.fsencode(tmp_path / "x.jpg"))
    monkeypatch.setattr(os, "scandir", lambda _folder: contextlib.nullcontext([entry]))
    assert list(scan(os.fsencode(tmp_path))) == [Unscanned(entry.path, "Permission denied", "file")]


def test_roots_of_every_kind(tmp_path: Path) -> None:
    make(tmp_path, "photo.xyz", "full/a.jpg")
    (tmp_path / "link").symlink_to("full")
    os.mkfifo(tmp_path / "fifo")
    assert [type(item) for item in scan(os.fsencode(tmp_path / "photo.xyz"))] == [FileStat]
    assert names(tmp_path / "link") == [b"a.jpg"]
    assert unscanned(tmp_path / "gone") == {".": "directory"}
    assert unscanned(tmp_path / "fifo") == {".": "special"}


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("gone", "missing"),
        ("fifo", "missing"),
        ("empty", "empty"),
        ("hidden", "empty"),
        ("full", "online"),
        ("photo.xyz", "online"),
    ],
)
def test_the_state_of_a_root(tmp_path: Path, name: str, state: str) -> None:
    make(tmp_path, "photo.xyz", "hidden/.keep", "full/a.jpg")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "fifo")
    assert root_state(os.fsencode(tmp_path / name)) == state


def test_the_filesystem_id_tells_file_systems_apart(tmp_path: Path) -> None:
    make(tmp_path, "sub/a.jpg")
    assert filesystem_id(os.fsencode(tmp_path)) == filesystem_id(os.fsencode(tmp_path / "sub/a.jpg"))
    assert filesystem_id(b"/proc") != filesystem_id(os.fsencode(tmp_path))
    with pytest.raises(FileNotFoundError):
        filesystem_id(os.fsencode(tmp_path / "gone"))


def last_stats(root: Path, **options: Any) -> dict[bytes, LastStat]:
    found = [item for item in scan(os.fsencode(root), **options) if isinstance(item, FileStat)]
    return {file.path: (file.path, file.size, file.mtime_ns, file.ctime_ns, file.inode) for file in found}


def test_known_files_that_are_as_they_were_are_counted_and_the_others_are_yielded(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.JPG", "sub/c.heif ", "sub/d.jpeg", "sub/e.png", "sub/f.png", "sub/g.png")
    root = os.fsencode(tmp_path)
    known = last_stats(tmp_path)
    make(tmp_path, "new.jpg")
    path = root + b"/sub/d.jpeg"
    for place in range(1, 5):  # size, either time, inode
        last = list(known[path])
        last[place] += 1  # type: ignore[operator]
        changed = {path: tuple(last)}
        left = {**known, **changed, root + b"/gone.jpg": known[path]}
        found = list(scan(root, known=left))  # type: ignore[arg-type]
        assert [item for item in found if isinstance(item, Settled)] == [
            Settled(root, 2),
            Settled(root + b"/sub", 4),
        ]
        assert [item.path for item in found if isinstance(item, FileStat)] == [root + b"/new.jpg", path]
        assert set(left) == {path, root + b"/gone.jpg"}


def test_a_stat_without_a_size_settles_nothing(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    [(path, last)] = last_stats(tmp_path).items()
    known = {path: (path, None, *last[2:])}
    assert [type(item) for item in scan(os.fsencode(tmp_path), known=known)] == [FileStat]
    assert set(known) == {path}


def test_inodes_of_64_bits_are_known_as_signed_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.jpg")
    entry = Inode64(os.fsencode(tmp_path / "a.jpg"))
    monkeypatch.setattr(os, "scandir", lambda _folder: contextlib.nullcontext([entry]))
    known: dict[bytes, LastStat] = {entry.path: (entry.path, 1, 2, 3, -1)}
    assert list(scan(os.fsencode(tmp_path), known=known)) == [Settled(os.fsencode(tmp_path), 1)]


class Inode64:
    """A directory entry of a file with the largest of inode numbers."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.name = os.path.basename(path)

    def is_file(self, *, follow_symlinks: bool) -> bool:
        return not follow_symlinks

    def stat(self, *, follow_symlinks: bool) -> Any:
        assert not follow_symlinks
        return types.SimpleNamespace(st_size=1, st_mtime_ns=2, st_ctime_ns=3, st_ino=2**64 - 1)


@pytest.mark.parametrize("pattern", ["raw.jpg", "*w.jpg", "[r]aw.jpg", "?aw.jpg", "sub/raw.jpg", "s*/*w.jpg"])
def test_a_known_file_that_is_excluded_now_is_not_met(tmp_path: Path, pattern: str) -> None:
    make(tmp_path, "a.jpg", "sub/raw.jpg")
    known = last_stats(tmp_path)
    found = list(scan(os.fsencode(tmp_path), excludes=["é*", "", "/", pattern], known=known))
    assert found == [Settled(os.fsencode(tmp_path), 1)]
    assert set(known) == {os.fsencode(tmp_path / "sub/raw.jpg")}


def test_what_is_no_file_any_more_is_not_settled(tmp_path: Path) -> None:
    make(tmp_path, "link.jpg", "folder.jpg", "photo.xyz", "target")
    known = {path: last_stats(Path(os.fsdecode(path)))[path] for path in sorted_paths(tmp_path)}
    for name in ("link.jpg", "folder.jpg"):
        (tmp_path / name).unlink()
    (tmp_path / "link.jpg").symlink_to("target")
    (tmp_path / "folder.jpg").mkdir()
    left = dict(known)
    found = list(scan(os.fsencode(tmp_path), known=left))
    assert [item.path for item in found] == [os.fsencode(tmp_path / "link.jpg")]
    assert isinstance(found[0], Unscanned)
    assert left == known


def sorted_paths(root: Path) -> list[bytes]:
    return sorted(os.fsencode(path) for path in root.iterdir())
