import importlib
import sys
from pathlib import Path

import pytest

from clipsearch.folder import LibraryFolder
from clipsearch_indexer import plan, scan_helper, scanner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
fakes = importlib.import_module("fakes")


@pytest.fixture(params=["one process", "several"])
def library(request, tmp_path, monkeypatch):
    """An empty library for photos that were just written, looked over by one process or by three."""
    monkeypatch.setattr("clipsearch_indexer.decode.DecodePool", fakes.SerialPool)
    monkeypatch.setattr(plan, "RACY_NS", -50_000_000)
    if request.param == "several":
        monkeypatch.setattr(scan_helper, "SHARE", 1)
        monkeypatch.setattr(scan_helper, "LEAD", 0)
        monkeypatch.setattr(scanner, "processors", lambda: 3)
    with LibraryFolder.create(tmp_path / "library") as folder:
        yield folder
