"""The index of a library through its life: built, extended, rebuilt, replanned; it answers all the while."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipsearch import library_index
from clipsearch.errors import LibraryEmpty, UsageError
from clipsearch.folder import Batch, LibraryFolder
from clipsearch.index import ExactSearch, planning
from clipsearch.library_index import LibraryIndex, tuning_queries
from clipsearch.metadata import PhotoMetadata
from clipsearch.store import FoundFile, NewImage
from clipsearch_indexer.scan import FileStat
from tests.clipsearch.index.conftest import Gap

DIM, STEP, STEPS = 32, 120, 30


class Growing:
    """A library that is given vectors without photos, and loses some of them."""

    def __init__(self, path: Path) -> None:
        self.folder = LibraryFolder.create(path)
        self.index = LibraryIndex(self.folder)
        self.gap = Gap(DIM, seed=1)
        self.random = np.random.default_rng(2)
        self.added = 0
        with self.folder.writer() as writer:
            self.space = writer.ensure_space("f" * 16, "model", "/model", DIM)
            with writer.changing() as catalog:
                self.root = catalog.roots.add(b"/photos", "0")

    def encode_text(self, texts: list[str]) -> np.ndarray:
        return self.gap.texts(len(texts))

    def add(self, count: int, caption: str = "") -> None:
        images = []
        for number in range(self.added, self.added + count):
            stat = FileStat(b"/photos/%d.jpg" % number, 1, number, number, number, 0)
            facts = PhotoMetadata(width=9, height=9, format="JPEG", caption=f"{caption} {number}".strip())
            place = FoundFile(self.root, stat, 10**18)
            images.append(NewImage(b"%016d" % number, 1, facts, [place]))
        with self.folder.writer() as writer:
            rows = self.gap.images(count)
            writer.commit(Batch(images=images, vectors=rows, space_id=self.space.id))
        self.added += count

    def lose(self, share: float) -> None:
        """Hide some of the files, and forget them."""
        with self.folder.writer() as writer:
            with writer.reading() as catalog:
                rows = list(catalog.files.known(self.root).values())
            gone = [row.file_id for row in rows if not row.missing and self.random.random() < share]
            writer.commit(Batch(missing=gone))
            writer.prune()

    def recall(self) -> dict[str, float]:
        """Of fresh queries of each kind, against exact search of what is visible."""
        with self.folder.snapshot() as photos:
            searcher, allowed = self.index.searcher(photos), photos.visible
            exact = ExactSearch(photos.vectors)
            found = {}
            for kind, queries in (("text", self.gap.texts(20)), ("image", self.gap.images(20))):
                least = exact.search(queries, 10, allowed)[0][:, 9:]
                scores, slots = searcher.search(queries, 10, kind=kind, allowed=allowed)
                assert scores.shape == (20, 10)
                assert np.isin(slots, allowed).all()
                found[kind] = float((scores >= least - 1e-5).mean())
            return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits at which a few thousand vectors are many."""
    for module in (library_index, planning):
        monkeypatch.setattr(module, "EXACT_LIMIT", 600)
    monkeypatch.setattr("clipsearch.index.searcher.EXACT_LIMIT", 600)
    monkeypatch.setattr(library_index, "TAIL", 300)


def test_a_library_that_grows_and_shrinks_is_found_at_every_step(tmp_path: Path, small: None) -> None:
    library = Growing(tmp_path / "library")
    seen: list[tuple[int, int]] = []
    for step in range(STEPS):
        library.add(STEP)
        if step % 3 == 2:
            library.lose(0.05)
        library.index.keep(library.encode_text, None, None)
        with library.folder.snapshot() as photos:
            index = library.index.searcher(photos).index
            slots = photos.space.slots
        if slots > 600:
            assert index is not None
            assert slots - index.covered <= 300
            seen.append((index.trained_on, index.covered))
        for kind, recall in library.recall().items():
            assert recall >= 0.9, (step, kind, recall)
    learnt = [trained for trained, _ in seen]
    assert len(set(learnt)) == 2, "it was learnt anew once it had grown to four times what it was learnt of"
    assert len({covered for _, covered in seen}) > 4, "and extended in between"


def test_another_budget_is_another_index(tmp_path: Path, small: None) -> None:
    library = Growing(tmp_path / "library")
    library.add(1000)
    library.index.keep(library.encode_text, None, None)
    status = library.index.status()
    assert (status["key"], status["mapped"]) == ("OPQ16_32,IVF25,PQ16x4fs", False)
    plan = library.index.plan()
    assert plan.name == status["key"]
    library.index.keep(library.encode_text, 20_000, None)
    assert library.index.status()["mapped"], "nothing fits into 20 KB"
    library.index.keep(library.encode_text, None, None)
    assert library.index.status()["mapped"], "the budget stays until another is named"
    assert library.index.plan(growth=100).vectors == 100_000
    assert min(library.recall().values()) >= 0.9


def test_what_was_measured_is_told(tmp_path: Path) -> None:
    library = Growing(tmp_path / "library")
    library.add(400)
    with pytest.raises(UsageError, match="This library has no index"):
        library.index.curves(library.encode_text, 10)
    library.index.build(library.encode_text, None, None)
    status = library.index.status()
    assert set(status["recall@10"]) == set(status["latency_ms"]) == {"text", "image"}
    curves = library.index.curves(library.encode_text, 5)
    assert set(curves) == {"text", "image"}
    assert all(points[0].recall == 1.0 for points in curves.values())


def test_many_captions_stand_for_what_is_asked(tmp_path: Path) -> None:
    library = Growing(tmp_path / "library")
    asked: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        asked[:] = texts
        return library.encode_text(texts)

    library.add(50, caption="a dog")
    with library.folder.snapshot() as photos:
        tuning_queries(photos, encode)
    assert "a dog 7" in asked
    assert "a photo of a cat" in asked, "few captions stand beside the bank of prompts"
    library.add(250, caption="a cat")
    with library.folder.snapshot() as photos:
        queries = tuning_queries(photos, encode)
    assert len(asked) == 300
    assert all(text.startswith(("a dog", "a cat")) for text in asked)
    assert queries["text"].shape == queries["image"].shape == (300, DIM)


def test_an_empty_library_has_no_plan(tmp_path: Path) -> None:
    with LibraryFolder.create(tmp_path / "library") as folder, pytest.raises(LibraryEmpty):
        LibraryIndex(folder).plan()
