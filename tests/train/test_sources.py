"""Samples in memory and streamed: the same promises, kept from any step on."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipsearch.errors import TrainingError, UsageError
from clipsearch_train import chunks
from clipsearch_train.batches import BatchSource
from clipsearch_train.data import Sample
from clipsearch_train.sources import MemorySource, Source, StreamSource, hold_out, open_source
from tests.train.conftest import colour_members, write_tar


def quiet(*_: object) -> None:
    pass


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 4)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two shards of 30 and 18 samples and a folder of 12 images, 60 in all."""
    for name, count, seed in (("a.tar", 30, 0), ("b.tar.gz", 18, 1)):
        members = {f"{name[0]}{key}": value for key, value in colour_members(count, seed).items()}
        write_tar(tmp_path / "data" / "train" / name, members)
    photos = tmp_path / "data" / "photos"
    photos.mkdir()
    for number in range(12):
        Image.new("RGB", (40, 30), (number * 20, 0, 0)).save(photos / f"{number:02}.png")
        (photos / f"{number:02}.txt").write_text(f"photo {number}")
    return tmp_path / "data"


FOLDER = '["train/*.tar*"]\nfolders = [{images = "photos"}]'
KINDS = {
    "memory": 'order = "epochs"',
    "stream": 'order = "epochs"\nstream = true\nshuffle = 16',
    "resampled stream": "stream = true\nshuffle = 16",
    "resampled": "",
}


def opened(data: Path, make_recipe: Callable[..., Any], kind: str, **more: str) -> tuple[Source, Any]:
    recipe = make_recipe(train=f"{FOLDER}\n{KINDS[kind]}", **more)
    source, _ = open_source(recipe, data, data / "cache", quiet)
    return source, recipe


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_each_sample_once_an_epoch(data: Path, make_recipe: Callable[..., Any], kind: str) -> None:
    source, _ = opened(data, make_recipe, kind)
    assert isinstance(source, StreamSource if kind == "stream" else MemorySource)
    assert source.report.samples == 60
    assert source.counts == {"colours": 48, "photos": 12}
    for epoch in range(3):
        drawn = [sample for step in range(5 * epoch, 5 * epoch + 5) for sample in source.draw(step)]
        assert sorted(row for row, _ in drawn) == list(range(60))
        assert len({sample.key for _, sample in drawn}) == 60
    source.close()


@pytest.mark.parametrize("kind", KINDS)
def test_any_step_can_be_the_first(data: Path, make_recipe: Callable[..., Any], kind: str) -> None:
    whole, recipe = opened(data, make_recipe, kind)
    course = [whole.draw(step) for step in range(12)]
    whole.close()
    for start in (0, 3, 7):
        source, _ = opened(data, make_recipe, kind)
        batches = BatchSource(source, [], recipe)
        for step in range(start, start + 3):
            assert source.draw(step) == course[step]
            assert batches.get(step).rows.tolist() == [row for row, _ in course[step]]
        batches.close()


@pytest.mark.parametrize("workers", ["1", "5"])
def test_batches_do_not_depend_on_the_number_of_threads(
    data: Path, make_recipe: Callable[..., Any], workers: str
) -> None:
    def batches(count: str) -> list[Any]:
        source, recipe = opened(data, make_recipe, "memory", min_crop=f"0.3\nflip = true\nworkers = {count}")
        made = BatchSource(source, [], recipe)
        out = [made.get(step) for step in (0, 1, 5)]
        made.close()
        return out

    for one, other in zip(batches("2"), batches(workers), strict=True):
        assert (one.pixels == other.pixels).all()
        assert one.texts == other.texts


def test_a_stream_holds_two_pools_and_no_more(data: Path, make_recipe: Callable[..., Any]) -> None:
    source, _ = opened(data, make_recipe, "stream")
    assert isinstance(source, StreamSource)
    for step in range(20):
        source.draw(step)
        held = [pending.result() for _, pending in source._pools.values()]
        # The compressed shard of 18 can only be read whole.
        assert sum(map(len, held)) <= 18 + 18
    source.close()


