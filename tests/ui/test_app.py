"""The pages, run without a browser."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import colours
import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from clipsearch.api import Library
from clipsearch.errors import ModelNotFound
from clipsearch_ui import address, library_page, map_page, server, state
from tests.ui.conftest import build_library, save

pytestmark = pytest.mark.usefixtures("fresh_shelf")


def app(library: Path, monkeypatch: pytest.MonkeyPatch, **params: str) -> AppTest:
    monkeypatch.setenv("CLIPSEARCH_LIBRARY", str(library))
    test = AppTest.from_file(str(server.SCRIPT), default_timeout=60)
    for name, value in params.items():
        test.query_params[name] = value
    return test


def texts(test: AppTest) -> str:
    kinds = (
        test.markdown,
        test.info,
        test.success,
        test.error,
        test.warning,
        test.title,
        test.caption,
        test.text,
        test.code,
    )
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def headers(test: AppTest) -> list[str]:
    return [element.value for element in test.header]


def shown(test: AppTest) -> list[int]:
    return list(test.session_state["shown"])


def test_first_page_shows_everything(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app(filled, monkeypatch).run()
    assert not test.exception
    assert "**64** photos, newest first" in texts(test)
    assert len(shown(test)) == 48


def test_a_query_in_the_address_is_asked(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app(filled, monkeypatch, q="red").run()
    assert not test.exception
    assert test.text_input(key="q").value == "red"
    assert "best match first" in texts(test)


def test_asking_is_noted_and_goes_back_to_page_one(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app(filled, monkeypatch, page="2").run()
    assert len(shown(test)) < 48
    test.text_input(key="q").set_value("blue").run()
    assert not test.exception
    assert test.session_state["page"] == 1
    assert state.shelf().open(filled).searches.recent[0] == "blue"


def come(test: AppTest, before: dict[str, list[str]]) -> AppTest:
    """Run again with the address of before, as the browser sends it that has not yet taken in the new one."""
    test.query_params.clear()
    test.query_params.update(before)
    return test.run()


def test_an_address_that_lags_behind_undoes_nothing(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "LAG", 60.0)  # whatever the machine has to do
    test = app(filled, monkeypatch, q="red", camera="Canon EOS").run()
    before = dict(test.query_params)
    test.text_input(key="q").set_value("blue").run()
    test.toggle(key="scores").set_value(True)
    come(test, before)
    assert test.text_input(key="q").value == "blue"
    test.selectbox(key="filter_camera").select("").run()
    test.toggle(key="filter_every").set_value(True)
    come(test, before)
    assert test.selectbox(key="filter_camera").value == ""
    assert test.query_params["every"] == "1"
    test.text_input(key="q").set_value("green")
    come(test, before)
    test.toggle(key="scores").set_value(False)
    come(test, before)
    assert test.text_input(key="q").value == "green"
    assert test.query_params["q"] == "green"
    assert "camera" not in test.query_params
    assert not test.exception


def test_the_back_button_goes_back(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app(filled, monkeypatch, q="red").run()
    before = dict(test.query_params)
    test.text_input(key="q").set_value("blue").run()
    monkeypatch.setattr(address, "LAG", 0.0)  # long after
    come(test, before)
    assert test.text_input(key="q").value == "red"
    monkeypatch.setattr(address, "LAG", 60.0)
    test.text_input(key="q").set_value("blue").run()
    with monkeypatch.context() as back:
        back.setattr(address, "went_back", lambda: True)
        come(test, before)  # at once
    assert test.text_input(key="q").value == "red"
    test.text_input(key="q").set_value("blue").run()
    come(test, {"q": ["yellow"]})  # a bookmark, at once
    assert test.text_input(key="q").value == "yellow"


def test_photos_of_a_query_are_chips_beside_the_box(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app(filled, monkeypatch).run()
    newest, other = shown(test)[:2]
    opened = state.shelf().open(filled)
    content = opened.content(newest)
    assert content is not None
    file = Path(os.fsdecode(content[1][0])).name
    test = app(filled, monkeypatch, q=f"red - 0.3:photo:{newest}").run().run()
    assert test.text_input(key="q").value == "red"
    chip = test.button(key="chip_1")
    assert chip.label == f"![]({opened.picture_address(newest)}) unlike {state.plain(file)} × 0\\.3"
    assert test.button(key="recent_0").label == f"red  {chip.label}"
    assert test.text_input(key="save_name").value == f"red, unlike {file}"
    test.text_input(key="q").set_value("blue").run()
    assert test.query_params["q"] == f"blue - 0.3:photo:{newest}"
    test.text_input(key="q").set_value(f"blue + photo:{other}").run()
    assert test.text_input(key="q").value == "blue"
    assert test.query_params["q"] == f"blue + photo:{other} - 0.3:photo:{newest}"
    test.button(key="chip_1").click().run()
    assert test.query_params["q"] == f"blue - 0.3:photo:{newest}"
    test.text_input(key="q").set_value(f"blue + photo:{other}").run()
    test.button(key="chips_out").click().run()
    assert not test.exception
    assert test.query_params["q"] == "blue"
    assert "chips_out" not in [button.key for button in test.button]


def test_a_long_name_is_cut_in_its_middle_and_is_no_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "photos" / "![x](y) a name that is much longer than a chip.jpg", (220, 30, 30))
    library = build_library(tmp_path / "library", tmp_path / "photos")
    test = app(library, monkeypatch, q="photo:1").run()
    picture = state.shelf().open(library).picture_address(1)
    name = state.plain("![x](y) a name t… a chip.jpg")
    assert test.button(key="chip_0").label == f"![]({picture}) like {name}"


def test_an_unreadable_query_is_explained(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app(filled, monkeypatch, q='red + "blue', camera="Canon EOS").run()
    assert not test.exception
    assert "never closed" in texts(test)
    assert "horse + stripes - grass" in texts(test)
    assert test.selectbox(key="filter_camera").value == "Canon EOS"
    test.text_input(key="q").set_value("red " * 501).run()
    assert "at most 2,000 characters" in texts(test)


def test_it_says_what_is_shown(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app(filled, monkeypatch, q="red", min="0.99").run()
    assert "of 64 photos have a similarity of 0.99 or more" in texts(test)
    test = app(filled, monkeypatch, q="red", min="1").run()
    assert "**0** of 64 photos" in texts(test)
    assert "Nothing found" in texts(test)
    test = app(filled, monkeypatch, q="red", sort="Newest").run()
    assert "best matches among 64 photos, newest first" in texts(test)


def test_a_search_is_saved_with_its_filters(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app(filled, monkeypatch, q="red", camera="Canon EOS", photo="3").run()
    test.text_input(key="save_name").set_value("red walls")
    next(button for button in test.button if button.label == "Save").click().run()
    assert not test.exception
    searches = state.shelf().open(filled).searches
    assert searches.saved == {"red walls": "q=red&camera=Canon+EOS"}
    test = app(filled, monkeypatch, q="blue", format="JPEG", sort="Newest").run()
    test.button(key="go_red walls").click().run()
    assert not test.exception
    assert test.text_input(key="q").value == "red"
    assert test.query_params["camera"] == "Canon EOS"
    assert "format" not in test.query_params
    assert "sort" not in test.query_params
    assert "**20** photos, best match first" in texts(test)
    searches.save("new walls", "q=red&sort=Newest")
    test.run().button(key="go_new walls").click().run()
    assert test.query_params["sort"] == "Newest"  # in the address too, which may be bookmarked
    assert "best matches among 64 photos, newest first" in texts(test)
    searches.forget("red walls")
    test = app(filled, monkeypatch, q="picture:0123456789abcdef").run()
    assert "kept only while the server runs" in texts(test)


def test_filters_narrow_and_counts_follow(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app(filled, monkeypatch, camera="Canon EOS").run()
    assert not test.exception
    assert "**20** photos" in texts(test)
    folder = test.selectbox(key="filter_folder")
    assert [option for option in folder.options if option.endswith("home  (10)")]
    test.selectbox(key="filter_place").select("yes").run()
    assert "**2** photos" in texts(test)
    assert list(test.selectbox(key="filter_place").options) == ["All", "Known  (2)", "Unknown  (18)"]
    test.selectbox(key="filter_place").select("").run()
    test.selectbox(key="filter_camera").select("").run()
    assert "**64** photos" in texts(test)
    assert "camera" not in test.query_params


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        ({"since": "2021-01-01", "until": "2021-12-31"}, 19),
        ({"since": "2021-05-05", "until": "2021-05-05"}, 4),
        ({"folder": "photos0/travel"}, 30),
        ({"format": "JPEG"}, 64),
        ({"format": "PNG"}, 0),
        ({"place": "yes"}, 6),
        ({"text": "a red wall"}, 5),
        ({"camera": "Nikon D70", "place": "no", "folder": "photos0/home"}, 20),
    ],
)
def test_each_filter(
    filled: Path, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], count: int
) -> None:
    test = app(filled, monkeypatch, **chosen, every="1").run()
    assert not test.exception
    assert f"**{count}** photos" in texts(test)


def test_no_result_offers_to_clear(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app(filled, monkeypatch, text="nothing is called this").run()
    assert "Nothing found" in texts(test)
    test.button(key="clear_all").click().run()
    assert "**64** photos" in texts(test)


@pytest.mark.parametrize("query", ["photo:999999", "picture:0123456789abcdef"])
def test_a_reference_that_is_gone(filled: Path, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    test = app(filled, monkeypatch, q=query).run()
    assert not test.exception
    assert "cannot be searched" in texts(test)


@pytest.mark.parametrize(
    "params",
    [
        {"page": "0"},
        {"page": "x"},
        {"page": "9999"},
        {"photo": "-1"},
        {"photo": "99999999999999999999999"},
        {"photo": "<script>"},
        {"since": "yesterday", "min": "nan", "place": "there", "folder": "../../etc", "format": "EXE"},
        {"since": "2024-01-01", "until": "2020-01-01"},
        {"q": "\udcff".encode("utf-8", "surrogatepass").decode("utf-8", "replace") * 3000},
    ],
)
def test_an_odd_address_is_no_error(
    filled: Path, monkeypatch: pytest.MonkeyPatch, params: dict[str, str]
) -> None:
    test = app(filled, monkeypatch, **params).run()
    assert not test.exception


def test_first_run_offers_to_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app(tmp_path / "none", monkeypatch).run()
    assert not test.exception
    assert "Find photos by what is in them" in texts(test)
    test.text_input(key="index_folder").set_value(str(tmp_path / "nowhere"))
    test.button[0].click().run()
    assert "whole path of a folder that is there" in texts(test)


def test_indexing_from_the_page(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "new"
    test = app(library, monkeypatch).run()
    test.text_input(key="index_folder").set_value(str(photos))
    test.button[0].click().run()
    run = state.shelf().open(library).run
    assert run is not None
    run.wait(60)
    assert run.error is None
    assert run.summary is not None
    assert run.summary.new == 64
    test.run()
    assert "**64** photos" in texts(test)


def test_a_tar_shard_is_indexed_from_the_page(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, library = tmp_path / "shard.tar", tmp_path / "new"
    with tarfile.open(shard, "w") as archive:
        for photo in sorted(photos.rglob("blue-*.jpg"))[:5]:
            archive.add(photo, photo.name)
    test = app(library, monkeypatch).run()
    test.text_input(key="index_folder").set_value(str(shard))
    test.button[0].click().run()
    run = state.shelf().open(library).run
    assert run is not None
    run.wait(60)
    assert run.summary is not None
    assert run.summary.new == 5


def test_without_its_model_a_library_can_still_be_looked_through(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import clipsearch.encoder

    def missing(*_args: object, **_kwargs: object) -> None:
        raise ModelNotFound("The model colours is not on this machine.")

    monkeypatch.setattr(clipsearch.encoder, "load_model", missing)
    test = app(filled, monkeypatch, q="red").run()
    assert not test.exception
    assert "no longer on this machine" in texts(test)
    test.text_input(key="q").set_value("").run()
    assert "**64** photos" in texts(test)


def test_names_and_captions_are_never_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "<img src=x onerror=alert(1)> **bold** [a](http:x) :red[b] $x$"
    folder = tmp_path / "evil"
    save(folder / f"{evil.replace('/', '_')}.jpg", (200, 0, 0), caption=evil)
    library = build_library(tmp_path / "library", folder)
    test = app(library, monkeypatch, photo="1").run()
    assert not test.exception
    assert evil in [element.value for element in test.text]
    for element in test.markdown:
        assert not element.allow_html
        assert "**bold**" not in str(element.value)


def test_folders_keep_their_names_whatever_the_filters_leave(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [
        option.split()[0] for option in app(filled, monkeypatch).run().selectbox(key="filter_folder").options
    ]
    one = app(filled, monkeypatch, text="red").run()  # these lie in one folder only
    assert [option.split()[0] for option in one.selectbox(key="filter_folder").options] == ["All", folders[2]]
    none = app(filled, monkeypatch, text="no such thing").run()
    assert none.selectbox(key="filter_folder").options == ["All"]
    assert none.selectbox(key="filter_camera").options == ["All"]


def test_the_map_is_mercators() -> None:
    assert map_page.up(0) == pytest.approx(0)
    assert map_page.up(60) == pytest.approx(75.456, abs=1e-3)
    for north in (-89.0, -33.9, 0.0, 51.5, 84.9):
        assert map_page.latitude(map_page.up(north)) == pytest.approx(max(-85.0, north))
    seen = {"selection": {"view": {"east": [-10.0, 30.0], "up": [map_page.up(35), 1e3]}}}
    assert map_page._view(seen) == pytest.approx((35, -10, 90, 30))


PAGES = ("duplicates_page", "timeline_page", "themes_page", "map_page", "library_page")


def page(name: str, library: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("CLIPSEARCH_LIBRARY", str(library))
    script = f"from clipsearch_ui import {name}\n{name}.show()"
    return AppTest.from_string(script, default_timeout=60).run()


@pytest.mark.parametrize("name", PAGES)
def test_the_other_pages(filled: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    test = page(name, filled, monkeypatch)
    assert not test.exception
    expected = {
        "duplicates_page": "more photos than needed",
        "timeline_page": "Timeline",
        "themes_page": "Themes",
        "map_page": "Natural Earth",
        "library_page": "every photo is compared",
    }
    assert expected[name] in texts(test)


def test_the_timeline_steps_by_month(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = page("timeline_page", filled, monkeypatch)
    newest = test.query_params["month"]
    chart = json.loads(test.get("vega_lite_chart")[0].proto.spec)
    bar = chart["mark"]["size"]
    assert chart["encoding"]["x"]["scale"]["padding"] > bar / 2  # no bar is cut at the edge
    next(button for button in test.button if button.label == "Earlier").click()
    test.run()
    assert test.query_params["month"] < newest
    assert not test.exception


def test_the_library_page_lists_failures(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = page("library_page", filled, monkeypatch)
    table = test.dataframe[0].value
    assert list(table["File"]) == ["broken.jpg"]
    assert "not an image" in table["Reason"][0]


def test_what_an_index_finds_is_said_in_words(filled: Path) -> None:
    with Library.open(filled) as library:
        status = library.status()
    recall = {"text": 0.9647, "image": 0.9677}
    indexed = replace(status, index={"kind": "ivf-pq", "covered": 2601, "recall@10": recall})
    said = library_page._index_line(indexed).replace("\\", "")
    assert said.endswith(
        "index of 2,601 photos; of the ten best matches it finds 96.5% for words, 96.8% for pictures"
    )


def test_stop_keeps_what_was_done(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    encode = colours.Colours.encode_pixels

    def slow(self: colours.Colours, pixels: np.ndarray) -> np.ndarray:
        assert go_on.wait(60)
        return encode(self, pixels)

    monkeypatch.setattr(colours.Colours, "encode_pixels", slow)
    place = tmp_path / "new"
    test = page("library_page", place, monkeypatch)
    assert "indexing a folder makes one" in texts(test)
    test.text_input(key="index_folder").set_value(str(photos))
    test.button[0].click().run()
    run = state.shelf().open(place).run
    assert run is not None
    assert run.running
    test.run()
    assert test.button[0].disabled  # one run at a time
    test.button(key="stop_index").click().run()
    assert run.stopping
    go_on.set()
    run.wait(60)
    assert run.summary is not None
    assert run.summary.interrupted
    test.run()
    assert "Stopped: " in texts(test)
    test.button(key="index_all").click().run()
    again = state.shelf().open(place).run
    assert again is not None
    again.wait(60)
    assert again.summary is not None
    assert run.summary.new + again.summary.new == 64
    assert not test.run().exception
    assert "Done: " in texts(test)


def test_a_folder_that_is_offline(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drives = [tmp_path / "disk", tmp_path / "stick"]
    for drive, name in zip(drives, ("red-00.jpg", "blue-02.jpg"), strict=True):
        drive.mkdir()
        shutil.copy(photos / "travel" / name, drive)
    library = build_library(tmp_path / "library", *drives)
    drives[1].rename(tmp_path / "away")
    test = page("library_page", library, monkeypatch)
    test.button(key="index_all").click().run()
    run = state.shelf().open(library).run
    assert run is not None
    run.wait(60)
    test.run()
    assert not test.exception
    assert "stick is offline: its photos can be found" in texts(test).replace("\\", "")
    assert "stick is offline; its photos are kept" in texts(test).replace("\\", "")
    found = app(library, monkeypatch, q="blue").run()
    assert len(shown(found)) == 2


def test_another_library_is_opened(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = page("library_page", tmp_path / "none", monkeypatch)
    opened = next(button for button in test.button if button.label == "Open")
    test.text_input(key="switch_path").set_value(str(tmp_path / "nowhere"))
    opened.click().run()
    assert "There is no library at" in texts(test)
    test.text_input(key="switch_path").set_value(str(filled))
    next(button for button in test.button if button.label == "Open").click().run()
    assert "This is now the library at" in texts(test)
    assert [metric.value for metric in test.metric][:2] == ["64", "64"]


def test_the_map_narrows_to_a_place(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = page("map_page", filled, monkeypatch)
    assert "6 photos with a place" in headers(test)
    places = test.selectbox(key="spot")
    assert len(places.options) == 7
    assert places.options[1].startswith("48.00000° N, ")
    places.select("48.00000,2.00000").run()
    assert not test.exception
    assert "1 photo at this place" in headers(test)
    assert len(shown(test)) == 1


def test_duplicates_are_grouped(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = page("duplicates_page", filled, monkeypatch)
    assert "photos" in texts(test)
    test.slider(key="duplicates_alike").set_value(1.0).run()
    assert not test.exception


def test_settings_are_safe() -> None:
    assert server.SETTINGS["server.address"] == "127.0.0.1"
    assert server.SETTINGS["client.showErrorDetails"] == "none"
    assert server.SETTINGS["server.maxUploadSize"] == 20
    assert state.UPLOAD_LIMIT == 20 << 20
    assert server.SETTINGS["server.enableXsrfProtection"] is True
    assert server.SETTINGS["browser.gatherUsageStats"] is False
    assert server.SETTINGS["server.fileWatcherType"] == "none"


@pytest.mark.parametrize("shape", [(364, 291), (800, 400), (1200, 400)])
@pytest.mark.parametrize("span", [(-122.4, 151.2), (2.0, 2.1), (-179.0, 179.0), (100.0, 175.0)])
def test_the_map_holds_all_photos_in_any_frame(shape: tuple[int, int], span: tuple[float, float]) -> None:
    def value(edge: dict[str, str]) -> float:
        names = {"min": min, "max": max, "clamp": lambda it, low, high: max(low, min(high, it))}
        return float(eval(edge["expr"], {**names, "width": shape[0], "height": shape[1]}))

    across, upright = map_page._frame(np.array(span))
    (west, east), (bottom, top) = map(value, across), map(value, upright)
    assert -180 <= west <= span[0] < span[1] <= east <= 180
    assert bottom <= map_page.BOTTOM < map_page.TOP <= top
    if shape[0] <= 2 * shape[1]:  # no land is drawn broader than it is
        assert (east - west) / (top - bottom) == pytest.approx(shape[0] / shape[1])


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 KB"), (1, "1 KB"), (453_100, "454 KB"), (1_480_000, "1.5 MB"), (10**13, "10,000.0 GB")],
)
def test_room_on_the_disk_is_told_in_units_that_people_read(size: int, said: str) -> None:
    assert library_page._bytes(size) == said
