"""One's own photos as training data: what is said of them, and the runs that begin with a library."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from clipsearch import Library
from clipsearch.encoder import load_model
from clipsearch.errors import LibraryEmpty, LibraryNotFound, ModelNotFound, TrainingError, UsageError
from clipsearch.weights import load_folder
from clipsearch_train import from_library
from clipsearch_train.from_library import folder_names, library_samples, own_words, telling
from clipsearch_train.plan import SMOKE_SAMPLES, plan_run
from clipsearch_train.recipe import load_recipe
from clipsearch_train.run import Trainer
from tests import fakes
from tests.train.conftest import COLOURS, RECIPE, make_base

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag>'
    "<rdf:li>{keyword}</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
)
PHOTOS = 36


def quiet(*_: object) -> None:
    pass


def photo(path: Path, colour: str, number: int, caption: str = "", keyword: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if caption:
        exif[0x010E] = caption
    xmp = XMP.format(keyword=keyword).encode() if keyword else b""
    Image.new("RGB", (60 + number, 40), COLOURS[colour]).save(path, exif=exif, xmp=xmp)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos in folders named for their colours, some with a caption or a keyword; four that say nothing."""
    place = tmp_path / "photos"
    for number in range(PHOTOS):
        name = list(COLOURS)[number % 6]
        caption = f"My {name} square" if number % 4 == 0 else "DCF 1.0"
        keyword = "square" if number % 3 == 0 else ""
        photo(place / f"2019-07 {name}_wall" / f"{number:02}.jpg", name, number, caption, keyword)
    for number in range(4):
        photo(place / "DCIM" / "100CANON" / f"{number}.jpg", "black", 50 + number, "OLYMPUS DIGITAL CAMERA")
    return place


@pytest.fixture
def library(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("clipsearch_indexer.decode.DecodePool", fakes.SerialPool)
    encoder = load_model(make_base(tmp_path / "base"), device="cpu")
    with Library.open(tmp_path / "library", create=True, encoder=encoder) as library:
        library.index([photos])
    return tmp_path / "library"


def test_what_is_said_of_photos(library: Path, photos: Path) -> None:
    samples, report = library_samples(library)
    assert len(samples) == report.samples == PHOTOS
    assert len(report.skipped[from_library.UNTOLD]) == 4
    by_name = {Path(sample.key).name: sample for sample in samples}
    both, captioned, keyword, folder = (by_name[f"{n:02}.jpg"] for n in (0, 4, 3, 1))
    assert both.source == captioned.source == "library_captions"
    assert keyword.source == folder.source == "library_labels"
    assert both.captions == ("My red square", "red wall, square"), "keywords are said beside the caption"
    assert captioned.captions == ("My white square", "white wall")
    assert (keyword.captions, keyword.labels) == ((), ("yellow wall", "square"))
    assert folder.labels == ("green wall",)
    assert folder.image == photos / "2019-07 green_wall" / "01.jpg"
    assert len({sample.content for sample in samples}) == PHOTOS, "photos are held out by what they hold"


def test_photos_whose_disk_is_away_are_named(library: Path, photos: Path) -> None:
    (photos / "2019-07 green_wall" / "01.jpg").unlink()
    samples, report = library_samples(library)
    assert len(samples) == PHOTOS - 1
    assert [Path(key).name for key in report.skipped[from_library.GONE]] == ["01.jpg"]
    shutil.rmtree(photos)
    with pytest.raises(TrainingError, match=r"has 0 .*36 that are not there now"):
        library_samples(library)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Lisbon trip", "Lisbon trip"),
        ("2019-07-14 Anna's wedding", "Anna's wedding"),
        ("birthday_party_2020", "birthday party"),
        ("Été", "Été"),
        ("猫と犬", "猫と犬"),
        ("2019-07", None),
        ("DCIM", None),
        ("100CANON", None),
        ("102APPLE", None),
        ("Camera Roll", None),
        ("X", None),
        ("a\udcffbc", None),  # a name that is no text
    ],
)
def test_folder_names_that_say_something(name: str, told: str | None) -> None:
    assert telling(name) == told


