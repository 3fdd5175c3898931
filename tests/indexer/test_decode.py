# ruff: noqa: PTH104, PTH116, PTH211
# The paths under test are bytes, which pathlib cannot hold.
import errno
import hashlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsearch.errors import ImageError
from clipsearch.files import ImageFileError, read_file
from clipsearch.images import decode
from clipsearch_indexer import decode as decoding
from clipsearch_indexer import worker
from clipsearch_indexer.decode import (
    Decoded,
    DecodePool,
    Failed,
    Job,
    Known,
    Limits,
    Result,
    default_workers,
)
from clipsearch_indexer.scan import FileStat, Unscanned, scan

QUICK = Limits(memory_bytes=200 << 20, cpu_seconds=5, wall_seconds=30)


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("decode_hooks")


@pytest.fixture
def hook(hooks: Any, tmp_path: Path) -> Any:
    return hooks.Hook(tmp_path / "log")


@pytest.fixture
def photo(tmp_path: Path) -> Callable[[int], bytes]:
    """Makes an image file that asks the hook for something and gives its path."""

    def make(order: int) -> bytes:
        path = tmp_path / f"{len(list(tmp_path.glob('*.png')))}.png"
        Image.new("RGB", (20, 20), (order, 77, 99)).save(path)
        return os.fsencode(path)

    return make


def run(pool: DecodePool, paths: list[bytes], **options: Any) -> list[Result]:
    """The results in the order of `paths`; every path has exactly one."""
    results = list(pool.run((Job(i, path, **options) for i, path in enumerate(paths)), ahead=16))
    assert sorted(result.id for result in results) == list(range(len(paths)))
    return sorted(results, key=lambda result: result.id)


