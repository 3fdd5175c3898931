from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import StorageError
from clipsearch_train.cache import Report, cached_rows, sample_keys
from clipsearch_train.data import Sample


class Counting:
    """Computes a row of its key's length and remembers what it was asked for."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self.asked: list[str] = []
        self.told: list[tuple[str, int, int]] = []
        self.stop_after = len(keys)

    def report(self, stage: str, done: int, total: int) -> None:
        self.told.append((stage, done, total))

    def __call__(self, rows: list[int], report: Report) -> np.ndarray:
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += [self.keys[row] for row in rows]
        report("counting", len(rows), len(rows))
        return np.array([[len(self.keys[row])] for row in rows], dtype=np.float16)


def rows(path: Path, keys: list[str]) -> tuple[list[int], list[str]]:
    compute = Counting(keys)
    out = cached_rows(path, keys, compute, compute.report)
    return out[:, 0].astype(int).tolist(), compute.asked


def test_only_what_is_new_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "text"
    assert rows(path, ["a", "bb", "ccc"]) == ([1, 2, 3], ["a", "bb", "ccc"])
    assert rows(path, ["ccc", "a"]) == ([3, 1], [])
    assert rows(path, ["dddd", "bb"]) == ([4, 2], ["dddd"])
    assert rows(path, ["a", "bb", "ccc", "dddd"]) == ([1, 2, 3, 4], [])


def test_an_interruption_keeps_what_was_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch_train.cache.AT_A_TIME", 2)
    path, keys = tmp_path / "text", ["a", "bb", "ccc", "dddd", "eeeee"]
    first = Counting(keys)
    first.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        cached_rows(path, keys, first, first.report)
    assert first.told == [("counting", 2, 5), ("counting", 4, 5)], "parts are told as parts of the whole"
    assert rows(path, keys) == ([1, 2, 3, 4, 5], ["eeeee"])


@pytest.mark.parametrize("suffix", [".json", ".npy"])
@pytest.mark.parametrize("content", [None, b"", b"junk", b"[1]", b"{}"])
def test_a_damaged_pair_is_computed_anew(tmp_path: Path, suffix: str, content: bytes | None) -> None:
    path = tmp_path / "text"
    rows(path, ["a", "bb"])
    damaged = path.with_suffix(suffix)
    if content is None:
        damaged.unlink()
    else:
        damaged.write_bytes(content)
    assert rows(path, ["a", "bb"]) == ([1, 2], ["a", "bb"])
    assert rows(path, ["a", "bb"]) == ([1, 2], [])


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSEARCH_FAILPOINT", "cache.write:enospc")
    with pytest.raises(StorageError, match="disk is full"):
        rows(tmp_path / "text", ["a"])
    monkeypatch.delenv("CLIPSEARCH_FAILPOINT")
    assert rows(tmp_path / "text", ["a"]) == ([1], ["a"])


def test_samples_that_shards_number_alike_are_told_apart() -> None:
    samples = [
        Sample(key, image, "", (), ()) for key, image in (("0", b"x"), ("0", b"y"), ("1", b"x"), ("0", b"x"))
    ]
    keys = sample_keys(samples)
    assert keys[2] == "1", "a key of its own stays as it is"
    assert keys[0] == keys[3] != keys[1]
