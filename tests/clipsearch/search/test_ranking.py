from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from clipsearch import paths
from clipsearch.errors import ModelMismatch, UsageError
from clipsearch.index.searcher import Searcher
from clipsearch.search.ranking import rank
from clipsearch.search.where import Where
from clipsearch.store.rows import Hit as StoredHit
from clipsearch.store.rows import ImageRow

# On the unit circle, so that the cosine with the first axis is known: slot -> degrees.
DEGREES = [90, 0, 30, 60, 30, 180, 45]
PATHS = [
    (b"/a/ninety.jpg",),
    (b"/a/zero.jpg", b"/b/zero again.jpg"),
    (b"/b/thirty.jpg",),
    (b"/b/sixty.jpg",),
    (b"/c/thirty too.jpg",),
    (b"/c/behind.jpg",),
    (b"/d/caf\xe9\n.jpg",),
]


def image(slot: int) -> ImageRow:
    return ImageRow(
        id=100 + slot,
        hash=bytes(16),
        size=1,
        width=640,
        height=480,
        format="JPEG",
        taken_at="2024-05-31T18:04:00",
        taken_offset=None,
        dated_at="2024-05-31T18:04:00",
        latitude=1.5,
        longitude=-2.5,
        camera="Make Model",
        lens=None,
        caption="a caption",
        keywords=("one", "two"),
        added_at="2024-06-01T00:00:00",
    )


class FakePhotos:
    """Seven photos, the last but one of them deleted; filters by folder only."""

    deleted = 5

    def slots_where(self, wanted):
        found = [
            slot
            for slot, names in enumerate(PATHS)
            if slot != self.deleted
            and (
                not wanted.under
                or any(name.startswith(f.rstrip(b"/") + b"/") for name in names for f in wanted.under)
            )
        ]
        return np.array(found, np.int64)

    def hits(self, slots):
        return [StoredHit(slot, image(slot), PATHS[slot]) for slot in slots]


@pytest.fixture
def search():
    angles = np.radians(DEGREES)
    searcher = Searcher(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16))

    def run(vector=(1, 0), **options):
        return rank(FakePhotos(), searcher, np.array(vector, np.float32), "text", **options)

    return run


def test_best_first_ties_by_slot_deleted_never(search):
    hits = search()
    assert [hit.slot for hit in hits] == [1, 2, 4, 6, 3, 0]
    np.testing.assert_allclose([hit.score for hit in hits], [1, 0.866, 0.866, 0.707, 0.5, 0], atol=1e-3)


def test_pages_join_to_the_whole(search):
    pages = [search(k=2, page=page) for page in (1, 2, 3, 4, 50)]
    assert [[hit.slot for hit in page] for page in pages] == [[1, 2], [4, 6], [3, 0], [], []]


def test_least_score(search):
    assert [hit.slot for hit in search(where=Where(min_score=0.6))] == [1, 2, 4, 6]
    assert [hit.slot for hit in search(where=Where(min_score=0.6), k=3, page=2)] == [6]
    assert search(where=Where(min_score=1.0)) == search(k=1)


def test_a_folder_shows_the_copy_that_lies_in_it(search):
    hits = search(where=Where(under=(b"/b/",)))
    assert [hit.path for hit in hits] == ["/b/zero again.jpg", "/b/thirty.jpg", "/b/sixty.jpg"]
    assert hits[0].copies == ("/a/zero.jpg",)
    assert search(k=1)[0].path == "/a/zero.jpg"
    assert search(k=1)[0].copies == ("/b/zero again.jpg",)


def test_a_folder_without_photos(search):
    assert search(where=Where(under=(b"/nowhere",))) == []


def test_slots_left_out(search):
    assert [hit.slot for hit in search(without=[1, 4])] == [2, 6, 3, 0]


def test_what_stands_behind_a_hit(search):
    hit = search(k=1)[0]
    assert (hit.image_id, hit.width, hit.height, hit.format) == (101, 640, 480, "JPEG")
    assert (hit.taken_at, hit.latitude, hit.longitude) == ("2024-05-31T18:04:00", 1.5, -2.5)
    assert (hit.camera, hit.lens, hit.caption, hit.keywords) == (
        "Make Model",
        None,
        "a caption",
        ("one", "two"),
    )


def test_json_gives_the_bytes_of_every_path_back(search):
    written = json.dumps([hit.to_dict() for hit in search()])
    read = json.loads(written)
    assert [paths.from_json(found["path"]) for found in read] == [PATHS[hit.slot][0] for hit in search()]
    assert read[0]["score"] == 1.0
    assert read[0]["copies"] == ["/b/zero again.jpg"]
    assert read[0]["keywords"] == ["one", "two"]


def test_scores_are_cosines_although_half_precision_rows_are_a_little_long():
    row = np.full((1, 5), 5**-0.5).astype(np.float16)
    assert float((row.astype(np.float64) ** 2).sum()) > 1
    photos = FakePhotos()
    photos.slots_where = lambda wanted: np.array([0])
    assert rank(photos, Searcher(row), row[0].astype(np.float32), "image")[0].score == 1.0


@pytest.mark.parametrize(
    "options", [{"k": 0}, {"k": -5}, {"k": -5, "page": 2}, {"page": 0}, {"page": -1}, {"page": 1.5}]
)
def test_numbers_below_one_are_refused(search, options):
    with pytest.raises(UsageError):
        search(**options)


def test_unusable_vectors_are_refused(search):
    with pytest.raises(UsageError):
        search((0, 0))
    with pytest.raises(UsageError):
        search((np.nan, 1))
    with pytest.raises(ModelMismatch):
        search((1, 0, 0))


def test_importing_it_is_light():
    code = (
        "import sys, clipsearch.search.ranking, clipsearch.search.compose\n"
        "print(sorted({'torch', 'sqlalchemy', 'faiss'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