def pids(hook: Any) -> list[int]:
    return [int(line) for line in hook.log.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kind(result: Result) -> str:
    return result.kind if isinstance(result, Failed) else type(result).__name__


def test_what_a_worker_gives_is_what_decoding_here_gives(tmp_path: Path, hooks: Any, hook: Any) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Canon"
    Image.radial_gradient("L").resize((900, 700)).convert("RGB").save(path, exif=exif)
    with DecodePool(1, hooks.Preprocess(64).pixels, 64) as pool:
        (result,) = run(pool, [os.fsencode(path)])
    image, metadata = decode(path, cover=64)
    assert isinstance(result, Decoded)
    assert np.array_equal(result.pixels, hooks.Preprocess(64).pixels(image))
    assert result.pixels.dtype == np.uint8
    assert result.pixels.shape == (64, 64, 3)
    assert result.metadata == metadata
    assert (metadata.width, metadata.height, metadata.camera) == (700, 900, "Canon")
    assert result.content_hash == hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    assert result.stat == FileStat.of(os.fsencode(path), path.stat())


def test_known_content_is_not_decoded(hooks: Any, hook: Any, photo: Callable[[int], bytes]) -> None:
    path = photo(hooks.CRASH)
    content = hashlib.blake2b(Path(os.fsdecode(path)).read_bytes(), digest_size=16).digest()
    with DecodePool(1, hook, 8) as pool:
        (result,) = run(pool, [path], known=(b"other", content))
    assert result == Known(0, content, FileStat.of(path, os.stat(path)))
    assert not hook.log.exists()


def test_trouble_costs_only_its_file(hooks: Any, hook: Any, photo: Callable[[int], bytes]) -> None:
    fine = hooks.FINE
    orders = [fine, hooks.CRASH, fine, hooks.RAISE, hooks.SWELL, fine, hooks.ABORT, fine]
    with DecodePool(2, hook, 8, limits=QUICK) as pool:
        results = run(pool, [photo(order) for order in orders])
    kinds = "Decoded crashed Decoded corrupt memory Decoded crashed Decoded"
    assert " ".join(kind(result) for result in results) == kinds
    reasons = [result.reason for result in results if isinstance(result, Failed)]
    assert reasons == [
        "the decoder crashed (SIGSEGV)",
        "cannot be resized (ValueError: no such thing)",
        "not enough memory to decode it",
        "the decoder crashed (SIGABRT)",
    ]
    # Crashes and want of memory are tried twice, the rest once.
    assert len(pids(hook)) == len(orders) + 3


def test_a_file_may_cost_a_gibibyte_and_ten_seconds(
    hooks: Any, hook: Any, photo: Callable[[int], bytes]
) -> None:
    with DecodePool(1, hook, 8) as pool:
        huge, half = run(pool, [photo(hooks.HUGE), photo(hooks.SWELL)])
    assert (kind(huge), kind(half)) == ("memory", "Decoded")
    assert Limits().cpu_seconds == 10


def test_a_second_try_runs_alone(hooks: Any, hook: Any, photo: Callable[[int], bytes]) -> None:
    paths = [photo(hooks.CRASH_ONCE)] + [photo(hooks.SLOW)] * 6
    with DecodePool(3, hook, 8) as pool:
        first, *others = run(pool, paths)
    assert isinstance(first, Decoded)
    assert first.pixels[0, 0, 2] == 0  # nobody beside it
    assert all(isinstance(result, Decoded) for result in others)
    assert len({*pids(hook)}) >= 3


def test_a_hanging_decoder_is_ended(hooks: Any, hook: Any, photo: Callable[[int], bytes]) -> None:
    paths = [photo(hooks.SLEEP), photo(hooks.FINE)]
    with DecodePool(1, hook, 8, limits=replace(QUICK, wall_seconds=0.5)) as pool:
        results = run(pool, paths)
    assert results[0] == Failed(0, "decoding did not end within 0.5 s", "timeout", None)
    assert isinstance(results[1], Decoded)


def test_a_spinning_decoder_is_ended_by_its_processor_time(
    hooks: Any, hook: Any, photo: Callable[[int], bytes]
) -> None:
    paths = [photo(hooks.SPIN), photo(hooks.FINE)]
    with DecodePool(1, hook, 8, limits=replace(QUICK, cpu_seconds=0.5)) as pool:
        results = run(pool, paths)
    assert results[0] == Failed(0, "decoding took more than 0.5 s of processor time", "timeout", None)
    assert isinstance(results[1], Decoded)


def test_an_interrupt_reaches_no_worker(hooks: Any, hook: Any, photo: Callable[[int], bytes]) -> None:
    with DecodePool(1, hook, 8) as pool:
        results = run(pool, [photo(hooks.INTERRUPT), photo(hooks.FINE)])
    assert [kind(result) for result in results] == ["Decoded", "Decoded"]
    assert os.getpgid(0) != pids(hook)[0]


def test_workers_load_nothing_heavy(hooks: Any, hook: Any, photo: Callable[[int], bytes]) -> None:
    with DecodePool(1, hook, 8) as pool:
        (result,) = run(pool, [photo(hooks.FINE)])
    assert isinstance(result, Decoded)
    assert result.pixels[0, 0, 1] == 0


def test_files_that_cannot_be_read(tmp_path: Path, hook: Any) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 40)
    names = ["fifo", "loop", "folder", "empty", "text", "sparse", "gone"]
    with DecodePool(2, hook, 8) as pool:
        results = run(pool, [os.fsencode(tmp_path / f"{name}.jpg") for name in names])
    kinds = ["unreadable", "unreadable", "unreadable", "corrupt", "corrupt", "too-large", "missing"]
    assert [kind(result) for result in results] == kinds


def test_links_are_read_only_when_asked_to(hooks: Any, hook: Any, photo: Callable[[int], bytes]) -> None:
    path = photo(hooks.FINE)
    link = path.replace(b".png", b"-link.png")
    os.symlink(path, link)
    for follow, expected in ((False, "unreadable"), (True, "Decoded")):
        with DecodePool(1, hook, 8, follow_symlinks=follow) as pool:
            assert kind(run(pool, [link])[0]) == expected


def test_a_file_with_a_name_of_any_bytes(tmp_path: Path, hook: Any, photo: Callable[[int], bytes]) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe\n.png"
    os.rename(photo(0), path)
    with DecodePool(1, hook, 8) as pool:
        (result,) = run(pool, [path])
    assert isinstance(result, Decoded)
    assert result.stat.path == path


