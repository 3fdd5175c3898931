import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from clipsearch.errors import TrainingError
from clipsearch_train.data import decode, find_shards, read_shards
from tests.train.conftest import colour_members, encoded, write_tar

SQUARE = encoded(Image.new("RGB", (8, 8), "red"), "png")


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_samples_come_in_order_with_their_texts(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar.gz", colour_members(5))
    samples, report = read_shards([shard])
    assert [sample.key for sample in samples] == ["0000", "0001", "0002", "0003", "0004"]
    assert samples[1].captions == ("a green square", "the colour green")
    assert samples[1].labels == ("green",)
    assert samples[1].source == "colours"
    assert decode(samples[1].image).size == (48, 40)
    assert report.samples == 5
    assert str(report) == "none"


@pytest.mark.parametrize(
    ("members", "captions", "labels"),
    [
        ({"a.txt": b"a dog\n"}, ("a dog",), ()),
        ({"a.json": b'{"caption": "a dog"}'}, ("a dog",), ()),
        ({"a.json": b'{"caption": "a dog"}', "a.txt": b"a cat"}, ("a dog",), ()),
        ({"a.json": b'{"captions": []}', "a.txt": b"a dog"}, ("a dog",), ()),
        ({"a.json": b'{"captions": "a dog", "label": 3}'}, ("a dog",), ("3",)),
        ({"a.json": b'{"captions": ["", " a dog "], "labels": null}'}, ("a dog",), ()),
        ({}, (), ()),
    ],
)
def test_texts_of_a_sample(
    tmp_path: Path, members: dict[str, bytes], captions: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    sample = read_shards([write_tar(tmp_path / "a.tar", {"a.png": SQUARE, **members})])[0][0]
    assert sample.captions == captions
    assert sample.labels == labels


def test_class_index_and_folders_in_keys(tmp_path: Path) -> None:
    text = json.dumps({"labels": ["cat"], "class_index": 7}).encode()
    shard = write_tar(tmp_path / "a.tar", {"x.y/0.seg.png": b"?", "x.y/1.PNG": SQUARE, "x.y/1.json": text})
    samples, report = read_shards([shard])
    assert [(sample.key, sample.label_index) for sample in samples] == [("x.y/1", 7)]
    assert report.skipped == {"without an image": ["x.y/0"]}


@pytest.mark.parametrize(
    "text",
    [b"no json", b"[]", b'{"captions": 3.5}', b'{"captions": [["x"]]}', b'{"class_index": "x"}', b"\xff"],
)
def test_unreadable_texts_are_counted_and_named(tmp_path: Path, text: bytes) -> None:
    members = {"a.png": SQUARE, "a.json": text, "b.png": SQUARE, "b.txt": b"fine"}
    samples, report = read_shards([write_tar(tmp_path / "a.tar", members)])
    assert [sample.key for sample in samples] == ["b"]
    assert str(report) == "1 with unreadable text (a)"


def test_limit_counts_each_shard(tmp_path: Path) -> None:
    shards = [write_tar(tmp_path / name, colour_members(5)) for name in ("a.tar", "b.tar")]
    assert len(read_shards(shards, 2)[0]) == 4


def test_pickles_in_a_tar_are_never_opened(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    bomb = pickle.dumps(Bomb(touched))
    members = {f"a.{extension}": bomb for extension in ("pyd", "pkl", "pickle", "pth", "npy", "cls")}
    samples, _ = read_shards([write_tar(tmp_path / "a.tar", {"a.png": SQUARE, **members, "a.txt": b"x"})])
    assert samples[0].captions == ("x",)
    assert not touched.exists()
    pickle.loads(bomb)
    assert touched.exists()  # the bomb is real


def test_keys_are_never_paths_and_links_never_followed(tmp_path: Path) -> None:
    """Nothing of a shard is written anywhere, and what it only points to is no part of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(SQUARE)
    keys = ["../../evil", f"{outside}/evil", "a/../../../evil", "C:\\evil", "x/./y"]
    shard = tmp_path / "deep" / "shards" / "a.tar"
    shard.parent.mkdir(parents=True)
    with tarfile.open(shard, "w") as archive:
        for key in keys:
            for name, content in ((f"{key}.png", SQUARE), (f"{key}.txt", b"a dog")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"link{number}.png")
            member.type, member.linkname = kind, str(outside / "secret.png")
            archive.addfile(member)
    before = sorted(tmp_path.rglob("*"))
    samples, _ = read_shards([shard])
    assert [sample.key for sample in samples] == keys
    assert all(sample.image == SQUARE and sample.captions == ("a dog",) for sample in samples)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["pipe:touch touched", "missing.tar", "http://localhost/a.tar", "{0..1}.tar"]
)
def test_only_local_files_are_shards(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match="There is no shard"):
        read_shards([Path(name)])
    assert list(tmp_path.iterdir()) == []


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar.gz", colour_members(12)).read_bytes()
    plain = write_tar(tmp_path / "whole.tar", colour_members(12)).read_bytes()
    for content in (
        b"",
        b"not a tar" * 100,
        whole[: len(whole) // 2],
        plain[:5000],
        whole[:200] + b"x" * 400,
    ):
        path = tmp_path / "damaged.tar"
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=r"damaged\.tar is not a whole tar shard"):
            read_shards([path])


def test_a_tar_without_samples_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"No usable sample in .*empty\.tar"):
        read_shards([write_tar(tmp_path / "empty.tar", {})])
    with pytest.raises(TrainingError, match="No usable sample"):
        read_shards([write_tar(tmp_path / "texts.tar", {"a.txt": b"x", "README": b"y"})])


def test_patterns_that_match_nothing_are_named(colours: Path) -> None:
    assert [path.name for path in find_shards(colours, ("train/*.tar", "val/*.tar"))] == ["a.tar", "b.tar"]
    with pytest.raises(TrainingError, match=r"No file matches 'train/\*.gz'"):
        find_shards(colours, ("train/*.gz",))
    with pytest.raises(TrainingError, match="not a pattern"):
        find_shards(colours, ("/etc/*",))


@pytest.mark.parametrize("content", [b"", b"x", SQUARE[:40], b"GIF89a" + b"\0" * 40])
def test_what_is_no_image_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="not an image"):
        decode(content)
