import pytest

from clipsearch.store.rows import KnownFailure, KnownFile, RootRow
from clipsearch_indexer.places import Place, covers, home_of, places
from clipsearch_indexer.plan import make_plan
from clipsearch_indexer.scan import FileStat, Settled, Unscanned

SECOND = 1_000_000_000
ROOT = RootRow(1, b"/p", None, True, None)
HERE = Place(b"/p", frozenset())
FILE = FileStat(b"/p/a.jpg", size=10, mtime_ns=100 * SECOND, ctime_ns=100 * SECOND, inode=7, device=1)
ROW = KnownFile(3, 5, 10, 100 * SECOND, 100 * SECOND, 7, 1, 0, 200 * SECOND)


def plan(found, known=None, failures=None, **options):
    return make_plan(ROOT, HERE, found, known or {}, failures or {}, **options)


def test_what_is_as_it_was_is_unchanged_also_on_another_device():
    found = plan([FILE._replace(device=9)], {FILE.path: ROW})
    assert (found.unchanged, found.work, found.vanished) == (1, [], {})


@pytest.mark.parametrize("field", ["size", "mtime_ns", "ctime_ns", "inode"])
def test_any_difference_is_work(field):
    changed = FILE._replace(**{field: getattr(FILE, field) + 1})
    found = plan([changed], {FILE.path: ROW})
    assert [(work.root_id, work.file, work.row) for work in found.work] == [(1, changed, ROW)]
    assert found.unchanged == 0


@pytest.mark.parametrize(
    ("mtime", "ctime", "verified", "unchanged"),
    [
        (100, 100, 102, False),
        (100, 100, 103, True),
        (1, 100, 101, False),
        (100, 1, 101, False),
        (100, 100, 50, False),
    ],
)
def test_content_read_within_two_seconds_of_a_change_is_read_again(mtime, ctime, verified, unchanged):
    file = FILE._replace(mtime_ns=mtime * SECOND, ctime_ns=ctime * SECOND)
    row = ROW._replace(mtime_ns=mtime * SECOND, ctime_ns=ctime * SECOND, verified_at_ns=verified * SECOND)
    assert plan([file], {FILE.path: row}).unchanged == unchanged


def test_a_missing_file_that_is_there_as_it_was_has_returned():
    found = plan([FILE], {FILE.path: ROW._replace(missing=1)})
    assert (found.returned, found.unchanged, found.work) == ([3], 0, [])


def test_an_unchanged_file_without_an_embedding_is_work():
    found = plan([FILE], {FILE.path: ROW}, lacks_embedding=lambda row: row.image_id == 5)
    assert [work.row for work in found.work] == [ROW]
    assert plan([FILE], {FILE.path: ROW}, lacks_embedding=lambda row: row.image_id == 6).work == []


@pytest.mark.parametrize("kind", ["corrupt", "too-large", "memory", "crashed", "timeout"])
def test_a_lasting_failure_is_not_tried_again_until_the_file_changes(kind):
    failures = {FILE.path: KnownFailure(10, 100 * SECOND, kind, 1)}
    found = plan([FILE], None, failures)
    assert (found.quarantined, found.work, found.solved) == (1, [], [])
    for changed in (FILE._replace(size=11), FILE._replace(mtime_ns=101 * SECOND)):
        found = plan([changed], None, failures)
        assert (found.quarantined, len(found.work)) == (0, 1)


@pytest.mark.parametrize("kind", ["permission", "unreadable", "changed", "missing", "model"])
def test_a_passing_failure_is_tried_each_time(kind):
    found = plan([FILE], None, {FILE.path: KnownFailure(10, 100 * SECOND, kind, 9)})
    assert (found.quarantined, len(found.work)) == (0, 1)


def test_a_failure_of_a_file_that_is_gone_or_well_is_solved():
    failure = KnownFailure(10, 100 * SECOND, "permission", 1)
    found = plan([FILE], {FILE.path: ROW}, {FILE.path: failure, b"/p/gone.jpg": failure})
    assert found.solved == [FILE.path, b"/p/gone.jpg"]


def test_what_was_not_met_has_vanished_but_not_where_nothing_could_be_seen():
    known = dict.fromkeys((b"/p/a/1", b"/p/ab", b"/p/b", b"/p/c"), ROW)
    failures = {path: KnownFailure(1, 1, "corrupt", 1) for path in (b"/p/a/2", b"/p/d")}
    blind = [
        Unscanned(b"/p/a", "Input/output error", "directory"),
        Unscanned(b"/p/b", "Input/output error", "file"),
        Unscanned(b"/p/c", "a symbolic link, which is not followed", "symlink"),
    ]
    found = plan(blind, known, failures)
    assert set(found.vanished) == {b"/p/ab", b"/p/c"}
    assert found.solved == [b"/p/d"]
    assert found.unscanned == blind


def root(number, path):
    return RootRow(number, path, None, True, None)


def test_a_root_in_a_root_is_a_place_of_its_own():
    outer, inner = places([b"/p"], [root(1, b"/p"), root(2, b"/p/x"), root(3, b"/q")])
    assert (outer.path, inner.path) == (b"/p", b"/p/x")
    assert [outer.holds(path) for path in (b"/p", b"/p/a", b"/p/x", b"/p/x/a", b"/p/xy", b"/q")] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    assert inner.holds(b"/p/x/a")
    assert outer.rows({b"/p/a": 1, b"/p/x/a": 2}, root(1, b"/p")) == {b"/p/a": 1}


def test_a_folder_of_a_root_is_a_place_without_its_siblings():
    (place,) = places([b"/p/x"], [root(1, b"/p"), root(2, b"/p/y")])
    assert place == Place(b"/p/x", frozenset())
    assert place.rows({b"/p/a": 1, b"/p/x/a": 2}, root(1, b"/p")) == {b"/p/x/a": 2}
    whole = Place(b"/p", frozenset())
    assert whole.rows({b"/p/a": 1, b"/p/x/a": 2}, root(1, b"/p")) == {b"/p/a": 1, b"/p/x/a": 2}


def test_a_file_belongs_to_the_innermost_root():
    roots = [root(1, b"/p"), root(2, b"/p/x")]
    for path, home in ((b"/p/a", 1), (b"/p/x", 2), (b"/p/x/a", 2), (b"/p/xy", 1)):
        found = home_of(path, roots)
        assert found is not None
        assert found.id == home
    assert home_of(b"/q", roots) is None


def test_covers_goes_by_whole_names():
    assert covers(b"/", b"/a")
    assert covers(b"/a/", b"/a/b")
    assert covers(b"/a", b"/a")
    assert not covers(b"/a", b"/ab")


def test_what_the_scan_settled_is_unchanged():
    found = plan([Settled(b"/p", 7), FILE], {FILE.path: ROW})
    assert (found.unchanged, found.work) == (8, [])