@pytest.mark.parametrize(("times", "expected"), [(1, "Decoded"), (2, "changed")])
def test_a_file_that_changed_is_read_once_more(
    monkeypatch: pytest.MonkeyPatch, photo: Callable[[int], bytes], hooks: Any, times: int, expected: str
) -> None:
    left = iter(range(times))
    read = read_file

    def changing(path: bytes, **options: bool) -> Any:
        if next(left, None) is not None:
            raise ImageFileError("the file changed while it was read", "changed")
        return read(path, **options)

    monkeypatch.setattr(worker, "read_file", changing)
    setup = worker.Setup(hooks.Preprocess(8).pixels, 8, Limits(), False)
    assert kind(worker.serve(Job(1, photo(0)), setup)) == expected


def test_jobs_are_taken_only_so_far_ahead(hook: Any, photo: Callable[[int], bytes]) -> None:
    path = photo(0)
    taken = 0

    def jobs() -> Iterator[Job]:
        nonlocal taken
        for number in range(20):
            taken += 1
            yield Job(number, path)

    with DecodePool(2, hook, 8) as pool:
        for done, _ in enumerate(pool.run(jobs(), ahead=4)):
            assert taken <= done + 4
    assert taken == 20


def test_a_run_may_be_left_and_another_begun(hook: Any, photo: Callable[[int], bytes]) -> None:
    path = photo(0)
    with DecodePool(2, hook, 8) as pool:
        left = pool.run((Job(1000 + i, path) for i in range(50)), ahead=8)
        assert next(left).id >= 1000
        with pytest.raises(RuntimeError, match="in a run already"):
            next(pool.run([], ahead=1))
        left.close()
        assert len(run(pool, [path] * 10)) == 10


def test_an_error_of_the_jobs_is_the_callers(hook: Any, photo: Callable[[int], bytes]) -> None:
    path = photo(0)

    def jobs() -> Iterator[Job]:
        yield Job(0, path)
        raise LookupError("no more rows")

    with DecodePool(1, hook, 8) as pool:
        with pytest.raises(LookupError, match="no more rows"):
            list(pool.run(jobs(), ahead=4))
        assert kind(run(pool, [path])[0]) == "Decoded"


def test_a_worker_that_dies_idle_costs_nothing(hook: Any, photo: Callable[[int], bytes]) -> None:
    path = photo(0)
    with DecodePool(1, hook, 8) as pool:
        run(pool, [path])
        os.kill(pids(hook)[0], signal.SIGKILL)
        assert [kind(result) for result in run(pool, [path] * 3)] == ["Decoded"] * 3


def test_closing_leaves_no_process(hooks: Any, hook: Any, photo: Callable[[int], bytes]) -> None:
    with DecodePool(2, hook, 8) as pool:
        results = pool.run([Job(0, photo(hooks.FINE)), Job(1, photo(hooks.SLEEP))], ahead=2)
        assert next(results).id == 0
        while len(pids(hook)) < 2:
            time.sleep(0.01)
    assert not [pid for pid in pids(hook) if alive(pid)]


def test_no_jobs_no_workers(hook: Any) -> None:
    with DecodePool(4, hook, 8) as pool:
        assert list(pool.run([], ahead=4)) == []


