from pathlib import Path

import pytest
from PIL import Image

from clipsearch.errors import TrainingError
from clipsearch_train.data import decode
from clipsearch_train.folders import read_folder
from clipsearch_train.recipe_data import Folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    place = tmp_path / "photos"
    (place / "pets" / "old_cats").mkdir(parents=True)
    (place / ".trash").mkdir()
    for name in ("a.jpg", "b.PNG", "pets/c.webp", "pets/old_cats/d.jpg", ".hidden.jpg", ".trash/e.jpg"):
        Image.new("RGB", (20, 10), "red").save(place / name)
    (place / "notes.md").write_text("no image")
    return tmp_path


def captions_of(
    data: Path, content: str | bytes, name: str = "captions.tsv"
) -> tuple[dict[str, object], str]:
    """What is said of each image, and what was left out."""
    (data / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    samples, report = read_folder(data, Folder("photos", name))
    return {sample.key: (sample.captions, sample.labels) for sample in samples if sample.told}, str(report)


TABLES = {
    "tsv": 'a.jpg\ta "red" dog\npets/c.webp\ta cat\na.jpg\twet, and red\na.jpg\twet, and red\n',
    "csv": 'file,caption\na.jpg,"a ""red"" dog"\npets/c.webp,a cat\na.jpg,"wet, and red"\n',
    "more columns.csv": '\ufeffid,filepath,title\n1,a.jpg,"a ""red"" dog"\n2,pets/c.webp,a cat\n'
    '3,a.jpg,"wet, and red"',
    "two captions.csv": 'image,caption,caption\r\na.jpg,"a ""red"" dog","wet, and red"\r\n'
    "pets/c.webp,a cat,\r\n",
    "semicolons.csv": 'file;caption\na.jpg;"a ""red"" dog"\npets/c.webp;a cat\na.jpg;wet, and red\n',
    "as Flickr8k has it.txt": 'image,caption\na.jpg,"a ""red"" dog"\npets/c.webp,a cat\n'
    'a.jpg,"wet, and red"\n',
    "tabs.txt": 'a.jpg\ta "red" dog\npets/c.webp\ta cat\na.jpg\twet, and red\n',
    "jsonl": '{"file_name": "a.jpg", "captions": ["a \\"red\\" dog", "wet, and red"]}\n\n'
    '{"file": "./pets/c.webp", "text": "a cat"}\n',
}


@pytest.mark.parametrize(("name", "content"), TABLES.items(), ids=TABLES)
def test_captions_files(photos: Path, name: str, content: str) -> None:
    told, left_out = captions_of(photos, content, f"captions.{name.rpartition('.')[2]}")
    assert told == {"a.jpg": (('a "red" dog', "wet, and red"), ()), "pets/c.webp": (("a cat",), ())}
    assert left_out == "none"


def test_labels(photos: Path) -> None:
    told, _ = captions_of(photos, "path,label\na.jpg,dog\na.jpg,wet\n", "c.csv")
    assert told == {"a.jpg": ((), ("dog", "wet"))}
    told, _ = captions_of(photos, '{"image": "b.PNG", "labels": ["x", 3], "caption": "y"}', "c.jsonl")
    assert told == {"b.PNG": (("y",), ("x", "3"))}
    samples, _ = read_folder(photos, Folder("photos", folder_labels=True, source="mine"))
    assert {sample.key: sample.labels for sample in samples} == {
        "a.jpg": (),
        "b.PNG": (),
        "pets/c.webp": ("pets",),
        "pets/old_cats/d.jpg": ("old cats",),
    }
    assert {sample.source for sample in samples} == {"mine"}


def test_text_files_beside_the_images(photos: Path) -> None:
    (photos / "photos" / "a.txt").write_text("a dog\n\n  a wet dog \n", encoding="utf-8")
    (photos / "photos" / "pets" / "c.txt").write_bytes("une bête".encode("latin-1"))
    samples, report = read_folder(photos, Folder("photos"))
    assert [(sample.key, sample.captions) for sample in samples] == [
        ("a.jpg", ("a dog", "a wet dog")),
        ("b.PNG", ()),
        ("pets/c.webp", ()),
        ("pets/old_cats/d.jpg", ()),
    ]
    assert str(report) == "1 with unreadable text (pets/c.webp)"
    assert decode(samples[0].image).size == (20, 10)
    assert samples[0].source == "photos"


def test_names_that_lead_elsewhere_are_never_opened(photos: Path) -> None:
    Image.new("RGB", (9, 9)).save(photos / "evil.jpg")
    rows = ["../evil.jpg", "pets/../../evil.jpg", str(photos / "evil.jpg"), "..\\evil.jpg", "a.jpg\0"]
    told, left_out = captions_of(photos, "".join(f"{row}\tx\n" for row in rows) + "a.jpg\tfine\n")
    assert told == {"a.jpg": (("fine",), ())}
    assert left_out.startswith("5 named outside the folder (../evil.jpg, pets/../../evil.jpg")


def test_rows_that_cannot_be_used_are_counted_and_named(photos: Path) -> None:
    told, left_out = captions_of(
        photos, "a.jpg\tfine\ngone.jpg\tx\nb.PNG\none\ttoo\tmany\n\tno name\nnotes.md\tx\n"
    )
    assert told == {"a.jpg": (("fine",), ())}
    assert left_out == (
        "2 that are not there (gone.jpg, notes.md), "
        "3 without a file name (captions.tsv line 3, captions.tsv line 4, captions.tsv line 5)"
    )
    rows = [
        '{"file": "a.jpg", "caption": {"x": 1}}',
        '{"file": 3}',
        "[]",
        "{broken",
        '{"file": "b.PNG", "text": "y"}',
    ]
    told, left_out = captions_of(photos, "\n".join(rows), "c.jsonl")
    assert told == {"b.PNG": (("y",), ())}
    assert left_out == (
        "1 with unreadable text (a.jpg), "
        "3 without a file name (c.jsonl line 2, c.jsonl line 3, c.jsonl line 4)"
    )


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (Folder("none"), "There is no folder of images"),
        (Folder("photos/a.jpg"), "There is no folder of images"),
        (Folder("empty"), "There is no image in"),
        (Folder("photos", "none.csv"), "none.csv cannot be read: No such file"),
        (Folder("photos", "captions.xlsx"), "is none of .csv, .tsv and .jsonl"),
        (Folder("photos", "latin.csv"), r"latin\.csv is not UTF-8 \(line 2\)"),
        (Folder("photos", "huge.csv"), r"huge\.csv is not a table \(line 1\)"),
        (Folder("photos", "open.csv"), r"open\.csv is not a table \(line 3\)"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(photos: Path, folder: Folder, message: str) -> None:
    (photos / "empty").mkdir()
    (photos / "open.csv").write_text('a.jpg,"never closed\na.jpg,two\na.jpg,three\n')
    (photos / "latin.csv").write_bytes("a.jpg,x\nb.PNG,bête\n".encode("latin-1"))
    (photos / "huge.csv").write_text(f"a.jpg,{'x' * 200_000}\n")
    with pytest.raises(TrainingError, match=message):
        read_folder(photos, folder)


def test_limit(photos: Path) -> None:
    assert len(read_folder(photos, Folder("photos"), limit=2)[0]) == 2
