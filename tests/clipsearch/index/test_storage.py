from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import StorageError
from clipsearch.index.ivfpq import build
from clipsearch.index.params import IvfPqParams
from clipsearch.index.searcher import Searcher
from clipsearch.index.storage import load, save

N = 1_500


@pytest.fixture(scope="module")
def vectors(world):
    return world.vectors[:N]


@pytest.fixture(scope="module")
def index(vectors):
    return build(vectors, IvfPqParams(lists=20, code_bytes=8), seed=2)


@pytest.fixture(scope="module")
def other(vectors):
    return build(vectors[:1_000], IvfPqParams(lists=10, code_bytes=4, bits=8), seed=4)


class Place:
    def __init__(self, folder: Path, vectors) -> None:
        self.file, self.manifest, self.vectors = folder / "index.faiss", folder / "index.json", vectors

    def save(self, index):
        save(index, self.file, self.manifest, vectors=self.vectors, fingerprint="model", space="home")

    def load(self, **changes):
        arguments = {"fingerprint": "model", "dim": 64, "max_slots": N, "vectors": self.vectors}
        return load(self.file, self.manifest, **(arguments | {"space": "home"} | changes))


@pytest.fixture
def place(tmp_path, vectors, index):
    place = Place(tmp_path, vectors)
    place.save(index)
    return place


def test_what_was_saved_is_loaded(place, index, vectors, world):
    loaded = place.load().index
    assert (loaded.params, loaded.seed, loaded.covered, loaded.key, loaded.effort, loaded.built_at) == (
        (index.params, index.seed, N, "OPQ16_64,IVF20,PQ16x4fs", index.effort, index.built_at)
    )
    for kind, queries in world.fresh.items():
        before = Searcher(vectors, index, exact_limit=0).search(queries, 10, kind=kind)
        after = Searcher(vectors, loaded, exact_limit=0).search(queries, 10, kind=kind)
        np.testing.assert_array_equal(before[1], after[1])
        np.testing.assert_array_equal(before[0], after[0])


def test_codes_of_eight_bits_load_as_well(place, other):
    place.save(other)
    assert place.load().index.key == "OPQ4_64,IVF10,PQ4x8"


def test_the_manifest_says_what_the_index_is(place):
    manifest = json.loads(place.manifest.read_text())
    assert manifest["covered"] == N
    assert manifest["bytes"] == place.file.stat().st_size
    assert manifest["belonging"]["fingerprint"] == "model"
    assert manifest["effort"]["text"] == {"probes": 6, "spread": 80, "recall": None, "latency_ms": None}
    assert manifest["previous"] is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fingerprint": "another"}, "another model"),
        ({"space": "work"}, "another library"),
        ({"dim": 65}, "64 numbers"),
        ({"max_slots": N - 1}, f"{N - 1} exist"),
    ],
)
def test_a_foreign_index_is_left_aside(place, changes, reason):
    loaded = place.load(**changes)
    assert loaded.index is None
    assert reason in loaded.reason


def test_rewritten_vectors_make_it_stale(place, vectors):
    rewritten = np.roll(vectors, 1, axis=0)
    assert "rewritten" in place.load(vectors=rewritten).reason
    assert "rewritten" in place.load(vectors=vectors[: N - 1]).reason


def test_rows_added_since_do_not(place, world):
    assert place.load(vectors=world.vectors[: N + 200], max_slots=N + 200).index is not None


def test_missing_files(place):
    place.file.unlink()
    assert place.load().index is None
    place.manifest.unlink()
    assert place.load().reason == "there is no index yet"


def test_a_folder_in_place_of_either_file(place):
    place.file.unlink()
    place.file.mkdir()
    assert place.load().index is None
    place.manifest.unlink()
    place.manifest.mkdir()
    assert place.load().index is None


def test_a_pipe_in_place_of_either_file_is_not_waited_for(place):
    place.file.unlink()
    os.mkfifo(place.file)
    assert place.load().index is None
    place.manifest.unlink()
    os.mkfifo(place.manifest)
    assert place.load().index is None


def test_truncation_at_every_kind_of_length(place):
    whole = place.file.read_bytes()
    for length in [0, 1, 3, 4, 40, 500, 4_096, 10_000, *(len(whole) - cut for cut in (4_096, 1_000, 8, 1))]:
        place.file.write_bytes(whole[:length])
        assert place.load().index is None, length
    place.file.write_bytes(whole + b"\0")
    assert place.load().index is None
    place.file.write_bytes(whole)
    assert place.load().index is not None


