from __future__ import annotations

from pathlib import Path

import pytest

from clipsearch import browse
from clipsearch.errors import UsageError
from clipsearch.search import Where
from clipsearch.store.reader import Reading
from clipsearch_ui.asking import Asked, answer, apart, load, parse, photos_in, steer, together, without_term
from clipsearch_ui.state import Opened, Shelf
from tests.ui.conftest import build_library, save


@pytest.fixture
def opened(filled: Path, fresh_shelf: None) -> tuple[Shelf, Opened]:
    from clipsearch_ui import state

    shelf = state.shelf()
    return shelf, shelf.open(filled)


def names(opened: Opened, results: object, count: int = 8) -> list[str]:
    slots = [int(group[0]) for group in results.groups[:count]]  # type: ignore[attr-defined]
    return [Path(photo.path.decode()).stem for photo in load(opened, slots)]


def test_words_find_what_they_name(opened: tuple[Shelf, Opened]) -> None:
    results = answer(*opened, Asked("red", Where(), collapse=False))
    assert all(name.startswith("red") for name in names(opened[1], results))
    assert results.found == results.total == 64


def test_words_do_not_wait_for_what_the_filters_count(
    opened: tuple[Shelf, Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(*_: object) -> None:
        raise AssertionError("the whole catalog was read")

    monkeypatch.setattr(Reading, "overview", count)
    assert answer(*opened, Asked("red", Where())).found == 64
    assert answer(*opened, Asked("red", Where(formats=("JPEG",)))).found == 64
    with opened[1].library.look() as view:
        assert len(view.slots) == 64


def test_arithmetic_takes_away(opened: tuple[Shelf, Opened]) -> None:
    both = answer(*opened, Asked("red + blue", Where(), collapse=False))
    assert {name.split("-")[0] for name in names(opened[1], both, 16)} == {"red", "blue"}
    less = answer(*opened, Asked("red + blue - 2:blue", Where(), collapse=False))
    assert {name.split("-")[0] for name in names(opened[1], less)} == {"red"}


def test_nothing_asked_lists_everything_newest_first(opened: tuple[Shelf, Opened]) -> None:
    results = answer(*opened, Asked("  ", Where(), collapse=False))
    photos = load(opened[1], [int(group[0]) for group in results.groups])
    dates = [photo.dated_at or "" for photo in photos]
    assert len(photos) == 64
    assert dates == sorted(dates, reverse=True)


def test_more_and_less_like_a_photo(opened: tuple[Shelf, Opened]) -> None:
    shelf, library = opened
    blue = load(library, [int(answer(shelf, library, Asked("blue", Where())).groups[0][0])])[0]
    alike = answer(shelf, library, Asked(f"photo:{blue.image_id}", Where(), collapse=False))
    assert blue.slot not in [int(group[0]) for group in alike.groups]  # the photo itself is left out
    assert names(library, alike, 1)[0].startswith("blue")
    unlike = answer(shelf, library, Asked(f"red + blue - 3:photo:{blue.image_id}", Where(), collapse=False))
    assert names(library, unlike, 1)[0].startswith("red")


def test_an_unknown_photo_is_a_sentence(opened: tuple[Shelf, Opened]) -> None:
    with pytest.raises(UsageError, match="no photo:99999"):
        answer(*opened, Asked("photo:99999", Where()))
    with pytest.raises(UsageError, match="no longer kept"):
        answer(*opened, Asked("picture:0123456789abcdef", Where()))


def test_look_alikes_are_put_together(opened: tuple[Shelf, Opened]) -> None:
    results = answer(*opened, Asked("black", Where(), collapse=True))
    assert len(results.groups[0]) == 4
    assert sum(len(group) for group in results.groups) == 64


def test_duplicates_of_a_large_library_are_found_along_directions(
    opened: tuple[Shelf, Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened[1].library.look() as view:
        every = [set(group.tolist()) for group in view.duplicates(0.999)]
        monkeypatch.setattr(browse, "_ALL_PAIRS", 0)
        near = [set(group.tolist()) for group in view.duplicates(0.999)]
        black = {photo.slot for photo in view.photos(view.overview.slots) if b"black" in photo.path}
    assert black in every
    assert black in near


def test_the_whole_name_of_a_camera_is_that_camera(tmp_path: Path, fresh_shelf: None) -> None:
    from clipsearch_ui import state

    for number, camera in enumerate(("Apple iPhone 12", "Apple iPhone 12 Pro")):
        save(tmp_path / "photos" / f"{number}.jpg", (200, 0, 0), camera=camera, seed=number)
    shelf = state.shelf()
    library = shelf.open(build_library(tmp_path / "library", tmp_path / "photos"))
    assert answer(shelf, library, Asked("", Where(camera="Apple iPhone 12"))).found == 1
    assert answer(shelf, library, Asked("red", Where(camera="iphone"), collapse=False)).found == 2


def test_an_answer_is_kept(opened: tuple[Shelf, Opened]) -> None:
    asked = Asked("green", Where())
    assert answer(*opened, asked) is answer(*opened, asked)


def test_by_date_is_of_the_matches(opened: tuple[Shelf, Opened]) -> None:
    shelf, library = opened
    results = answer(shelf, library, Asked("green", Where(), sort="date", collapse=False))
    photos = load(library, [int(group[0]) for group in results.groups])
    dates = [photo.dated_at or "" for photo in photos]
    assert dates == sorted(dates, reverse=True)


@pytest.mark.parametrize(
    ("words", "way", "expected"),
    [
        ("", "more", "photo:7"),
        ("", "less", "- photo:7"),
        ("a dog on a beach", "less", "a dog on a beach - 0.3:photo:7"),
        ("a dog", "more", "a dog + 0.3:photo:7"),
        ("a dog - 0.3:photo:7", "more", "a dog + 0.3:photo:7"),
        ('"horse + cart" - grass', "less", '"horse + cart" - grass - 0.3:photo:7'),
        ("2:beach", "less", "2:beach - 0.3:photo:7"),
    ],
)
def test_steering_is_arithmetic(words: str, way: str, expected: str) -> None:
    assert steer(words, 7, "more" if way == "more" else "less") == expected


def test_a_term_can_be_taken_out() -> None:
    assert without_term("a dog + 0.3:photo:7 - snow", 1) == "a dog - snow"
    assert without_term("photo:7", 0) == ""


@pytest.mark.parametrize(
    ("words", "typed", "pictures"),
    [
        ("", "", ""),
        ("a dog", "a dog", ""),
        ("photo:7", "", "photo:7"),
        ("- photo:7", "", "- photo:7"),
        ("a dog - 0.3:photo:7 + photo:8", "a dog", "- 0.3:photo:7 + photo:8"),
        ("picture:0123456789abcdef - 0.3:photo:7", "", "picture:0123456789abcdef - 0.3:photo:7"),
        ('"salt + pepper" - grass - photo:7', '"salt + pepper" - grass', "- photo:7"),
        ('"salt + photo:7', '"salt', "+ photo:7"),  # never closed: an error that the page explains
        ("a photo:7", "a photo:7", ""),
        ('a sign saying "less - photo:7"', 'a sign saying "less - photo:7"', ""),
    ],
)
def test_pictures_stand_apart_from_what_is_typed(words: str, typed: str, pictures: str) -> None:
    assert apart(words) == (typed, pictures)
    assert together(typed, pictures) == words


def test_pictures_before_words_go_after_them() -> None:
    assert apart("photo:7 + a dog - 2:photo:8") == ("a dog", "photo:7 - 2:photo:8")
    assert apart('"photo:7" - grass') == ("- grass", "photo:7")
    assert together("a dog", "photo:7 - 2:photo:8") == "a dog + photo:7 - 2:photo:8"
    assert together("", "+ 0.3:photo:7") == "0.3:photo:7"


def test_references_are_pictures_and_paths_are_not() -> None:
    query = parse("photo:12 + picture:0123456789abcdef - photo:x")
    assert query is not None
    assert [term.kind for term in query.terms] == ["image", "image", "text"]
    assert photos_in(query) == [12]
    with pytest.raises(UsageError, match="no picture"):
        parse("/etc/passwd.jpg")
    assert parse("  ") is None