def test_folders_above_the_root_say_nothing() -> None:
    roots = [b"/home/anna", b"/home/anna/photos"]
    assert folder_names(b"/home/anna/photos/2019/Lisbon/a.jpg", roots) == ["Lisbon"]
    assert folder_names(b"/home/anna/b.jpg", roots) == []
    assert folder_names(b"/home/annabel/cats/b.jpg", [b"/home/anna", b"/"]) == ["home", "annabel", "cats"]


@pytest.mark.parametrize("caption", [None, "", "  ", "Sony DSC", "123", "x"])
def test_captions_that_no_person_wrote(caption: str | None) -> None:
    assert own_words(caption) is None


def test_a_caption_is_one_line() -> None:
    assert own_words(" The dog,\nasleep ") == "The dog, asleep"


def test_a_library_is_a_run(library: Path, tmp_path: Path) -> None:
    planned = plan_run(None, None, library, smoke=True)
    assert planned.recipe.start is not None
    assert planned.recipe.start.lora_rank > 0
    trainer = Trainer(planned.recipe, planned.data, tmp_path / "out", quiet, planned.extra)
    folder = trainer.train()
    assert trainer.samples
    assert set(trainer.sources) == {"library_captions", "library_labels"}
    before = load_folder(tmp_path / "base").model.state_dict()
    after = load_folder(folder).model.state_dict()
    assert {name: t.shape for name, t in after.items()} == {name: t.shape for name, t in before.items()}
    scored = [json.loads(line) for line in (tmp_path / "out" / "eval.jsonl").read_text().splitlines()]
    assert [line["step"] for line in scored] == [0, 2], "how good the model was before is scored too"
    table = (folder / "README.md").read_text()
    assert any(f"| {source}, at the start |" in table for source in trainer.sources)
    load_model(folder, device="cpu").encode_text(["a red wall"])


def test_a_recipe_on_a_library(library: Path, colours: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    alone = plan_run(path, None, library, smoke=False)
    assert (alone.recipe.data.train, alone.recipe.data.val, alone.recipe.data.hold_out) == ((), (), 0.1)
    trainer = Trainer(alone.recipe, alone.data, tmp_path / "alone", quiet, alone.extra)
    assert trainer.data_report.samples == PHOTOS - 4
    beside = plan_run(path, colours, library, smoke=False)
    assert beside.recipe == load_recipe(path)
    trainer = Trainer(beside.recipe, beside.data, tmp_path / "beside", quiet, beside.extra)
    assert trainer.sources["colours"] == 24
    assert trainer.data_report.samples == PHOTOS + 24


def test_smoke_takes_a_few_photos(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    monkeypatch.setattr("clipsearch_train.plan.SMOKE_SAMPLES", 9)
    assert SMOKE_SAMPLES >= 20
    planned = plan_run(None, None, library, smoke=True)
    assert planned.extra is not None
    assert len(planned.extra[0]) == 9


def test_what_cannot_be_a_run_is_a_sentence(library: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Name a recipe and its data .* or a library"):
        plan_run(None, None, None, smoke=False)
    with pytest.raises(UsageError, match="Name a recipe and its data"):
        plan_run(tmp_path / "r.toml", None, None, smoke=False)
    with pytest.raises(UsageError, match="Name a recipe and its data"):
        plan_run(None, tmp_path, None, smoke=False)
    with pytest.raises(LibraryNotFound):
        plan_run(None, None, tmp_path / "none", smoke=False)
    with Library.open(tmp_path / "empty", create=True):
        pass
    with pytest.raises(LibraryEmpty):
        plan_run(None, None, tmp_path / "empty", smoke=False)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ModelNotFound):
        plan_run(None, None, library, smoke=False)


def test_too_little_said_is_a_sentence(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_library, "LEAST", PHOTOS + 1)
    with pytest.raises(TrainingError, match=r"needs 37 photos .* has 36 .*4 without a caption.*keywords"):
        library_samples(library)
