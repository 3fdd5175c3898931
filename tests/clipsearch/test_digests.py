import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from clipsearch import digests

LARGE = os.urandom(1000) * 5000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(digests, "cache_folder", lambda: folder)
    return folder / "digests"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read."""
    names: list[str] = []
    before = digests._hashed

    def counted(file: Any) -> bytes:
        names.append(Path(file.name).name)
        return before(file)

    monkeypatch.setattr(digests, "_hashed", counted)
    return names


def old(path: Path, content: bytes = LARGE) -> Path:
    """A file that was last changed long ago, as far as its times say."""
    path.write_bytes(content)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    return path


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour after whatever a test does: the ctime cannot be set."""
    now = time.time_ns
    monkeypatch.setattr(digests.time, "time_ns", lambda: now() + 3600 * 10**9)


def digest(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(3)  # wherever the caller is
        return digests.sha256_of(file)


def test_it_is_the_sha256_and_is_worked_out_once(tmp_path: Path, hashed: list[str]) -> None:
    path = old(tmp_path / "weights")
    for _ in range(3):
        assert digest(path) == hashlib.sha256(LARGE).digest()
    assert hashed == ["weights"]


def test_small_files_leave_no_trace(tmp_path: Path, cache: Path) -> None:
    assert digest(old(tmp_path / "small", b"abc")) == hashlib.sha256(b"abc").digest()
    assert not cache.exists()


def test_another_content_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    path = old(tmp_path / "weights")
    digest(path)
    changed = b"x" + LARGE[1:]
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, (1_600_000_000, 1_600_000_000))
    assert digest(path) == hashlib.sha256(changed).digest()
    (tmp_path / "new").write_bytes(LARGE)
    (tmp_path / "new").replace(path)
    assert digest(path) == hashlib.sha256(LARGE).digest()


def test_a_file_that_has_just_changed_is_not_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(digests, "cache_folder", lambda: cache.parent)
    digest(old(tmp_path / "weights"))
    assert not cache.exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old(tmp_path / "weights")
    before = digests._hashed

    def meanwhile(file: Any) -> bytes:
        found = before(file)
        with path.open("ab") as other:
            other.write(b"more")
        return found

    monkeypatch.setattr(digests, "_hashed", meanwhile)
    digest(path)
    assert not cache.exists()


def test_a_damaged_note_is_not_believed(tmp_path: Path, cache: Path) -> None:
    path = old(tmp_path / "weights")
    digest(path)
    (note,) = cache.iterdir()
    for content in (b"", b"00", b"g" * 64, b"0" * 65):
        note.write_bytes(content)
        assert digest(path) == hashlib.sha256(LARGE).digest()


def test_a_cache_that_cannot_be_kept_changes_nothing(tmp_path: Path, cache: Path) -> None:
    cache.parent.write_bytes(b"a file where the folder should be")
    assert digest(old(tmp_path / "weights")) == hashlib.sha256(LARGE).digest()
