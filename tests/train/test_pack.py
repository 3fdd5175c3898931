"""Shards from folders: what they hold, that they are whole or not there, that a stopped run goes on."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from clipsearch.errors import StorageError, TrainingError, UsageError
from clipsearch_train import pack as packing_module
from clipsearch_train.data import decode, read_shards
from clipsearch_train.pack import Packing, pack
from clipsearch_train.recipe_data import Folder
from tests.train.conftest import COLOURS

COMMAND = [sys.executable, "-c", "from clipsearch.cli.main import run; run()"]


def quiet(*_: object) -> None:
    pass


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 photos with two captions each, one of them a copy, one corrupt, one of which nothing is said."""
    place = tmp_path / "photos"
    place.mkdir()
    lines = []
    for number in range(24):
        name = list(COLOURS)[number % 6]
        Image.new("RGB", (90 + number, 40), COLOURS[name]).save(place / f"{number:02}.jpg")
        lines += [f"{number:02}.jpg\ta {name} square", f"{number:02}.jpg\tthe colour {name}"]
    (place / "copy.jpg").write_bytes((place / "03.jpg").read_bytes())
    (place / "bad.jpg").write_bytes(b"no image")
    Image.new("RGB", (9, 9)).save(place / "untold.png")
    lines += ["copy.jpg\ta copy", "bad.jpg\tx", "../evil.jpg\tx", "gone.jpg\tx"]
    (tmp_path / "captions.tsv").write_text("\n".join(lines))
    return tmp_path


def packed(photos: Path, **options: float) -> packing_module.Packed:
    settings = Packing(size=32, per_shard=10, **options)  # type: ignore[arg-type]
    return pack(Folder(str(photos / "photos"), str(photos / "captions.tsv")), photos / "out", settings, quiet)


def content(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }


def test_shards_hold_every_sample_once(photos: Path) -> None:
    result = packed(photos, val=0.2)
    assert (result.samples["train"], result.samples["val"]) == (20, 5)
    assert (result.shards["train"], result.shards["val"]) == (3, 1)
    assert str(result.skipped) == (
        "1 named outside the folder (../evil.jpg), 1 that are not there (gone.jpg), "
        "1 without a caption or label (untold.png), 1 that cannot be decoded (bad.jpg)"
    )
    out = photos / "out"
    assert sorted(path.name for path in out.glob("*/*")) == [
        "photos-00000.tar",
        "photos-00000.tar",
        "photos-00001.tar",
        "photos-00002.tar",
    ]
    train, _ = read_shards(sorted(out.glob("train/*.tar")))
    val, _ = read_shards(sorted(out.glob("val/*.tar")))
    assert len({sample.key for sample in train + val}) == 25
    told = {sample.captions for sample in train + val}
    assert ("a red square", "the colour red") in told
    image = decode(train[0].image)
    assert min(image.size) == 32
    assert image.width / image.height > 2
    with tarfile.open(out / "train" / "photos-00000.tar") as archive:
        texts = [json.load(archive.extractfile(m)) for m in archive if m.name.endswith(".json")]  # type: ignore[arg-type]
    assert texts[0]["source"] == "photos"
    assert texts[0]["file"].endswith(".jpg")
    assert [text["file"] for text in texts] != sorted(text["file"] for text in texts), "mixed"


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5])
def test_copies_are_never_on_both_sides(photos: Path, share: float) -> None:
    packed(photos, val=share)
    files: dict[str, set[str]] = {}
    for part in ("train", "val"):
        for path in sorted((photos / "out" / part).glob("*.tar")):
            with tarfile.open(path) as archive:
                files.setdefault(part, set()).update(
                    json.load(archive.extractfile(m))["file"]  # type: ignore[arg-type]
                    for m in archive
                    if m.name.endswith(".json")
                )
    assert len({"03.jpg", "copy.jpg"} & files["val"]) in (0, 2)


def test_the_same_images_give_the_same_shards(photos: Path) -> None:
    packed(photos, val=0.2)
    first = content(photos / "out")
    for path in (photos / "out").rglob("*.tar"):
        path.unlink()
    (photos / "out" / "photos.json").unlink()
    packed(photos, val=0.2)
    assert content(photos / "out") == first