def test_a_decoder_that_cannot_start_is_one_error(
    hook: Any, photo: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecodePool(2, hook, 8) as pool:
        for _ in range(2):
            with pytest.raises(ImageError, match="does not start"):
                list(pool.run([Job(0, photo(0))], ahead=1))


def test_pixels_by_something_that_cannot_be_sent_are_refused_at_once() -> None:
    with pytest.raises(Exception, match="pickle"):
        DecodePool(1, lambda image: np.asarray(image), 8)


ORPHAN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from decode_hooks import Hook
from clipsearch_indexer.decode import DecodePool, Job
with DecodePool(2, Hook(Path(sys.argv[2])), 8) as pool:
    list(pool.run([Job(0, sys.argv[3].encode()), Job(1, sys.argv[4].encode())], ahead=2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a decoder ends when its file is done")
def test_no_worker_outlives_a_killed_parent(hooks: Any, hook: Any, photo: Callable[[int], bytes]) -> None:
    paths = [os.fsdecode(photo(hooks.SLEEP)) for _ in range(2)]
    script = [sys.executable, "-c", ORPHAN, str(Path(__file__).parent), str(hook.log), *paths]
    with subprocess.Popen(script) as parent:
        while not hook.log.exists() or len(pids(hook)) < 2:
            assert parent.poll() is None
            time.sleep(0.02)
        assert all(alive(pid) for pid in pids(hook))
        parent.kill()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids(hook)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in pids(hook) if alive(pid)]


def test_the_default_number_of_workers() -> None:
    assert 1 <= default_workers() <= (os.cpu_count() or 1)


def rows(manifest: Path) -> list[tuple[str, str, str]]:
    """(file, kind, expected) of a MANIFEST.tsv."""
    lines = manifest.read_text().splitlines()[1:]
    parts = [line.split("\t") for line in lines]
    return [(name, what, expected) for name, what, expected in parts]


def unlike(expected: str, result: Result) -> bool:
    return (expected == "decodes" and not isinstance(result, Decoded)) or (
        expected == "fails" and not isinstance(result, Failed)
    )


@pytest.mark.shared
def test_the_malformed_files(shared: Path, hooks: Any) -> None:
    manifest = rows(shared / "bad/MANIFEST.tsv")
    assert len(manifest) == 644
    with DecodePool(2, hooks.Preprocess(64).pixels, 64) as pool:
        results = run(pool, [os.fsencode(shared / "bad" / name) for name, _, _ in manifest])
    wrong = [(row, result) for row, result in zip(manifest, results, strict=True) if unlike(row[2], result)]
    assert not wrong
    assert {kind(result) for result in results} <= {"Decoded", "corrupt", "too-large"}


@pytest.mark.shared
def test_every_photo_decodes(shared: Path, hooks: Any) -> None:
    found = list(scan(os.fsencode(shared / "photos")))
    files = [item for item in found if isinstance(item, FileStat)]
    assert len(files) == len(found) == 286
    with DecodePool(2, hooks.Preprocess(64).pixels, 64) as pool:
        results = run(pool, [file.path for file in files])
    assert not [result for result in results if not isinstance(result, Decoded)]
    assert [result.stat for result in results] == files


def manifest_name(path: bytes) -> str:
    """The spelling of make_oddities.py."""
    return "".join(chr(c) if 0x21 <= c <= 0x7E and c != 0x5C else f"\\x{c:02x}" for c in path)


@pytest.mark.shared
def test_bombs_odd_names_and_special_files(oddities: Path, hooks: Any) -> None:
    # Permissions bind everyone but root, who may be running this; test_scan has its own tests of them.
    manifest = {
        name: what for name, kind_, what in rows(oddities / "MANIFEST.tsv") if "non-root" not in kind_
    }
    root = os.fsencode(oddities)
    found = list(scan(root, excludes=()))
    files = {manifest_name(os.path.relpath(i.path, root)): i for i in found if isinstance(i, FileStat)}
    left = {manifest_name(os.path.relpath(i.path, root)) for i in found if isinstance(i, Unscanned)}
    with DecodePool(2, hooks.corner, 64) as pool:
        results = dict(zip(files, run(pool, [file.path for file in files.values()]), strict=True))
    assert not {name for name, what in manifest.items() if what == "decodes" and name not in results}
    skipped = {name for name, what in manifest.items() if what == "skipped"}
    assert not skipped & set(results)
    assert skipped - left <= {"fs/directory.jpg"}  # which is entered
    assert not [(name, r) for name, r in results.items() if unlike(manifest.get(name, "either"), r)]


def test_with_room_for_one_decoder_it_goes_on_with_one(
    hooks: Any, hook: Any, photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = decoding._Worker
    started: list[Any] = []

    def limited(setup: bytes) -> Any:
        if started:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        started.append(start(setup))
        return started[0]

    monkeypatch.setattr(decoding, "_Worker", limited)
    with DecodePool(4, hook, None) as pool:
        assert [kind(result) for result in run(pool, [photo(0) for _ in range(8)])] == ["Decoded"] * 8
    assert len(started) == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EAGAIN])
def test_without_room_for_any_it_says_so(
    hook: Any, photo: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(_setup: bytes) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(decoding, "_Worker", full)
    with DecodePool(4, hook, None) as pool, pytest.raises(ImageError, match=os.strerror(number)):
        run(pool, [photo(0)])
