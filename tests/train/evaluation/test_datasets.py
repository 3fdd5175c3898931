import json
import os
from pathlib import Path

import pytest

from clipsearch.errors import TrainingError
from clipsearch_train.evaluation.datasets import (
    Dataset,
    Item,
    from_class_folders,
    from_shards,
    matching_classes,
    read_names,
)
from tests.train.conftest import colour_members, write_tar


def test_shards_give_a_data_set_for_each_source(tmp_path: Path) -> None:
    told = {"source": "plain", "labels": ["b", "other"]}
    members = {"x.png": b"1", "x.json": json.dumps(told).encode(), "y.png": b"2", "y.txt": b"a caption"}
    captioned, labelled, bare = from_shards(
        [
            write_tar(tmp_path / "a.tar", colour_members(3)),
            write_tar(tmp_path / "b.tar", members),
        ]
    )
    assert (captioned.name, captioned.captioned, captioned.labelled) == ("colours", True, False)
    assert captioned.captions[:2] == ["a red square", "the colour red"]
    assert captioned.image_of_caption.tolist() == [0, 0, 1, 1, 2, 2]
    assert (labelled.name, labelled.class_names, labelled.labels.tolist()) == ("plain", ("b",), [0])
    assert (bare.name, bare.captions) == ("", ["a caption"])


def test_what_is_left_out_of_shards_is_counted_and_named(tmp_path: Path) -> None:
    members = {"alone.json": b'{"captions": "no image"}', "bad.png": b"1", "bad.json": b"{"}
    shard = write_tar(tmp_path / "a.tar", colour_members(3) | members)
    (dataset,) = from_shards([shard])
    assert len(dataset.items) == 3
    (told,) = dataset.remarks
    assert told.startswith("a.tar: left out ")
    assert "1 without an image (alone)" in told
    assert "1 with unreadable text (bad)" in told
    assert from_shards([write_tar(tmp_path / "b.tar", colour_members(3))])[0].remarks == ()


def test_numbers_of_classes_are_those_of_the_names_beside_the_shard(tmp_path: Path) -> None:
    told = {"source": "plain_val", "label": "told otherwise", "class_index": 2}
    shard = write_tar(tmp_path / "a.tar", {"x.png": b"1", "x.json": json.dumps(told).encode()})
    assert from_shards([shard])[0].class_names == ("told otherwise",)
    (tmp_path / "plain_names.json").write_text('["a", "b", "c"]')
    dataset = from_shards([shard])[0]
    assert (dataset.class_names, dataset.labels.tolist()) == (("a", "b", "c"), [2])


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_class_folders(tmp_path: Path) -> None:
    root = tmp_path / "animals"
    touch(root / "tabby_cat" / "b.JPG", root / "tabby_cat" / "deep" / "a.png", root / "dog" / "c.heic")
    touch(root / "tabby_cat" / "notes.txt", root / ".hidden" / "d.jpg", root / "stray.jpg")
    dataset = from_class_folders(root)
    assert dataset.name == "animals"
    assert dataset.class_names == ("dog", "tabby cat")
    assert [(item.key, item.label) for item in dataset.items] == [
        ("dog/c.heic", 0),
        ("tabby_cat/b.JPG", 1),
        ("tabby_cat/deep/a.png", 1),
    ]
    assert from_class_folders(root, ["hound", "cat"]).class_names == ("hound", "cat")


def test_class_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no folder"):
        from_class_folders(tmp_path / "none")
    with pytest.raises(TrainingError, match="holds no folders"):
        from_class_folders(tmp_path)
    touch(tmp_path / "dog" / "a.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match=r"class folder .*/empty holds no image"):
        from_class_folders(tmp_path)
    touch(tmp_path / "empty" / "a.jpg")
    with pytest.raises(TrainingError, match="holds 2 class folders, and 1 names are given"):
        from_class_folders(tmp_path, ["dog"])
    with pytest.raises(TrainingError, match=r"class 'dog' is there twice, as 'dog' and 'empty'"):
        from_class_folders(tmp_path, ["Dog", "dog"])
    touch(tmp_path / "big_dog" / "a.jpg", tmp_path / "Big dog" / "a.jpg")
    with pytest.raises(TrainingError, match=r"'big dog' is there twice, as 'Big dog' and 'big_dog'"):
        from_class_folders(tmp_path)


def test_names_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("tabby cat\n\n dog \n")
    assert read_names(path) == ["tabby cat", "dog"]
    for content, message in (("[1]", "not a list"), ('{"a": 1}', "not a list"), ("[]", "names no class")):
        path = tmp_path / "names.json"
        path.write_text(content)
        with pytest.raises(TrainingError, match=message):
            read_names(path)


def labelled(name: str, classes: tuple[str, ...], labels: list[int]) -> Dataset:
    return Dataset(name, tuple(Item(str(n), b"", label=label) for n, label in enumerate(labels)), classes)


def test_a_data_set_needs_images_and_labels_that_are_classes() -> None:
    with pytest.raises(TrainingError, match="empty holds no image"):
        Dataset("empty", ())
    with pytest.raises(TrainingError, match="1 of animals is of the class number 2, which is none of the 2"):
        labelled("animals", ("cat", "dog"), [0, 2])


def test_classes_are_matched_by_name() -> None:
    dataset = matching_classes(
        labelled("sketches", ("Dog", "cat", "unused"), [0, 1, 0]), ("cat", "cow", "dog")
    )
    assert (dataset.labels.tolist(), dataset.class_names) == ([2, 0, 2], ("cat", "cow", "dog"))
    with pytest.raises(TrainingError, match=r"sketches has classes that the others do not have \(dog, fox\)"):
        matching_classes(labelled("sketches", ("dog", "fox"), [0, 1]), ("cat",))
    same = labelled("a", ("crane", "crane"), [0, 1])
    assert matching_classes(same, ("crane", "crane")).labels.tolist() == [0, 1]
    assert same.ambiguous() == ["crane"]


def test_the_digest_tells_questions_apart() -> None:
    digests = {
        labelled("a", ("cat", "dog"), [0, 1]).digest,
        labelled("a", ("cat", "dog"), [1, 1]).digest,
        labelled("a", ("cat", "cow"), [0, 1]).digest,
        labelled("a", ("cat", "dog"), [0, 1]).keep([0]).digest,
        Dataset("a", (Item("0", b"", ("x",)), Item("1", b""))).digest,
    }
    assert len(digests) == 5
    assert labelled("b", ("cat", "dog"), [0, 1]).digest in digests


def test_hidden_files_and_marks_of_windows_editors_do_not_count(tmp_path: Path) -> None:
    touch(tmp_path / "ant" / "a.jpg", tmp_path / "ant" / ".thumbs" / "a.jpg", tmp_path / "ant" / "._a.jpg")
    assert [item.key for item in from_class_folders(tmp_path).items] == ["ant/a.jpg"]
    for name, content in {"names.txt": "red\nblue\n", "names.json": '["red", "blue"]'}.items():
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert read_names(tmp_path / name) == ["red", "blue"]


def test_names_of_folders_that_are_not_utf_8(tmp_path: Path) -> None:
    touch(tmp_path / os.fsdecode(b"caf\xe9") / "a.jpg")
    assert from_class_folders(tmp_path).class_names == ("caf\ufffd",)
