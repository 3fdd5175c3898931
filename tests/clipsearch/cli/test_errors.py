import errno
import mmap
import shutil
import subprocess
import sys
from pathlib import Path

import fakes
import pytest

from clipsearch.cli import main
from clipsearch.mapped_model import map_model

FAKE_CLI = Path(__file__).with_name("fake_cli.py")


def test_no_library_yet(commands):
    for command in (["query", "red"], ["similar", "x.png"], ["status"], ["prune"], ["check"], ["compact"]):
        assert "clipsearch index DIR" in commands.error(*command, code=4)
    assert not commands.library.exists()


def test_an_empty_name_is_not_the_working_directory(commands):
    assert "`.` is this folder" in commands.error("index", "", code=2)
    assert not commands.library.exists()


def test_an_empty_library(commands, tmp_path):
    (tmp_path / "empty").mkdir()
    commands("index", tmp_path / "empty")
    assert commands("query", "red").stderr == "Nothing found.\n"
    assert commands("compact").stderr == "Freed 0 vectors.\n"


def test_a_library_without_a_model(commands):
    from clipsearch.folder import LibraryFolder

    LibraryFolder.create(commands.library).close()
    assert "is empty; `clipsearch index DIR` fills it" in commands.error("query", "red", code=5)
    assert "is empty" in commands.error("similar", "x.png", code=5)
    assert "model    none yet" in commands("status").stdout


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("broken.png", "broken.png cannot be searched for"),
        ("./words", "./words cannot be searched for"),
        ("red + photos/broken.png", "photos/broken.png cannot be searched for"),
    ],
)
def test_a_picture_that_cannot_be_read(library, query, reason):
    for name in ("broken.png", "words", "photos/broken.png"):
        (library.cwd / name).write_text("no picture")
    assert reason in library.error("query", query, code=10)


