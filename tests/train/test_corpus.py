from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import TrainingError
from clipsearch_train.corpus import in_many_words, read_names, read_texts, say, texts_of, widen
from clipsearch_train.data import Sample

TEMPLATES = ("{}", "a photo of a {}")


def sample(captions: tuple[str, ...] = (), labels: tuple[str, ...] = ()) -> Sample:
    return Sample("k", b"", "s", captions, labels)


def said(one: Sample) -> set[str | None]:
    return {say(one, TEMPLATES, np.random.default_rng(seed)) for seed in range(100)}


def test_what_is_said_of_a_sample() -> None:
    assert said(sample(("x", "y"), ("dog",))) == {"x", "y"}, "captions before labels"
    assert said(sample(labels=("dog",))) == {"dog", "a photo of a dog"}
    assert said(sample(labels=("sea", "sky"))) == {
        "sea", "sky", "a photo of a sea", "a photo of a sky", "sea, sky", "sky, sea",
    }  # fmt: skip
    assert said(sample()) == {None}


def test_every_text_that_can_be_said_once() -> None:
    texts = texts_of([sample(("x", "y")), sample(("x",)), sample(labels=("dog",))], TEMPLATES)
    assert texts == ["x", "y", "dog", "a photo of a dog"]


def test_wider_texts_are_phrases_of_the_captions_and_the_words() -> None:
    captions = ["A brown dog runs along the sandy beach ."]
    texts = widen(captions, ["zebra"], TEMPLATES, np.random.default_rng(0))
    assert "zebra" in texts
    assert any("zebra" in text and len(text.split()) > 5 for text in texts), "a caption with a strange word"
    assert any(text in captions[0].lower() and 2 <= len(text.split()) <= 5 for text in texts)
    assert len(set(texts)) == len(texts)
    assert texts == widen(captions, ["zebra"], TEMPLATES, np.random.default_rng(0))


def test_texts_are_lines_of_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n  zwölf \n", encoding="utf-8")
    assert read_texts([tmp_path / "a.txt"]) == ["one", "zwölf"]
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    for name in ("b.txt", "none.txt"):
        with pytest.raises(TrainingError, match=name):
            read_texts([tmp_path / name])


def test_names_are_read_from_lists_and_from_lvis(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["sea lion"]')
    (tmp_path / "b.json").write_text('[{"name": "air_conditioner"}, {"name": "bow_(weapon)", "id": 2}]')
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    assert read_names(paths) == ["sea lion", "air conditioner", "bow"]


@pytest.mark.parametrize("content", ["{", "[1]", '[{"id": 1}]', "3", '[{"name": 4}]'])
def test_a_file_of_no_names_is_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(TrainingError, match=r"a.json cannot be read as a list of names"):
        read_names([tmp_path / "a.json"])


def test_a_name_is_spoken_of_in_many_ways() -> None:
    texts = in_many_words(["cat", "car"], np.random.default_rng(0), 3)
    assert len(set(texts)) == 8
    assert {"cat", "car"} < set(texts)
    assert all("cat" in text or "car" in text for text in texts)
