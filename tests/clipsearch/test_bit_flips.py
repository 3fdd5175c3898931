"""Flipped bits in the catalog, the vectors and the index: found by a check, and never an answer.

CLIPSEARCH_FLIPS says how many of each; `make crash-test` takes 1,000.
"""

import importlib
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

from clipsearch import Library
from clipsearch.errors import ClipsearchError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
fakes = importlib.import_module("fakes")
FLIPS = int(os.environ.get("CLIPSEARCH_FLIPS", "30"))
QUERIES = ("red", "green - blue")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A library of 300 photos with an index; some were pruned, one is missing, one file failed."""
    home = tmp_path_factory.mktemp("flips")
    for number in range(302):
        fakes.write(
            home / "photos" / f"{number:03}.png", (number // 2, 255 - number // 2, 9), note=str(number)
        )
    (home / "photos" / "bad.png").write_bytes(b"no picture")
    with pytest.MonkeyPatch.context() as patch, opened(home / "library", create=True) as library:
        patch.setattr("clipsearch_indexer.decode.DecodePool", fakes.SerialPool)
        library.index([home / "photos"])
        (home / "photos" / "000.png").unlink()
        library.index()
        library.prune()
        (home / "photos" / "001.png").unlink()
        library.index()
        library.build_index()
    return home / "library"


def opened(path, **options):
    return Library.open(path, encoder=fakes.ColourEncoder(dim=16), **options)


def answers(path):
    """What a user sees of each query, or the sentence that is said instead."""
    try:
        with opened(path) as library:
            return [[(hit.path, hit.score, hit.taken_at) for hit in library.search(q, 9)] for q in QUERIES]
    except ClipsearchError as error:
        return str(error)


def is_found(path):
    """Whether `check --deep` would end with another exit code than 0."""
    try:
        with opened(path) as library:
            return not library._folder.check(deep=True).is_good
    except ClipsearchError:
        return True


@pytest.mark.parametrize(
    ("pattern", "refuses"),
    [("catalog.db", True), ("spaces/*/vectors.f16", True), ("spaces/*/index.faiss", False)],
    ids=["catalog", "vectors", "index"],
)
def test_a_flipped_bit_is_found_and_gives_no_wrong_answer(path, tmp_path, pattern, refuses):
    shutil.copytree(path, tmp_path / "library")
    (file,) = (tmp_path / "library").glob(pattern)
    data, right = file.read_bytes(), answers(path)
    assert isinstance(right, list)
    assert not is_found(path)
    chance = random.Random(pattern)
    for _ in range(FLIPS):
        at, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        file.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        for left in tmp_path.glob("library/catalog.db-*"):
            left.unlink()
        flipped = file.read_bytes()
        told = answers(tmp_path / "library")
        assert told == right or (refuses and isinstance(told, str)), (at, bit)
        assert is_found(tmp_path / "library"), (at, bit)
        assert file.read_bytes() == flipped, (at, bit)


@pytest.mark.parametrize("pattern", ["catalog.db", "spaces/*/vectors.f16", "spaces/*/index.faiss"])
def test_a_zeroed_page_likewise(path, tmp_path, pattern):
    shutil.copytree(path, tmp_path / "library")
    (file,) = (tmp_path / "library").glob(pattern)
    data, right = file.read_bytes(), answers(path)
    starts = range(0, len(data), 4096)
    for start in random.Random(1).sample(starts, min(FLIPS // 10, len(starts))):
        zeroed = data[:start] + bytes(len(data[start : start + 4096])) + data[start + 4096 :]
        file.write_bytes(zeroed)
        told = answers(tmp_path / "library")
        assert told == right or isinstance(told, str), start
        assert zeroed == data or is_found(tmp_path / "library"), start


def test_a_damaged_index_is_told_removed_by_repair_and_made_anew(path, tmp_path, monkeypatch):
    shutil.copytree(path, tmp_path / "library")
    (file,) = (tmp_path / "library").glob("spaces/*/index.faiss")
    right, data = answers(path), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with opened(tmp_path / "library") as library:
        assert library.status().index["kind"] == "exact"
        assert "damaged" in library.check().spaces[0].index
        repaired, summary = library.repair()
        assert (repaired.indexes, repaired.dropped, summary) == (1, 0, None)
        assert not file.exists()
        assert library.check(deep=True).is_good
        assert answers(tmp_path / "library") == right
        for module in ("library_index", "index.planning", "index.searcher"):  # else 300 are too few
            monkeypatch.setattr(f"clipsearch.{module}.EXACT_LIMIT", 200)
        library.index()
        assert library.status().index["kind"] == "ivf-pq"
    assert answers(tmp_path / "library") == right