@pytest.mark.parametrize("point", ["shard.write:kill:2", "shard.renamed:kill:1", "manifest.write:kill:2"])
def test_a_run_that_was_killed_goes_on(photos: Path, point: str) -> None:
    packed(photos, val=0.2)
    whole = content(photos / "out")
    for name in whole:
        (photos / "out" / name).unlink()
    arguments = ["shards", "make", "photos", "--captions", "captions.tsv", "--out", "out"]
    options = ["--size", "32", "--per-shard", "10", "--val", "0.2"]
    killed = subprocess.run(
        [*COMMAND, *arguments, *options],
        cwd=photos,
        env={**os.environ, "CLIPSEARCH_FAILPOINT": point},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    written: list[str] = []
    plain = packing_module._write_shard
    try:
        packing_module._write_shard = lambda path, *rest: written.append(path.name) or plain(path, *rest)  # type: ignore[assignment,func-returns-value]
        result = packed(photos, val=0.2)
    finally:
        packing_module._write_shard = plain
    left = content(photos / "out")
    assert {name for name in left if name.endswith(".tar")} == {
        name for name in whole if name.endswith(".tar")
    }
    assert all(left[name] == whole[name] for name in whole if name.endswith(".tar"))
    assert not [name for name in left if name.endswith(".tmp")], "what was half-written is gone"
    assert (
        len(written)
        == {"shard.write:kill:2": 3, "shard.renamed:kill:1": 4, "manifest.write:kill:2": 3}[point]
    )
    assert result.samples.total() == 25
    assert "bad.jpg" in str(result.skipped), "what was left out is known, whoever left it out"


def test_a_full_disk_is_a_sentence_and_loses_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSEARCH_FAILPOINT", "shard.write:enospc:2")
    with pytest.raises(StorageError, match="disk is full"):
        packed(photos)
    monkeypatch.delenv("CLIPSEARCH_FAILPOINT")
    assert len(content(photos / "out")) == 2, "one shard and the manifest"
    assert packed(photos).samples["train"] == 25


def test_shards_of_other_images_are_not_touched(photos: Path) -> None:
    packed(photos)
    before = content(photos / "out")
    (photos / "captions.tsv").write_text("00.jpg\tanother caption\n")
    with pytest.raises(UsageError, match=r"photos\.json belongs to shards that were made from other images"):
        packed(photos)
    (photos / "out" / "photos.json").write_text("junk")
    with pytest.raises(UsageError, match="belongs to shards"):
        packed(photos)
    assert {name: before[name] for name in before if name.endswith(".tar")} == {
        name: data for name, data in content(photos / "out").items() if name.endswith(".tar")
    }


def test_nothing_to_pack_is_a_sentence(photos: Path) -> None:
    with pytest.raises(TrainingError, match=r"Nothing is said about any image in .*--captions"):
        pack(Folder(str(photos / "photos")), photos / "out", Packing(), quiet)
    with pytest.raises(TrainingError, match="There is no folder of images"):
        pack(Folder(str(photos / "none")), photos / "out", Packing(), quiet)
    assert not (photos / "out").exists()


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"quality": 101}, {"val": 1.0}, {"val": -0.1}, {"per_shard": 0}]
)
def test_numbers_that_make_no_sense(photos: Path, options: dict[str, float]) -> None:
    name = next(iter(options)).replace("_", "-")
    with pytest.raises(UsageError, match=f"--{name} must be from"):
        pack(Folder(str(photos / "photos")), photos / "out", Packing(**options), quiet)  # type: ignore[arg-type]


def test_the_command(photos: Path) -> None:
    arguments = ["shards", "make", "photos", "--captions", "captions.tsv", "--out", "out", "--val", "0.2"]
    done = subprocess.run([*COMMAND, *arguments], cwd=photos, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "20 samples in 1 shard in out/train." in done.stderr
    assert "5 samples in 1 shard in out/val." in done.stderr
    assert "1 that cannot be decoded (bad.jpg)" in done.stderr
    wrong = subprocess.run(
        [*COMMAND, "shards", "make", "photos", "--captions", "none.csv", "--out", "out"],
        cwd=photos,
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 16
    assert "none.csv cannot be read" in wrong.stderr


def test_what_gives_no_sample_to_train_on_is_told(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "bad.jpg").write_bytes(b"no image")
    folder = Folder(str(tmp_path), folder_labels=True)
    with pytest.raises(TrainingError, match="None of the 1 images can be used"):
        pack(folder, tmp_path / "out", Packing(size=32), quiet)
    (tmp_path / "cat" / "bad.jpg").unlink()
    Image.new("RGB", (9, 9)).save(tmp_path / "cat" / "one.jpg")
    with pytest.raises(TrainingError, match="A single image is not enough to train on and to validate"):
        pack(folder, tmp_path / "other", Packing(size=32, val=0.1), quiet)
