import json
import math
import os
import shutil
import sys
from pathlib import Path

import pytest

from clipsearch.cli import find
from clipsearch.cli.console import results
from clipsearch.errors import StorageError
from clipsearch.paths import display, from_json
from clipsearch.search import Hit

FAKE = [sys.executable, Path(__file__).with_name("fake_cli.py")]


def found(output):
    """(score, path) of each line."""
    pairs = [line.split("\t") for line in output.splitlines()]
    return [(float(score), path) for score, path in pairs]


def names(done):
    return [os.path.basename(path) for _, path in found(done.stdout)]  # noqa: PTH119


def test_words_find_photos_with_their_cosines(library):
    done = library("query", "red")
    assert found(done.stdout) == [
        (1.0, "photos/red.png"),
        (pytest.approx(255 / math.hypot(255, 128), abs=1e-3), "photos/orange.png"),
        (0.0, "photos/green.png"),
        (0.0, "photos/sea/blue.png"),
    ]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "best"),
    [
        (["red + green"], {"orange": (255 + 128) / math.hypot(255, 128) / math.sqrt(2)}),
        (["red", "+", "0.25:green"], {"red": 4 / math.sqrt(17), "green": 1 / math.sqrt(17)}),
        (["blue - green"], {"blue": 1 / math.sqrt(2), "red": 0, "green": -1 / math.sqrt(2)}),
        (["--", "- red"], {"green": 0, "orange": -255 / math.hypot(255, 128), "red": -1}),
        (["-", "red"], {"blue": 0, "red": -1}),
        (["photos/sea/blue.png"], {"blue": 1, "red": 0}),
        (["photos/red.png - 2:green + 2:blue"], {"red": 1 / 3, "green": -2 / 3, "blue": 2 / 3}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_arithmetic_gives_the_scores_computed_by_hand(library, words, best):
    lines = found(library("query", *words).stdout)
    scores = {os.path.basename(path).removesuffix(".png"): score for score, path in lines}  # noqa: PTH119
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert {name: scores[name] for name in best} == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-n", "2"], ["red.png", "orange.png"]),
        (["-n", "2", "--page", "2"], ["green.png", "blue.png"]),
        (["-n", "2", "--page", "3"], []),
        (["--under", "photos/sea"], ["blue.png"]),
        (["--under", "photos/sea", "--under", "photos/green.png"], ["green.png", "blue.png"]),
        (["--after", "2020", "--before", "2022"], ["orange.png", "green.png"]),
        (["--after", "2020-06", "--before", "2020-08-01"], ["orange.png"]),
        (["--min-score", "0.5"], ["red.png", "orange.png"]),
        (["-n5", "--under", "photos", "--after=2020", "--before=2024", "--min-score=0.2"], ["orange.png"]),
        (["--after", "2024"], []),
    ],
    ids=" ".join,
)  # fmt: skip
def test_filters_narrow(library, options, expected):
    done = library("query", "red", *options)
    assert names(done) == expected
    assert done.stderr == ("" if expected else "Nothing found.\n")


def test_json_is_an_array_of_objects(library, photos):
    hits = json.loads(library("query", "red", "--json", "-n", "2").stdout)
    assert [hit["path"] for hit in hits] == [str(photos / "red.png"), str(photos / "orange.png")]
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)
    assert (hits[0]["width"], hits[0]["height"], hits[0]["format"]) == (8, 8, "PNG")
    assert json.loads(library("query", "red", "--json", "--after", "2030").stdout) == []


def test_paths_are_written_one_a_line_or_by_nul_bytes(library, photos):
    wanted = [os.fsencode(photos / name) for name in ("red.png", "orange.png")]
    assert library("query", "red", "--paths", "-n2", text=False).stdout == b"\n".join(wanted) + b"\n"
    assert library("query", "red", "-0", "-n2", text=False).stdout == b"\0".join(wanted) + b"\0"
    done = library("query", "red", "--paths", "--after", "2030")
    assert (done.stdout, done.stderr) == ("", "")