def test_similar_to_nothing(library):
    assert "nowhere.png cannot be searched for: no such file" in library.error(
        "similar", "nowhere.png", code=10
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["query", "red", "--after", "yesterday"], "'yesterday' is no date"),
        (["query", "red", "--after", "2024", "--before", "2020"], "no photo was taken after"),
        (["query", ""], "the query is empty"),
        (["query", "/nowhere/at/all.jpg"], "there is no picture at /nowhere/at/all.jpg"),
        (["query", "0:red"], "a weight must be"),
        (["query", "red - red"], "cancel each other out"),
        (["index", "nowhere"], "There is nothing at"),
        (["index", "--ann"], "An index needs at least"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_understood(library, arguments, sentence):
    done = library(*arguments, code=2)
    assert sentence in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_a_query_that_cannot_be_parsed_points_at_the_place(library):
    message = library("query", 'red + "blue', code=2).stderr
    assert message.startswith("Error: this quote is never closed")
    assert message.splitlines()[-1] == "        ^"


@pytest.mark.parametrize(
    "arguments", [["query"], ["query", "red", "-n", "-5"], ["query", "red", "--min-score", "2"], ["nonsense"]]
)
def test_wrong_usage(library, arguments):
    assert "Usage: " in library(*arguments, code=2).stderr


def test_a_model_that_is_not_there(commands, photos):
    assert "There is no model nonsense" in commands.error("index", photos, "--model", "nonsense", code=11)


def test_the_models_of_a_library_that_are_gone(library):
    message = library.error("query", "red", code=11, FAKE_MODELS="others")
    assert "made with the model colours" in message


def test_a_damaged_catalog_is_left_as_it_is(library):
    catalog = library.library / "catalog.db"
    catalog.write_bytes(b"not a database" * 1000)
    for command in (["status"], ["query", "red"], ["index"]):
        said = library.error(*command, code=7)
        assert "not the catalog" in said
        assert "put a backup in its place" in said
    assert catalog.read_bytes() == b"not a database" * 1000


def test_a_damaged_vector_is_found_by_check(library):
    (vectors,) = library.library.glob("spaces/*/vectors.f16")
    data = bytearray(vectors.read_bytes())
    data[0] ^= 1
    vectors.write_bytes(data)
    done = library("check", code=7)
    assert "Damaged embedding: photos/" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")


@pytest.fixture
def read_only(library):
    """The library on a disk that cannot be written, where the kernel lets us have one."""
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    prefix = ["unshare", "-m", "sh", "-c", script, "sh", str(library.library)]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no right to mount here")
    return library.by(*prefix, sys.executable, Path(__file__).with_name("fake_cli.py"))


@pytest.mark.parametrize("copied", [False, True])
def test_a_read_only_library_answers_and_says_why_it_is_not_written(read_only, copied):
    """One that was used there, and one copied to such a disk, without what SQLite leaves beside it."""
    if copied:
        for left in read_only.library.glob("catalog.db-*"):
            left.unlink()
    assert "photos/red.png" in read_only("query", "red").stdout
    for command in (["index"], ["prune"]):
        assert "read-only" in read_only.error(*command, code=9).lower()


def test_a_pull_without_network(real):
    done = real("models", "pull", "ViT-B-32", code=14)
    assert done.stderr.splitlines()[-1].startswith("Error: HF_HUB_OFFLINE is set")
    assert "neither a known model nor" in real("models", "pull", "nonsense", code=2).stderr
    assert "models pull ViT-B-32" in real.error("models", "info", "vit-b-32", code=11)
    assert "There is no model or folder" in real.error("models", "info", "nonsense", code=11)


LIMITED = 'ulimit -n "$1"; shift; exec "$@"'


@pytest.mark.parametrize("files", [5, 9])
def test_too_few_open_files_are_a_sentence_and_cost_nothing(library, files):
    limited = library.by("sh", "-c", LIMITED, "sh", str(files), sys.executable, FAKE_CLI)
    fakes.write(library.cwd / "photos/another.png", (9, 9, 200))
    assert "oo many files are open" in limited.error("index", code=9)
    library("check", "--deep")
    assert library("index").stderr.startswith("1 new photo")


def test_a_full_disk_is_searched_and_told_as_such(library):
    full = library.by("sh", "-c", 'ulimit -f 0; exec "$@"', "sh", sys.executable, "-B", FAKE_CLI)
    assert full("query", "red", "-n", "1").stdout == "1.000\tphotos/red.png\n"
    assert "takes no more bytes" in full.error("index", code=9)
    library("check", "--deep")


@pytest.mark.parametrize(
    ("redirected", "words", "code", "said"),
    [
        ("2>/dev/full", ["index"], 0, ""),
        ("2>/dev/full", ["query", "--bogus"], 2, ""),
        (">/dev/full", ["--version"], 9, "cannot be written"),
        (">/dev/full", ["--help"], 9, "cannot be written"),
    ],
)
def test_streams_that_take_nothing_stop_no_work(library, redirected, words, code, said):
    program = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, FAKE_CLI]
    done = library.by(*program)(*words, code=code)
    assert (said in done.stderr, done.stderr.count("\n")) == (True, 1 if said else 0)


def test_an_ordinary_defect_is_not_called_too_many_files(monkeypatch):
    def broken():
        raise FileNotFoundError(2, "No such file or directory", "x")

    monkeypatch.setattr(main, "application", lambda _words: broken)
    monkeypatch.setattr(main, "_end_in_order", lambda: None)
    with pytest.raises(FileNotFoundError):
        main.run()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4718592 bytes."),
        RuntimeError("[ONNXRuntimeError] : 6 : Exception during initialization: std::bad_alloc"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_is_a_sentence(monkeypatch, capsys, error):
    def hungry():
        raise error

    monkeypatch.setattr(main, "application", lambda _words: hungry)
    monkeypatch.setattr(main, "_end_in_order", lambda: None)
    monkeypatch.setattr(main, "drop_output", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 9
    assert capsys.readouterr().err.startswith("Error: There is not enough memory: a smaller model")


def test_a_model_that_cannot_be_mapped_for_want_of_memory_is_not_called_invalid(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", full)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"not empty")
    with pytest.raises(OSError, match="Cannot allocate memory"):
        map_model(tmp_path)
