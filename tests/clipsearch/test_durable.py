import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import pytest

from clipsearch import durable
from clipsearch.errors import StorageError


@pytest.fixture(autouse=True)
def _fresh_failpoints(monkeypatch):
    monkeypatch.delenv(durable.FAILPOINT_VARIABLE, raising=False)
    monkeypatch.setattr(durable, "_arrivals", {})


@contextmanager
def file_size_limit(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def arm(monkeypatch, order):
    monkeypatch.setenv(durable.FAILPOINT_VARIABLE, order)


def test_append_replaces_what_stands_at_the_offset(tmp_path):
    path = tmp_path / "file"
    durable.append(path, b"abcdef", at=0, name="x")
    durable.append(path, b"XY", at=3, name="x")
    assert path.read_bytes() == b"abcXY"


def test_append_past_the_end_is_refused_and_fills_no_gap(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"ab")
    with pytest.raises(StorageError, match="ends before byte 3"):
        durable.append(path, b"X", at=3, name="x")
    assert path.read_bytes() == b"ab"


def test_append_goes_on_after_a_write_that_took_less(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:3], at))
    durable.append(tmp_path / "file", b"0123456789", at=0, name="x")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_disk_that_takes_nothing_more_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    with pytest.raises(StorageError, match="takes no more bytes"):
        durable.append(tmp_path / "file", b"0123456789", at=0, name="x")


def test_a_full_disk_says_how_many_bytes_are_needed_and_gives_back_the_rest(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"kept")
    with file_size_limit(1000), pytest.raises(StorageError, match=r"disk is full.* needs 1,004 bytes more"):
        durable.append(path, bytes(2000), at=4, name="x")
    assert path.read_bytes() == b"kept"


@pytest.mark.parametrize("lacking", [1, 1000, 4000])
def test_a_full_disk_leaves_the_old_file_in_place(tmp_path, lacking):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with file_size_limit(8192 - lacking), pytest.raises(StorageError, match="disk is full"):
        durable.replace(path, bytes(8192), name="x")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_place_says_that_searching_works(tmp_path, code):
    error = durable.storage_error(OSError(code, os.strerror(code)), tmp_path)
    assert "Searching still works" in str(error)


def test_too_many_open_files_are_not_the_fault_of_the_disk(tmp_path):
    error = durable.storage_error(OSError(errno.EMFILE, os.strerror(errno.EMFILE)), tmp_path)
    assert "ulimit -n" in str(error)
    assert "disk" not in str(error)


def test_a_failed_sync_is_never_asked_again(tmp_path, monkeypatch):
    asked = []

    def fail(descriptor):
        asked.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="disk failed"):
        durable.append(tmp_path / "file", b"data", at=0, name="x")
    [descriptor] = asked
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("write", [durable.replace, partial(durable.append, at=0)])
def test_a_folder_that_cannot_be_synced_is_an_error(tmp_path, monkeypatch, write):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="disk failed"):
        write(tmp_path / "file", b"data", name="x")


def test_replacing_keeps_the_old_file_when_the_body_raises(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half():
        with durable.replacing(path, name="x") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_body_s_own_write_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="disk is full"), durable.replacing(tmp_path / "f", name="x"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_steps_come_in_the_order_that_makes_them_durable(tmp_path, monkeypatch):
    passed = []
    monkeypatch.setattr(durable, "_ordered_action", lambda name: passed.append(name))
    durable.replace(tmp_path / "file", b"data", name="x")
    durable.append(tmp_path / "rows", b"data", at=0, name="y")
    durable.truncate(tmp_path / "rows", 1, name="z")
    assert passed == [
        *("x.open", "x.write", "x.sync", "x.synced", "x.rename", "x.renamed", "x.dirsync"),
        *("y.open", "y.write", "y.sync", "y.synced", "y.dirsync"),
        *("z.open", "z.sync", "z.synced"),
    ]
    assert (tmp_path / "rows").read_bytes() == b"d"


@pytest.mark.parametrize("step", ["open", "write", "sync", "synced", "rename"])
@pytest.mark.parametrize("action", ["eio", "enospc", "short"])
def test_until_the_rename_the_old_file_stays(tmp_path, monkeypatch, step, action):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    arm(monkeypatch, f"x.{step}:{action}")
    with pytest.raises(StorageError, match="disk is full" if action == "enospc" else "disk failed"):
        durable.replace(path, b"new content", name="x")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_nth_arrival_fails_and_only_that_one(monkeypatch):
    arm(monkeypatch, "a.step:eio:3")
    durable.failpoint("a.step")
    durable.failpoint("another")
    durable.failpoint("a.step")
    with pytest.raises(OSError, match=r"failpoint a\.step"):
        durable.failpoint("a.step")
    durable.failpoint("a.step")


def test_kill_leaves_half_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    code = f"""
from pathlib import Path
from clipsearch import durable
durable.append(Path({str(path)!r}), b"01234567", at=0, name="x")
"""
    environment = os.environ | {durable.FAILPOINT_VARIABLE: "x.write:kill"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"0123"


def test_make_directory_makes_the_parents_and_can_be_repeated(tmp_path):
    durable.make_directory(tmp_path / "a" / "b")
    durable.make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_where_a_directory_should_be_is_a_storage_error(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(StorageError):
        durable.make_directory(tmp_path / "a" / "b")


def test_remove_of_nothing_is_fine(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    durable.remove(tmp_path / "file")
    durable.remove(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
