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


def test_what_cannot_be_used_is_counted_and_named(photos: Path) -> None:
    rows = [
        '{"image": "a.jpg", "caption": "one"}',
        '{"image": "gone.jpg", "caption": "two"}',
        '{"image": "a.jpg", "captions": [{"no": "text"}]}',
        '{"caption": "three"}',
        '{"image": "b, too.jpg"}',
        "junk",
    ]
    (photos / "c.jsonl").write_text("\n".join(rows))
    dataset = from_captions(photos / "c.jsonl")
    assert [(item.key, item.captions) for item in dataset.items] == [("a.jpg", ("one",))]
    assert dataset.remarks == (
        "c: left out 1 with unreadable text (line 3), 2 without a file name (line 4, line 6), "
        "1 without a caption (line 5), 1 that are not there (gone.jpg).",
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.tsv", "away.jpg\tone\ngone.jpg\ttwo\n", r"None of the 2 images .* \(away.jpg, gone.jpg\)"),
        ("c.tsv", "a.jpg\n", r"holds no caption \(left out: 1 without a file name \(line 1\)\)"),
        ("c.csv", 'a.jpg,"one\n', "is not a table"),
        ("c.csv", "", "holds no caption"),
        ("c.jsonl", '{"image": "a.jpg"}\n', r"1 without a caption \(line 1\)"),
        ("c.jsonl", "a.jpg\n", "holds no caption"),
        ("c.json", "[1]", "cannot be read as a file of captions"),
        ("c.json", '{"images": [{"filename": "a.jpg"}]}', "cannot be read as a file of captions"),
        ("c.doc", "a.jpg one", "which captions can be read from"),
        ("c.tsv", b"a.jpg\t\xff\n", r"is not UTF-8 \(line 1\)"),
    ],
)
def test_mistakes_are_told(photos: Path, name: str, content: str | bytes, message: str) -> None:
    file = photos / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TrainingError, match=message):
        from_captions(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read: No such file"):
        from_captions(tmp_path / "none.csv")


def test_one_image_by_several_names(photos: Path) -> None:
    name = next(path.name for path in sorted(photos.rglob("*")) if path.suffix in (".jpg", ".png"))
    folder = next(photos.rglob(name)).parent
    rows = [f"{name}\tone", f"./{name}\ttwo", f".\\{name}\tthree", f"{'x' * 300}.jpg\tfour"]
    (folder / "names.tsv").write_text("file\tcaption\n" + "\n".join(rows))
    dataset = from_captions(folder / "names.tsv")
    assert [(item.key, item.captions) for item in dataset.items] == [(name, ("one", "two", "three"))]
    assert "left out 1 that are not there" in dataset.remarks[0]


def test_a_line_of_json_ends_where_json_says(photos: Path) -> None:
    name = next(path.name for path in sorted(photos.rglob("*")) if path.suffix in (".jpg", ".png"))
    file = next(photos.rglob(name)).parent / "lines.jsonl"
    file.write_text(json.dumps({"file": name, "caption": "one\u2028two"}, ensure_ascii=False) + "\r\n")
    assert from_captions(file).captions == ["one\u2028two"]