@pytest.mark.parametrize("kind", ["resampled", "resampled stream"])
def test_weights_of_sources(data: Path, make_recipe: Callable[..., Any], kind: str) -> None:
    source, _ = opened(data, make_recipe, kind, min_crop="1.0\nweights = {photos = 4.0}")
    seen = Counter(sample.source for step in range(150) for _, sample in source.draw(step))
    assert 0.75 < seen["photos"] / seen["colours"] < 1.25, "12 photos, four times as often, against 48"
    source.close()
    without, _ = opened(data, make_recipe, kind, min_crop="1.0\nweights = {photos = 0.0}")
    assert {sample.source for step in range(10) for _, sample in without.draw(step)} == {"colours"}
    without.close()
    with pytest.raises(UsageError, match=r"names the source 'x'; the shards hold 'colours', 'photos'"):
        opened(data, make_recipe, kind, min_crop="1.0\nweights = {x = 1.0}")


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_too_few_samples_is_a_sentence(data: Path, make_recipe: Callable[..., Any], kind: str) -> None:
    with pytest.raises(TrainingError, match="60 samples are fewer than a batch of 61"):
        opened(data, make_recipe, kind, batch="61")


def test_texts_to_learn_a_tokenizer_from(data: Path, make_recipe: Callable[..., Any]) -> None:
    texts = [sorted(opened(data, make_recipe, kind)[0].texts()) for kind in ("memory", "stream")]
    assert texts[0] == texts[1]
    assert "photo 3" in texts[0]


def test_held_out_samples_are_the_same_ones_every_time(data: Path, make_recipe: Callable[..., Any]) -> None:
    recipe = make_recipe(train=f"{FOLDER}\nhold_out = 0.2")
    source, held = open_source(recipe, data, data / "cache", quiet)
    assert isinstance(source, MemorySource)
    assert (len(source.samples), len(held)) == (48, 12)
    assert not {sample.key for sample in held} & {sample.key for sample in source.samples}
    assert open_source(recipe, data, data / "cache", quiet)[1] == held


@pytest.mark.parametrize("where", range(12))
def test_every_class_gives_its_part_of_what_is_held_out(where: int) -> None:
    def labelled(label: str, count: int) -> list[Sample]:
        keys = [f"/{where}/{label}/{n}" for n in range(count)]
        return [Sample(key, key.encode(), "folders", (), (label, "all")) for key in keys]

    few = [sample for label in "abcdef" for sample in labelled(label, 4)]
    assert len({sample.labels for sample in hold_out(few, 0.1)[1]}) == 2, (
        "wherever they lie: a class is no test"
    )
    captioned = [Sample(f"/{where}/{n}", b"%d" % n, "captions", (f"a {n}",), (f"{n}",)) for n in range(50)]
    train, held = hold_out(labelled("a", 100) + labelled("b", 30) + labelled("c", 1) + captioned, 0.1)
    assert Counter(sample.source if sample.captions else sample.labels[0] for sample in held) == {
        "a": 10,
        "b": 3,
        "captions": 5,
    }
    assert len(train) == 181 - 18


def test_what_a_sample_holds_decides_where_that_is_known() -> None:
    def photos(folder: str) -> list[Sample]:
        return [Sample(f"{folder}/{n}", b"", "photos", ("x",), (), content=f"{n:x}") for n in range(100)]

    here, there = (hold_out(photos(folder), 0.2)[1] for folder in ("/here", "/media/there"))
    assert [sample.content for sample in here] == [sample.content for sample in there]


def test_copies_of_an_image_are_all_held_out_or_none(tmp_path: Path) -> None:
    samples = []
    for number in range(40):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(b"content %d" % (number % 10))
        samples.append(Sample(path.name, path, "photos", (f"{number}",), ()))
    samples.append(Sample("gone.jpg", tmp_path / "gone.jpg", "photos", ("gone",), ()))
    train, held = hold_out(samples, 0.2)
    contents = [{sample.encoded() for sample in part if sample.key != "gone.jpg"} for part in (train, held)]
    assert not contents[0] & contents[1]
    assert 8 <= len(held) <= 11


def test_corrupt_images_are_replaced_counted_and_named(data: Path, make_recipe: Callable[..., Any]) -> None:
    (data / "photos" / "03.png").write_bytes(b"no image")
    source, recipe = opened(data, make_recipe, "memory", batch="60")
    (data / "photos" / "08.png").unlink()  # after it was listed
    made = BatchSource(source, [], recipe)
    batch = made.get(0)
    assert made.corrupt == {"03.png", "08.png"}
    assert batch.pixels.shape == (60, 32, 32, 3)
    assert len(set(batch.rows.tolist())) == 58
    made.close()
