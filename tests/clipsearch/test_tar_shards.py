"""Reading what lies in tar shards, of every dialect, and of strangers."""
# ruff: noqa: PTH105, PTH116, PTH123, PTH211
# The paths under test are bytes, which pathlib cannot hold.

import contextlib
import io
import os
import random
import shutil
import subprocess
import tarfile

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from clipsearch import tar_shards
from clipsearch.files import ImageFileError, read_file
from clipsearch.tar_shards import Member, ShardError, caption_path, members, shard_of

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
LONG = "long/" * 40 + "name.jpg"
FILES = {
    "a.jpg": b"one",
    "./sub/b.jpg": b"",
    "sub//c\udcff.jpg": bytes(511),
    "d.txt": b"x" * 512,
    "p" * 90 + "/" + "n" * 90 + ".jpg": b"prefix",
}


def add(archive: tarfile.TarFile, name: str, data: bytes, **more: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))


def shard(path, files, **options):
    with tarfile.open(path, "w", **options) as archive:
        for name, data in files.items():
            add(archive, name, data)
    return os.fsencode(path)


def inner(name: str) -> bytes:
    return b"/".join(part for part in os.fsencode(name).split(b"/") if part not in (b"", b"."))


def listed(path: bytes) -> dict[bytes, Member]:
    return {member.path[len(path) + 1 :]: member for member in members(path)}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_file_is_listed_and_read(tmp_path, kind):
    files = FILES if kind == tarfile.USTAR_FORMAT else {**FILES, LONG: b"long"}
    path = shard(tmp_path / "s.tar", files, format=kind)
    found = listed(path)
    assert list(found) == [inner(name) for name in files]
    for name, data in files.items():
        member = found[inner(name)]
        read, status = read_file(member.path)
        assert read == data
        assert status == member.stat()
        assert status.st_size == len(data)
        assert (status.st_mtime_ns, status.st_dev) == (os.stat(path).st_mtime_ns, os.stat(path).st_dev)
        assert member.name == inner(name).split(b"/")[-1]
        assert member.is_file()
        assert not member.is_dir()
        assert not member.is_symlink()


def test_shards_of_webdataset_and_of_tar(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "wds.tar")) as writer:
        for number in range(5):
            writer.write({"__key__": f"{number:03}", "jpg": b"%d" % number, "txt": f"words {number}"})
    path = os.fsencode(tmp_path / "wds.tar")
    assert list(listed(path)) == [b"%03d.%b" % (n, end) for n in range(5) for end in (b"jpg", b"txt")]
    assert read_file(path + b"/003.jpg")[0] == b"3"
    assert caption_path(path + b"/003.jpg") == path + b"/003.txt"
    assert caption_path(path + b"/a.b/003.seg.png") == path + b"/a.b/003.txt"
    assert caption_path(b"/photos/a.jpg") is None
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.jpg").write_bytes(b"x")
    os.symlink("x.jpg", tmp_path / "d" / "link.jpg")
    os.link(tmp_path / "d" / "x.jpg", tmp_path / "d" / "z.jpg")
    subprocess.run(["tar", "cf", "t.tar", "--sort=name", "d"], cwd=tmp_path, check=True)
    assert list(listed(os.fsencode(tmp_path / "t.tar"))) == [b"d/x.jpg"]  # no folder, no link


def test_plain_headers_need_no_tarfile(tmp_path, monkeypatch):
    with webdataset.TarWriter(str(tmp_path / "wds.tar")) as writer:
        writer.write({"__key__": "1", "jpg": b"1"})
    paths = [shard(tmp_path / f"{kind}.tar", {"a.jpg": b"1"}, format=kind) for kind in FORMATS]
    monkeypatch.setattr(tar_shards, "_special", None)
    for path in (*paths, os.fsencode(tmp_path / "wds.tar")):
        assert len(listed(path)) == 1


