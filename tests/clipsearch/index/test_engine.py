"""Two packages bring the module `faiss`; with both or none of them the way out is told."""

from __future__ import annotations

import sys
import types

import pytest

from clipsearch.errors import MissingExtra
from clipsearch.index import engine


@pytest.fixture(autouse=True)
def checked_anew():
    engine._only_one.cache_clear()
    yield
    engine._only_one.cache_clear()


def having(monkeypatch, *packages):
    monkeypatch.setattr(engine, "_installed", lambda name: name in packages)


def test_both_packages_are_refused(monkeypatch):
    having(monkeypatch, engine.FOR_CPU, engine.FOR_GPU)
    with pytest.raises(
        MissingExtra, match=r"both installed.*uninstall -y faiss-cpu.*--no-deps faiss-gpu-cu12"
    ):
        engine.faiss()


@pytest.mark.parametrize("left", [None, types.ModuleType("faiss")], ids=["nothing", "an empty folder"])
@pytest.mark.parametrize("package", [engine.FOR_CPU, engine.FOR_GPU])
def test_none_is_told_with_what_to_install(monkeypatch, left, package):
    having(monkeypatch, package)
    monkeypatch.setitem(sys.modules, "faiss", left)
    with pytest.raises(MissingExtra, match=f"FAISS is missing: .*{package}`"):
        engine.faiss()


@pytest.mark.parametrize("package", [engine.FOR_CPU, engine.FOR_GPU])
def test_one_is_enough(monkeypatch, package):
    having(monkeypatch, package)
    assert engine.faiss().IndexFlatIP(4).d == 4
