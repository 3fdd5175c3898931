"""A library of each format version that was ever written opens, answers, and takes more photos."""

import importlib
import sys
import tarfile
from pathlib import Path

import pytest

from clipsearch import Library
from clipsearch.store.migrations import CURRENT_VERSION

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
fakes = importlib.import_module("fakes")
LIBRARIES = Path(__file__).with_name("libraries")


def test_there_is_one_of_each_format():
    made = {path.name for path in LIBRARIES.glob("*.tar.gz")}
    assert made == {f"format-{number}.tar.gz" for number in range(1, CURRENT_VERSION + 1)}


@pytest.mark.parametrize("number", range(1, CURRENT_VERSION + 1))
def test_it_opens_answers_and_goes_on(number, tmp_path, monkeypatch):
    monkeypatch.setattr("clipsearch_indexer.decode.DecodePool", fakes.SerialPool)
    with tarfile.open(LIBRARIES / f"format-{number}.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    with Library.open(tmp_path / "library", encoder=fakes.ColourEncoder()) as library:
        assert library.check().is_good
        best = library.search("red", 1)[0]
        assert best.score == pytest.approx(1, abs=1e-3)
        assert sorted(Path(path).name for path in (best.path, *best.copies)) == ["copy of red.png", "red.png"]
        assert [Path(hit.path).name for hit in library.search("blue", 1)] == ["blue.png"]
        status = library.status()
        assert (status.images, status.files, status.failed, status.model) == (3, 4, 1, "colours")
        fakes.write(tmp_path / "new" / "orange.png", (255, 128, 0))
        assert library.index([tmp_path / "new"]).new == 1
        assert library.compact() == 1
        assert library.check().is_good
        library.backup(tmp_path / "copy")
        assert len(library.search("red")) == 4
