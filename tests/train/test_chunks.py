"""Shards that are read in pieces give the samples that reading them whole gives."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from clipsearch.errors import TrainingError
from clipsearch_train import chunks
from clipsearch_train.chunks import index_shards
from clipsearch_train.data import read_shards
from tests.train.conftest import colour_members, write_tar


def quiet(*_: object) -> None:
    pass


def mixed_members(count: int = 60) -> dict[str, bytes]:
    """Samples of three sources in runs, some without a text, some without an image, one with a long name."""
    members: dict[str, bytes] = {}
    for name, content in colour_members(count).items():
        number = int(name[:4])
        if name.endswith(".json"):
            text = json.loads(content) | {"source": f"s{number // 20}"}
            content = b"[]" if number == 5 else json.dumps({} if number == 7 else text).encode()
        elif number == 9:
            continue
        members[("x" * 120 + name) if number == 11 else name] = content
    return members


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 6)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("limit", [None, 1, 6, 7, 25])
def test_chunks_hold_what_the_shard_holds(tmp_path: Path, suffix: str, limit: int | None) -> None:
    shard = write_tar(tmp_path / f"a{suffix}", mixed_members())
    whole, left_out = read_shards([shard])
    told = [sample for sample in whole if sample.told]
    found, skips = index_shards([shard], limit, tmp_path / "cache" / "shards.json", quiet)
    read = [sample for chunk in found for sample in chunk.load()]
    assert read == told[:limit]
    assert [chunk.count for chunk in found] == [len(chunk.load()) for chunk in found]
    assert all({sample.source for sample in chunk.load()} == {chunk.source} for chunk in found)
    if limit is None:
        assert skips.skipped == left_out.skipped | {"without a caption or label": ["0007"]}
    if suffix == ".tar":
        assert max(chunk.count for chunk in found) <= 6


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_every_kind_of_tar_can_be_cut(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in colour_members(20).items():
            info = tarfile.TarInfo(f"{'folder' * 20}/{'ü' if kind != tarfile.USTAR_FORMAT else 'u'}{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    found, _ = index_shards([path], None, tmp_path / "shards.json", quiet)
    assert [sample for chunk in found for sample in chunk.load()] == read_shards([path])[0]
    assert len(found) == 4


def test_the_index_is_kept_for_shards_that_have_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [write_tar(tmp_path / name, colour_members(20)) for name in ("a.tar", "b.tar")]
    cache = tmp_path / "cache" / "shards.json"
    first = index_shards(shards, None, cache, quiet)
    read: list[Path] = []
    plain = chunks._index
    monkeypatch.setattr(chunks, "_index", lambda path, *rest: read.append(path) or plain(path, *rest))
    assert index_shards(shards, None, cache, quiet) == first
    assert read == []
    write_tar(shards[1], colour_members(12))
    os.utime(shards[1], ns=(1, 1))
    index_shards(shards, None, cache, quiet)
    assert read == [shards[1]]
    cache.write_text("junk")
    index_shards(shards, None, cache, quiet)
    assert read == [shards[1], *shards]


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", colour_members(20)).read_bytes()
    packed = write_tar(tmp_path / "a.tar.gz", colour_members(20)).read_bytes()
    path = tmp_path / "damaged.tar"
    for content in (b"", b"no tar" * 300, whole[: len(whole) // 2], packed[: len(packed) // 2]):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=r"damaged\.tar is not a whole tar shard"):
            index_shards([path], None, tmp_path / "shards.json", quiet)
    path.unlink()
    with pytest.raises(TrainingError, match="There is no shard"):
        index_shards([path], None, tmp_path / "shards.json", quiet)
    with pytest.raises(TrainingError, match="No usable sample"):
        index_shards([write_tar(path, {})], None, tmp_path / "shards.json", quiet)


def test_a_shard_that_changes_while_it_is_used_is_noticed(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", colour_members(20))
    found, _ = index_shards([shard], None, tmp_path / "shards.json", quiet)
    write_tar(shard, dict(list(colour_members(20).items())[:-20]))
    with pytest.raises(TrainingError, match=r"changed since the run began|not a whole tar shard"):
        [chunk.load() for chunk in found]
