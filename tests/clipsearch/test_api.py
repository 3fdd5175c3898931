import importlib
import json
import math
import os
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsearch import Library, Query, Where
from clipsearch.errors import (
    ImageError,
    LibraryEmpty,
    LibraryNotFound,
    ModelInvalid,
    ModelMismatch,
    ModelNotFound,
    UsageError,
)
from clipsearch.server.service import Service
from clipsearch_ui.state import Shelf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
fakes = importlib.import_module("fakes")
RED, ORANGE, GREEN, BLUE = (255, 0, 0), (255, 128, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def serial(monkeypatch):
    monkeypatch.setattr("clipsearch_indexer.decode.DecodePool", fakes.SerialPool)


@pytest.fixture
def photos(tmp_path):
    for name, colour in (("red", RED), ("orange", ORANGE), ("green", GREEN), ("blue", BLUE)):
        fakes.write(tmp_path / "photos" / f"{name}.png", colour)
    return tmp_path / "photos"


@pytest.fixture
def library(tmp_path, photos):
    with Library.open(tmp_path / "library", create=True, encoder=fakes.ColourEncoder()) as library:
        library.index([photos])
        yield library


def names(hits):
    return [Path(hit.path).stem for hit in hits]


def test_a_library_is_made_only_when_asked_for(tmp_path):
    with pytest.raises(LibraryNotFound):
        Library.open(tmp_path / "l")
    with Library.open(tmp_path / "l", create=True) as library:
        assert library.path == tmp_path / "l"
        assert library.status().model is None
        with pytest.raises(LibraryEmpty):
            library.search("red")
        with pytest.raises(LibraryEmpty):
            library.similar(tmp_path / "x.png")
        assert library.compact() == 0


def test_search_takes_words_pictures_and_sums(library, photos):
    red = photos / "red.png"
    for query in ("red", Query.text("red"), red, Image.new("RGB", (9, 9), RED), str(red)):
        hits = library.search(query, k=2)
        assert names(hits) == ["red", "orange"]
        assert hits[0].score == pytest.approx(1, abs=1e-3)
        assert hits[1].score == pytest.approx(255 / math.hypot(255, 128), abs=1e-3)


def test_arithmetic_is_the_sum_of_unit_vectors(library, photos):
    query = Query.text("red") + 0.5 * Query.image(str(photos / "blue.png")) - 2 * Query.text("green")
    vector = np.array([1, -2, 0.5]) / math.sqrt(1 + 4 + 0.25)
    scores = {Path(hit.path).stem: hit.score for hit in library.search(query)}
    assert scores == pytest.approx(
        {
            "red": vector[0],
            "green": vector[1],
            "blue": vector[2],
            "orange": (255 * vector[0] + 128 * vector[1]) / math.hypot(255, 128),
        },
        abs=1e-3,
    )
    written = f'red + 0.5:"{photos / "blue.png"}" - 2:green'
    again = {Path(hit.path).stem: hit.score for hit in library.search(written)}
    assert again == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize(
    ("opened", "stays"),
    [
        (Library.open, False),
        (partial(Library.open, resident=True), True),
        (lambda path: Service(path).library, True),
        (lambda path: Shelf().open(path).library, True),
    ],
    ids=["library", "resident library", "server", "page"],
)
def test_programs_that_stay_embed_texts_the_quicker_way(library, monkeypatch, opened, stays):
    asked = []

    def load(*_model, resident):
        asked.append(resident)
        raise ModelNotFound("as the model of these tests is nowhere")

    monkeypatch.setattr("clipsearch.text_encoder.load_text_encoder", load)
    with pytest.raises(ModelNotFound):
        opened(library.path).encode_text(["red"])
    assert set(asked) == {stays}


def test_pages_and_filters(library, photos):
    assert names(library.search("red", k=1)) == ["red"]
    assert names(library.search("red", k=1, page=2)) == ["orange"]
    assert names(library.search("red", k=3, page=2)) == ["green"]  # as far away as blue, and behind it
    only = Where(under=(os.fsencode(photos / "blue.png"),))
    assert names(library.search("red", where=only)) == ["blue"]
    assert names(library.search("red", where=Where(min_score=0.5))) == ["red", "orange"]


def test_similar_takes_a_hit_a_path_or_any_file(library, photos, tmp_path):
    (hit,) = library.search("red", k=1)
    assert names(library.similar(hit, k=1)) == ["orange"]
    assert names(library.similar(photos / "red.png", k=1)) == ["orange"]
    other = fakes.write(tmp_path / "other.png", (0, 250, 0))
    assert names(library.similar(other, k=1)) == ["green"]
    with pytest.raises(ImageError, match=r"nowhere\.png cannot be searched for: no such file"):
        library.similar(tmp_path / "nowhere.png")


def test_a_hit_from_before_a_compaction_still_names_its_photo(library, photos):
    (hit,) = library.search("red", k=1)
    assert hit.slot == 3  # files are read in the order of their names
    (photos / "blue.png").unlink()
    library.index()
    assert library.prune().images == 1
    assert library.compact() == 1
    assert names(library.similar(hit, k=1)) == ["orange"]
    assert library.search("red", k=1)[0].slot == 2


def test_a_plain_word_is_a_word_even_where_a_file_has_its_name(library, photos, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "red").write_text("no picture")
    assert names(library.search("red", k=1)) == ["red"]
    with pytest.raises(ImageError):
        library.search("./red")
    assert names(library.search("~nobody/x y", k=1))  # words that no home is known for


def test_an_encoder_of_another_model_is_not_used(library):
    with (
        Library.open(library.path, encoder=fakes.ColourEncoder("others")) as second,
        pytest.raises(ModelNotFound, match="made with the model colours"),
    ):
        second.search("red")


def test_another_model_takes_over_in_every_open_library(library, photos, monkeypatch):
    stand_in = types.ModuleType("clipsearch.encoder")
    stand_in.load_model = lambda name, device=None: fakes.ColourEncoder(Path(name).name)
    monkeypatch.setitem(sys.modules, "clipsearch.encoder", stand_in)
    with Library.open(library.path) as reader:
        assert names(reader.search("red", k=1)) == ["red"]
        summary = library.index(model=fakes.ColourEncoder("others", dim=5))
        assert (summary.new, summary.reembedded) == (0, 4)
        assert library.encoder.name == "others"
        assert names(library.search("green", k=1)) == ["green"]
        stand_in.load_model = lambda name, device=None: fakes.ColourEncoder(Path(name).name, dim=5)
        assert names(reader.search("blue", k=1)) == ["blue"]
        assert reader.status().model == "others"


def test_a_model_that_is_another_under_the_old_name_is_refused(library, monkeypatch):
    stand_in = types.ModuleType("clipsearch.encoder")
    stand_in.load_model = lambda name, device=None: fakes.ColourEncoder("others")
    monkeypatch.setitem(sys.modules, "clipsearch.encoder", stand_in)
    with (
        Library.open(library.path) as reader,
        pytest.raises(ModelMismatch, match=r"made with colours .* others"),
    ):
        reader.search("red")


def test_a_model_that_is_there_and_broken_is_told_as_such(library, monkeypatch):
    def load_model(name, device=None):
        raise ModelInvalid("x/tokenizer.json cannot be read as a tokenizer.")

    stand_in = types.ModuleType("clipsearch.encoder")
    stand_in.load_model = load_model
    monkeypatch.setitem(sys.modules, "clipsearch.encoder", stand_in)
    with (
        Library.open(library.path) as reader,
        pytest.raises(ModelInvalid, match=r"made with the model colours\. x/tokenizer\.json cannot be read"),
    ):
        reader.search("red")


def test_status_is_numbers_that_json_can_hold(library, photos):
    (photos / "red.png").unlink()
    (photos / "bad.png").write_text("no picture")
    library.index()
    status = library.status()
    assert (status.images, status.files, status.missing, status.failed) == (3, 3, 1, 1)
    assert (status.model, status.dim, status.index) == ("colours", 3, {"kind": "exact", "vectors": 4})
    assert status.disk_bytes > 0
    told = json.loads(json.dumps(status.to_dict()))
    assert told["roots"][0]["path"] == str(photos)
    assert told["last_run"]["counts"]["missing"] == 1
    assert [row.path for row in library.failures()] == [os.fsencode(photos / "bad.png")]


def test_a_folder_that_went_away_since_is_told_as_offline(library, photos):
    def online():
        return [root.online for root in library.status().roots]

    assert online() == [True]
    away = photos.rename(photos.with_name("away"))
    assert online() == [False]
    photos.mkdir()  # where a disk is not mounted
    assert online() == [False]
    photos.rmdir()
    away.rename(photos)
    assert online() == [True]


def test_the_index_on_demand_survives_a_compaction(tmp_path):
    root = tmp_path / "many"
    for number in range(300):
        fakes.write(root / f"{number:03}.png", (number // 2, 255 - number // 2, 9), note=str(number))
    with Library.open(tmp_path / "library", create=True, encoder=fakes.ColourEncoder(dim=16)) as library:
        library.index([root])
        exact = names(library.search("green"))
        told = library.build_index()
        assert (told["kind"], told["vectors"], told["covered"]) == ("ivf-pq", 300, 300)
        assert set(told["recall@10"]) == {"text", "image"}
        assert library.status().index == told
        assert names(library.search("green")) == exact
        (root / "000.png").unlink()
        library.index()
        library.prune()
        assert library.compact() == 1
        assert library.status().index["covered"] == 299
        assert names(library.search("green", k=3)) == ["001", "002", "003"]


def test_too_few_photos_for_an_index_is_a_sentence(library):
    with pytest.raises(UsageError, match="256"):
        library.build_index()


def test_a_backup_is_a_library(library, tmp_path):
    library.backup(tmp_path / "copy")
    with Library.open(tmp_path / "copy", encoder=fakes.ColourEncoder()) as copy:
        assert names(copy.search("blue", k=1)) == ["blue"]
        assert copy.check().is_good