def test_the_last_of_several_of_one_name_counts(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for data in (b"old", b"other", b"newest"):
            add(archive, "b.jpg" if data == b"other" else "a.jpg", data)
    path = os.fsencode(tmp_path / "s.tar")
    assert list(listed(path)) == [b"b.jpg", b"a.jpg"]
    assert read_file(path + b"/a.jpg")[0] == b"newest"


def test_names_that_lead_out_are_left_alone(tmp_path):
    outside = tmp_path / "secret.jpg"
    outside.write_bytes(b"secret")
    names = ["../secret.jpg", "a/../../secret.jpg", "..", ".", "/", str(outside)]
    path = shard(tmp_path / "s.tar", dict.fromkeys(names, b"inside"))
    assert list(listed(path)) == [inner(str(outside))]
    assert read_file(path + os.fsencode(str(outside)))[0] == b"inside"
    for name in (b"/../secret.jpg", b"/a/../../secret.jpg"):
        with pytest.raises(ImageFileError) as error:
            read_file(path + name)
        assert error.value.kind == "missing"


def test_headers_that_speak_of_all_files_are_passed_over(tmp_path):
    """Such as `git archive` writes."""
    with tarfile.open(tmp_path / "s.tar", "w", pax_headers={"comment": "x"}) as archive:
        for name in ("a.jpg", "b.jpg", LONG):
            add(archive, name, b"1")
    assert list(listed(os.fsencode(tmp_path / "s.tar"))) == [b"a.jpg", b"b.jpg", os.fsencode(LONG)]


@pytest.mark.parametrize(
    ("cut", "left"),
    [(3 * 1024, 1), (2 * 1024 + 100, 1), (5, 0), (0, 0)],
    ids=["member", "header", "five", "none"],
)
def test_a_shard_that_ends_too_soon_tells_so(tmp_path, cut, left):
    path = shard(tmp_path / "s.tar", {f"{n}.jpg": bytes(1500) for n in range(3)}, format=tarfile.USTAR_FORMAT)
    with open(path, "r+b") as file:
        file.truncate(cut)
    found = []
    with pytest.raises(ShardError):
        found.extend(members(path))
    assert len(found) == left


def test_what_is_no_archive_is_told(tmp_path):
    (tmp_path / "s.tar").write_bytes(b"\xff\xd8" * 4000)
    with pytest.raises(ShardError, match="not a tar archive"):
        list(members(os.fsencode(tmp_path / "s.tar")))
    os.mkfifo(tmp_path / "pipe.tar")
    for name in ("pipe.tar", "nothing.tar"):
        with pytest.raises(OSError, match=r"ot a directory|o such file"):
            list(members(os.fsencode(tmp_path / name)))
    for name in ("s.tar/a.jpg", "pipe.tar/a.jpg", "nothing.tar/a.jpg", "s.tar.gz/a.jpg"):
        with pytest.raises(ImageFileError):
            read_file(tmp_path / name)


def test_damage_leaves_what_stands_before_it(tmp_path):
    path = shard(tmp_path / "s.tar", {f"{n}.jpg": b"%d" % n for n in range(3)}, format=tarfile.USTAR_FORMAT)
    with open(path, "r+b") as file:
        file.seek(2048)
        file.write(b"damaged")
    assert read_file(path + b"/1.jpg")[0] == b"1"
    with pytest.raises(ImageFileError):
        read_file(path + b"/2.jpg")


def test_a_shard_that_is_replaced_is_read_anew(tmp_path):
    path = shard(tmp_path / "s.tar", {"a.jpg": b"old", "b.jpg": b"b"})
    assert read_file(path + b"/a.jpg")[0] == b"old"
    shard(tmp_path / "new.tar", {"b.jpg": b"b", "a.jpg": b"newer"})
    os.replace(tmp_path / "new.tar", path)
    assert read_file(path + b"/a.jpg")[0] == b"newer"


def test_few_shards_are_remembered(tmp_path):
    for number in range(5):
        path = shard(tmp_path / f"{number}.tar", {"a.jpg": b"%d" % number})
        assert read_file(path + b"/a.jpg")[0] == b"%d" % number
    assert len(tar_shards._recent) <= 2


def test_links_to_shards_are_followed_when_asked_to(tmp_path):
    shard(tmp_path / "s.tar", {"a.jpg": b"1"})
    os.symlink("s.tar", tmp_path / "link.tar")
    assert read_file(tmp_path / "link.tar" / "a.jpg", follow_symlinks=True)[0] == b"1"
    with pytest.raises(ImageFileError, match="symbolic link"):
        read_file(tmp_path / "link.tar" / "a.jpg")


def test_too_large_a_member_is_refused(tmp_path, monkeypatch):
    path = shard(tmp_path / "s.tar", {"a.jpg": bytes(2000)})
    monkeypatch.setattr("clipsearch.files.FILE_LIMIT", 1000)
    with pytest.raises(ImageFileError) as error:
        read_file(path + b"/a.jpg")
    assert error.value.kind == "too-large"


def test_shards_by_path():
    assert shard_of(b"/a/s.tar/b/c.jpg") == b"/a/s.tar"
    assert shard_of(b"/a/S.TAR/c.tar/d.jpg") == b"/a/S.TAR"
    assert shard_of(b"/a/s.tar") is None
    assert shard_of(b"/a/star/b.jpg") is None


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strange")
    made = []
    for kind in FORMATS:
        files = {"a.jpg": b"1" * 700, "dir/b.jpg": b"2"}
        if kind != tarfile.USTAR_FORMAT:
            files[LONG] = b"3"
        path = shard(folder / f"{kind}.tar", files, format=kind)
        with open(path, "rb") as file:
            made.append(file.read())
    yield made, os.fsencode(folder / "fuzzed.tar")
    shutil.rmtree(folder)


@given(st.data())
def test_no_shard_brings_anything_but_its_own_errors(strange, data):
    made, path = strange
    blob = bytearray(data.draw(st.sampled_from(made)))
    choose = random.Random(data.draw(st.integers(0, 1 << 32)))
    for _ in range(choose.randint(1, 8)):
        at = choose.randrange(len(blob) // 2)
        blob[at : at + choose.choice((1, 8, 12))] = choose.choice(
            (b"\xff", b"\x80" + bytes(11), b"77777777777\0", b"x", b"L", b"S", b"-1", b"5")
        )
    with open(path, "wb") as file:
        file.write(blob[: choose.choice((len(blob), choose.randrange(len(blob))))])
    found = []
    with contextlib.suppress(ShardError):
        found.extend(members(path))
    for member in found:
        assert b".." not in member.path.split(b"/")
        assert len(read_file(member.path)[0]) == member.stat().st_size