def test_names_that_are_no_text_are_harmless_on_a_terminal_and_reversible_in_json(commands, photos):
    name = os.fsencode(photos) + b"/\xff\x1b[31m\n" + b"long " * 40 + b".png"
    os.rename(os.fsencode(photos / "red.png"), name)  # noqa: PTH104
    commands("index", photos)
    (line,) = commands("query", "red", "-n", "1").stdout.splitlines()
    assert line == f"1.000\tphotos/{display(os.path.basename(name))}"  # noqa: PTH119
    assert "\x1b" not in line
    (hit,) = json.loads(commands("query", "red", "-n", "1", "--json").stdout)
    assert from_json(hit["path"]) == name
    assert commands("query", "red", "-n", "1", "-0", text=False).stdout == name + b"\0"
    fresh = commands.by(*FAKE)
    done = fresh("query", "red", "-n", "1", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.stdout.startswith("1.000\tphotos/")


def test_the_link_on_a_name_is_as_harmless_as_the_name(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    find._table(
        [Hit(f"/p/{name}.png", 0.5, 1, 0, 8, 6, "PNG") for name in ("plain", "\x1b[2Jcleared", "s.tar/a")]
    )
    out = capsys.readouterr().out
    assert "file:///p/s.tar\x1b" in out  # what is in an archive no other program opens
    assert "file:///p/plain.png" in out
    assert "\x1b[2J" not in out
    assert "cleared.png" in out


def test_similar_leaves_the_photo_itself_out(library, photos, tmp_path):
    assert names(library("similar", "photos/red.png")) == ["orange.png", "green.png", "blue.png"]
    other = tmp_path / "other.png"
    other.write_bytes((photos / "green.png").read_bytes())
    assert names(library("similar", other, "-n", "2")) == ["green.png", "orange.png"]


def test_a_reader_that_has_enough_is_no_error(library):
    process = library.start("query", "red", "--json")
    process.stdout.close()
    assert process.wait() in (-13, 141)
    assert process.stderr.read() == ""
    process.stderr.close()


def test_output_that_cannot_be_written_is_a_sentence(monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(StorageError, match=r"output cannot be written \(No space left"), results():
            full.write("a result")


def test_a_word_that_looks_like_an_option_says_where_it_belongs(library):
    for words in (["- fruit"], ["-fruit"], ["red", "--fruit"], ["-n", "2", "-x"]):
        message = library("query", *words, code=2).stderr
        assert "--" in message
        assert "clipsearch query --" in " ".join(message.replace("│", " ").split())
    assert "clipsearch query --" not in library("query", "red", "-n", "-5", code=2).stderr


LOADED = """
import json, os, sys
sys.argv[1:] = sys.argv[2:]
import clipsearch.devices
clipsearch.devices.may_have_gpu = lambda: False
if "WITH_TORCH" in os.environ:
    import clipsearch.encoder
    clipsearch.encoder.find_spec = lambda _: None  # no ONNX Runtime
from clipsearch.cli.main import run
try:
    run()
finally:
    heavy = (
        "torch onnxruntime faiss sqlalchemy transformers streamlit huggingface_hub PIL rich pydantic asyncio"
        " email http starlette uvicorn zipfile clipsearch.encoder clipsearch.graphs clipsearch.server.client"
        " clipsearch_indexer"
    )
    print(json.dumps([name for name in heavy.split() if name in sys.modules]), file=sys.stderr)
"""


def test_finding_that_nothing_has_changed_loads_no_library_of_images_and_none_of_queries(
    real, photos, tiny_model
):
    chosen = {"CLIPSEARCH_MODELS": str(tiny_model)}
    real("index", photos, "--model", "tiny", **chosen)
    trusting = "import clipsearch_indexer.plan as plan; plan.RACY_NS = -(1 << 62)"  # files just written, too
    done = real.by(sys.executable, "-c", f"{trusting}\n{LOADED}", "-")("index", "--json", **chosen)
    assert json.loads(done.stdout)["unchanged"] == 4
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert not loaded & {"torch", "onnxruntime", "faiss", "sqlalchemy", "PIL", "clipsearch.encoder"}


@pytest.fixture
def for_real(real, photos, tiny_model):
    """Commands over a library that a model of random weights made, each saying what it has loaded."""
    chosen = {"CLIPSEARCH_MODELS": str(tiny_model)}
    real("index", photos, "--model", "tiny", **chosen)
    telling = real.by(sys.executable, "-c", LOADED, "-")

    def run(*arguments, **environment):
        done = telling(*arguments, "--json", **chosen, **environment)
        hits = [(hit["path"], hit["score"]) for hit in json.loads(done.stdout)]
        return hits, json.loads(done.stderr)

    return run


def test_words_are_found_without_torch_and_just_as_with_it(for_real, photos):
    for words in ("a dog", "a dog + 2:red - 'a beach'"):
        hits, loaded = for_real("query", words)
        assert loaded == []
        whole, all_loaded = for_real("query", words, "--device", "cpu", WITH_TORCH="1")
        assert "torch" in all_loaded
        assert [path for path, _ in hits] == [path for path, _ in whole]
        assert [score for _, score in hits] == pytest.approx([score for _, score in whole], abs=1e-5)
    hits, loaded = for_real("similar", photos / "red.png")
    assert len(hits) == 3
    assert loaded == []


def test_pictures_are_found_without_torch_and_just_as_with_it(for_real, photos):
    other = photos.parent / "other.png"
    other.write_bytes((photos / "red.png").read_bytes() + b"another content")
    for asked in (("query", other), ("query", f"{other} + dog"), ("similar", other)):
        hits, loaded = for_real(*asked)
        assert not {"torch", "faiss", "transformers"} & {*loaded}
        whole, all_loaded = for_real(*asked, WITH_TORCH="1")
        assert "torch" in all_loaded
        assert [path for path, _ in hits] == [path for path, _ in whole]
        assert [score for _, score in hits] == pytest.approx([score for _, score in whole], abs=0.01)


def test_an_indexing_run_that_finds_nothing_new_loads_no_model(real, photos, tiny_model):
    chosen = {"CLIPSEARCH_MODELS": str(tiny_model)}
    real("index", photos, "--model", "tiny", **chosen)
    telling = real.by(sys.executable, "-c", LOADED, "-")

    def loaded(*arguments):
        return json.loads(telling("index", *arguments, **chosen).stderr.splitlines()[-1])

    assert not {"torch", "onnxruntime"} & {*loaded()}
    assert "onnxruntime" not in loaded(photos, "--model", "tiny")
    shutil.copy(photos / "red.png", photos / "new.png")
    (photos / "new.png").write_bytes((photos / "new.png").read_bytes() + b"another content")
    found = loaded()
    assert "onnxruntime" in found
    assert "torch" not in found