def test_flipped_bits_and_zeroed_pages(place):
    whole = place.file.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= 1 << int(random.integers(8))
        place.file.write_bytes(damaged)
        assert place.load().index is None
    for page in range(0, len(whole), 4_096):
        damaged = bytearray(whole)
        damaged[page : page + 4_096] = bytes(len(damaged[page : page + 4_096]))
        if damaged != whole:
            place.file.write_bytes(damaged)
            assert place.load().index is None


def test_a_damaged_manifest(place, index):
    whole = place.manifest.read_bytes()
    stated = json.loads(whole)
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 2
        place.manifest.write_bytes(damaged)
        loaded = place.load()
        if loaded.index is not None:  # white space or the unused `previous`: nothing that is read changed
            assert json.loads(damaged)["check"] == stated["check"]
            assert (loaded.index.effort, loaded.index.covered) == (index.effort, N)
    for text in (b"", b"[]", b"null", b"{}", b'{"previous": 3}', b"[" * 100_000, whole[:-9], b"\xff\xfe"):
        place.manifest.write_bytes(text)
        assert place.load().index is None


def test_the_answer_stays_exact_with_a_damaged_index(place, vectors, world, brute):
    place.file.write_bytes(bytes(place.file.stat().st_size))
    queries = world.fresh["text"]
    found = Searcher(vectors, place.load().index, exact_limit=0).search(queries, 5, kind="text")
    np.testing.assert_array_equal(found[1], brute(vectors, queries, 5)[1])


def test_an_index_behind_a_manifest_of_another_build_is_refused(place, index, other):
    """A valid file, a valid hash, a manifest that says something else about it."""
    from clipsearch.index import storage

    for change in (
        {"covered": N - 1},
        {"key": "IVF3,PQ8x8"},
        {"params": {"lists": 3}},
        {"effort": {"text": 3}},
    ):
        manifest = json.loads(place.manifest.read_text()) | change
        if "covered" in change:
            manifest["belonging"]["rows"] = storage._rows_digest(place.vectors, N - 1)
        manifest["check"] = storage._check(manifest)
        place.manifest.write_text(json.dumps(manifest))
        loaded = place.load()
        assert loaded.index is None
        assert loaded.reason
        place.save(index)


def test_a_replaced_index_is_named_by_the_manifest_before_and_after(place, other):
    old = place.file.read_bytes()
    place.save(other)
    assert place.load().index.covered == 1_000
    place.file.write_bytes(old)  # as after a crash between the two renames
    assert place.load().index.covered == N
    place.save(other)  # and the entry kept is that of the file in place
    assert json.loads(place.manifest.read_text())["previous"]["covered"] == N


PUBLISH = """
import sys
import numpy as np
from pathlib import Path
from clipsearch.index.storage import load, save
folder = Path(sys.argv[1])
vectors = np.load(folder / "vectors.npy")
new, place = [(folder / f"{name}.faiss", folder / f"{name}.json") for name in ("new", "index")]
found = load(*new, fingerprint="model", dim=64, max_slots=len(vectors))
save(found.index, *place, vectors=vectors, fingerprint="model", space="home")
"""

STEPS = ("open", "write", "sync", "synced", "rename", "renamed", "dirsync")


@pytest.mark.parametrize("name", ["index", "index-manifest"])
def test_killed_while_publishing_leaves_the_old_or_the_new(place, other, vectors, name):
    folder = place.file.parent
    np.save(folder / "vectors.npy", vectors)
    save(other, folder / "new.faiss", folder / "new.json", vectors=vectors, fingerprint="model")
    for step in STEPS:
        killed = subprocess.run(
            [sys.executable, "-c", PUBLISH, folder],
            env=os.environ | {"CLIPSEARCH_FAILPOINT": f"{name}.{step}:kill"},
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, step
        assert place.load().index is not None, step
        assert place.load().index.covered in (1_000, N)


@pytest.mark.parametrize("missing", [1, 1_000, 4_000])
def test_a_disk_that_fills_in_the_last_bytes_leaves_the_old_index(place, index, missing):
    size = place.file.stat().st_size
    before = place.file.read_bytes(), place.manifest.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, hard))
    try:
        with pytest.raises(StorageError, match="full"):
            place.save(index)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (place.file.read_bytes(), place.manifest.read_bytes()) == before
    assert sorted(path.name for path in place.file.parent.iterdir()) == ["index.faiss", "index.json"]
    assert place.load().index is not None
