import json
from pathlib import Path

import pytest

from clipsearch.errors import TrainingError
from clipsearch_train.evaluation.captions import from_captions


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b, too.jpg"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.tsv", 'a.jpg\tone "quoted\na.jpg\ttwo\nb, too.jpg\tthree\n'),
        ("c.csv", 'a.jpg,"one ""quoted"\na.jpg,two\n"b, too.jpg",three\n'),
        ("c.csv", 'id,caption,image\n1,"one ""quoted",a.jpg\n2,two,a.jpg\n\n3,three,"b, too.jpg"\n'),
        ("c.CSV", '\ufeffimage,caption\na.jpg,"one ""quoted"\na.jpg, two\n"b, too.jpg",three\na.jpg,\n'),
        (
            "c.jsonl",
            '{"image": "a.jpg", "captions": ["one \\"quoted", "two"]}\n\n'
            '{"file_name": "b, too.jpg", "text": "three"}\n',
        ),
    ],
    ids=["tsv", "csv", "columns", "bom", "jsonl"],
)
def test_files_of_captions(photos: Path, name: str, content: str) -> None:
    file = photos / name
    file.write_text(content, encoding="utf-8")
    dataset = from_captions(file)
    assert dataset.name == "c"
    assert {item.key: item.captions for item in dataset.items} == {
        "a.jpg": ('one "quoted', "two"),
        "b, too.jpg": ("three",),
    }
    assert dataset.items[0].image == photos / "a.jpg"
    assert dataset.captioned


def test_karpathys_splits(photos: Path, tmp_path: Path) -> None:
    (photos / "val2014").mkdir()
    (photos / "val2014" / "c.jpg").touch()
    file = tmp_path / "elsewhere" / "dataset_coco.json"
    file.parent.mkdir()
    images = [
        {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "one"}, {"raw": "two"}]},
        {"filename": "b, too.jpg", "split": "train", "sentences": [{"raw": "three"}]},
        {"filename": "c.jpg", "filepath": "val2014", "split": "test", "sentences": [{"raw": "four"}]},
    ]
    file.write_text(json.dumps({"images": images, "dataset": "coco"}))
    assert from_captions(file, photos).captions == ["one", "two", "four"]
    assert [item.key for item in from_captions(file, photos, split="train").items] == ["b, too.jpg"]
    assert len(from_captions(file, photos, split="").items) == 3
    with pytest.raises(TrainingError, match="no caption of the split 'val'"):
        from_captions(file, photos, split="val")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.tsv", "a.jpg\tone\ngone.jpg\ttwo\n", r"1 of the 2 images that .* are not in .* \(gone.jpg\)"),
        ("c.tsv", "a.jpg\n", "line 1 has no caption"),
        ("c.csv", 'a.jpg,"one\n', "cannot be read as a file of captions"),
        ("c.csv", "", "holds no caption"),
        ("c.jsonl", '{"image": "a.jpg"}\n', "line 1 has no image or no caption"),
        ("c.jsonl", "a.jpg\n", "cannot be read as a file of captions"),
        ("c.jsonl", "[1]\n", "cannot be read as a file of captions"),
        ("c.json", "[1]", "cannot be read as a file of captions"),
        ("c.json", '{"images": [{"filename": "a.jpg"}]}', "cannot be read as a file of captions"),
        ("c.txt", "a.jpg one", "none of the files of captions that can be read"),
        ("c.tsv", b"a.jpg\t\xff\n", "cannot be read as a file of captions"),
    ],
)
def test_mistakes_are_told(photos: Path, name: str, content: str | bytes, message: str) -> None:
    file = photos / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TrainingError, match=message):
        from_captions(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="No such file"):
        from_captions(tmp_path / "none.csv")
