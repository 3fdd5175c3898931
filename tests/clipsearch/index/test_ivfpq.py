from __future__ import annotations

import numpy as np
import pytest

from clipsearch.errors import ModelMismatch, UsageError
from clipsearch.index import ivfpq
from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import KINDS, build, inner
from clipsearch.index.ordering import best, rerank, score_rows
from clipsearch.index.params import IvfPqParams
from clipsearch.index.searcher import Searcher
from clipsearch.index.tuning import probe_grid, spreads, tune


def recall(found, exact, k):
    """Share of the k best found; a row that ties with the k-th counts as it."""
    return float((found[0][:, :k] >= exact[0][:, k - 1 : k]).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_tuned_recall_holds_for_queries_it_was_not_tuned_on(world, kind):
    assert world.index.effort[kind].recall >= 0.95
    exact = ExactSearch(world.vectors[: world.index.covered])
    found = Searcher(world.vectors[: world.index.covered], world.index, exact_limit=0)
    queries = world.fresh[kind]
    assert recall(found.search(queries, 10, kind=kind), exact.search(queries, 10), 10) >= 0.9


def test_the_index_is_used_and_text_needs_more_of_it(world):
    text, image = world.index.effort["text"], world.index.effort["image"]
    assert image.probes < world.index.lists // 2
    assert text.probes * text.spread > image.probes * image.spread


def test_text_recall_at_the_effort_of_images_is_lower(world):
    searcher = Searcher(world.vectors[: world.index.covered], world.index, exact_limit=0)
    exact = ExactSearch(world.vectors[: world.index.covered]).search(world.fresh["text"], 10)
    as_image = recall(searcher.search(world.fresh["text"], 10, kind="image"), exact, 10)
    as_text = recall(searcher.search(world.fresh["text"], 10, kind="text"), exact, 10)
    assert as_image < as_text - 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_exact_and_ordered(world, kind):
    scores, slots = Searcher(world.vectors, world.index, exact_limit=0).search(
        world.fresh[kind], 20, kind=kind
    )
    assert (np.diff(scores, axis=1) <= 0).all()
    for row, query, found in zip(scores, world.fresh[kind], slots, strict=True):
        assert len(set(found.tolist())) == 20
        np.testing.assert_allclose(row, world.vectors[found].astype(np.float64) @ query, atol=1e-6)


@pytest.mark.parametrize("share", [0.0005, 0.004, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_admits_exactly_its_slots_and_gives_k(world, kind, share):
    random = np.random.default_rng(int(share * 10_000))
    allowed = np.sort(random.choice(len(world.vectors), int(len(world.vectors) * share), replace=False))
    queries = world.fresh[kind][:20]
    _, slots = Searcher(world.vectors, world.index, exact_limit=0).search(
        queries, 10, kind=kind, allowed=allowed
    )
    assert slots.shape == (20, min(10, allowed.size))
    assert np.isin(slots, allowed).all()
    assert all(len(set(row.tolist())) == len(row) for row in slots)


def test_a_filter_far_from_the_query_still_gives_k(world):
    """The rows least like the query: none of the lists that it reads holds them."""
    query = world.fresh["image"][:1]
    order = ExactSearch(world.vectors).search(query, len(world.vectors))[1][0]
    allowed = np.sort(order[-400:])
    scores, slots = Searcher(world.vectors, world.index, exact_limit=0).search(
        query, 10, kind="image", allowed=allowed
    )
    assert slots.shape == (1, 10)
    assert np.isin(slots, allowed).all()
    assert np.isfinite(scores).all()


def test_recall_under_a_filter_does_not_fall(world):
    allowed = np.arange(0, len(world.vectors), 4)
    for kind in KINDS:
        found = Searcher(world.vectors, world.index, exact_limit=0).search(
            world.fresh[kind], 10, kind=kind, allowed=allowed
        )
        exact = ExactSearch(world.vectors).search(world.fresh[kind], 10, allowed)
        assert recall(found, exact, 10) >= 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_a_few_rows_are_searched_like_all(world, kind, monkeypatch):
    """What a library without some missing photos is: no filter is asked about codes, and recall holds."""
    monkeypatch.setattr(ivfpq, "selector", None)
    covered = world.vectors[: world.index.covered]
    allowed = np.setdiff1d(np.arange(len(covered)), np.arange(0, len(covered), 50))
    found = Searcher(covered, world.index, exact_limit=0).search(
        world.fresh[kind], 10, kind=kind, allowed=allowed
    )
    assert np.isin(found[1], allowed).all()
    assert recall(found, ExactSearch(covered).search(world.fresh[kind], 10, allowed), 10) >= 0.9


@pytest.mark.parametrize("k", [1, 10, 300])
def test_a_quick_look_first_changes_no_answer(world, k):
    vectors = np.concatenate([world.vectors[:2_000]] * 2)  # each score twice: ties are told apart by slot
    candidates = np.random.default_rng(0).permutation(4_000)
    for query in world.fresh["text"][:5]:
        scores, slots = rerank(vectors, candidates, query, k)
        order = np.arange(4_000)
        wanted = best(score_rows(vectors, order, query), order, k)
        np.testing.assert_array_equal(slots, wanted[1])
        np.testing.assert_array_equal(scores, wanted[0])


def test_rows_added_after_the_index_are_found_at_once(world):
    searcher = Searcher(world.vectors, world.index, exact_limit=0)
    fresh = np.arange(world.index.covered, len(world.vectors))
    _, slots = searcher.search(world.vectors[fresh].astype(np.float32), 1, kind="image")
    np.testing.assert_array_equal(slots[:, 0], fresh)


def test_a_slot_that_is_not_allowed_never_comes_back(world):
    """Deleted slots: each query's own best rows, in the index and in the tail."""
    searcher = Searcher(world.vectors, world.index, exact_limit=0)
    queries = world.vectors[[3, 777, 5_500]].astype(np.float32)
    gone = np.unique(searcher.search(queries, 5, kind="image")[1])
    allowed = np.setdiff1d(np.arange(len(world.vectors)), gone)
    _, slots = searcher.search(queries, 50, kind="image", allowed=allowed)
    assert not np.isin(slots, gone).any()


def test_few_admitted_rows_are_compared_one_by_one(world, brute):
    searcher = Searcher(world.vectors, world.index, exact_limit=500)
    allowed = np.arange(4_000, 4_500)
    found = searcher.search(world.fresh["text"], 10, kind="text", allowed=allowed)
    np.testing.assert_array_equal(found[1], brute(world.vectors, world.fresh["text"], 10, allowed)[1])


def test_k_close_to_the_whole_is_exact(world, brute):
    queries = world.fresh["text"][:2]
    found = Searcher(world.vectors, world.index, exact_limit=0).search(queries, 4_990, kind="text")
    np.testing.assert_array_equal(found[1], brute(world.vectors, queries, 4_990)[1])


def test_without_tuning_generous_settings_are_used(world):
    index = build(world.vectors[:2_000])
    searcher = Searcher(world.vectors[:2_000], index, exact_limit=0)
    assert {kind: effort.recall for kind, effort in index.effort.items()} == {"text": None, "image": None}
    index.effort.clear()
    for kind in KINDS:
        queries = world.fresh[kind]
        exact = ExactSearch(world.vectors[:2_000]).search(queries, 10)
        assert recall(searcher.search(queries, 10, kind=kind), exact, 10) > 0.8


def test_the_sample_is_random_not_the_first_rows():
    """First near-copies of one photo, then everything else: the first rows would teach one direction."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((10_000, 8))
    rows[:6_000] = [1] + [0] * 7 + 0.01 * random.standard_normal((6_000, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    params = IvfPqParams(lists=40)
    index = build(rows.astype(np.float16), params, seed=1)
    sizes = inner(index.engine).invlists
    assert max(sizes.list_size(each) for each in range(40)) < 6_000  # the first rows do not share one list


def test_progress_reaches_the_end(world):
    seen = []
    build(
        world.vectors[:500],
        IvfPqParams(lists=4, code_bytes=4),
        progress=lambda *step: seen.append(step),
    )
    assert [stage for stage, _, _ in seen] == ["sample", "lists", "codes", "add"]
    assert seen[-1] == ("add", 500, 500)


@pytest.mark.parametrize(
    "params",
    [
        IvfPqParams(lists=0x7FFF),
        IvfPqParams(code_bytes=7),
        IvfPqParams(sample_per_list=5),
        IvfPqParams(width=65),
        IvfPqParams(bits=5),
        IvfPqParams(lists=-1),
    ],
)
def test_parameters_that_do_not_fit_are_refused(world, params):
    with pytest.raises(UsageError):
        build(world.vectors[:500], params)


def test_too_few_vectors_are_refused(world):
    with pytest.raises(UsageError, match="at least"):
        build(world.vectors[:100])


def test_derived_parameters():
    params = IvfPqParams().resolved(1_000_000, 512)
    assert (params.lists, params.code_bytes) == (8_000, 64)
    assert (params.width, params.bits) == (256, 4)
    assert IvfPqParams().resolved(5_000, 512).lists == 5_000 // 39
    assert IvfPqParams().resolved(5_000, 7).code_bytes == 1


def test_probe_grid():
    assert probe_grid(10) == [1, 2, 3, 4, 6, 8, 10]
    assert probe_grid(1) == [1]


def test_more_rows_are_worth_more_candidates():
    assert spreads(1_000_000, 10) == spreads(5_000, 10) == [4, 8, 16, 32, 64, 128]
    assert spreads(10_000_000, 10) == [4, 8, 16, 32, 64, 128, 256, 512]
    assert spreads(10_000_000, 20)[-1] == 256, "each result has its candidates"


def test_tuning_tries_no_effort_that_could_not_be_chosen(world, monkeypatch):
    """It stops where more lists alone cost more than what was found, and finds what trying all would."""
    tried = []

    def candidates(self, rows, wanted, probes, admitted=None):
        tried.append(probes)
        return propose(self, rows, wanted, probes, admitted)

    propose = ivfpq.IvfPq.candidates
    monkeypatch.setattr(ivfpq.IvfPq, "candidates", candidates)
    before = dict(world.index.effort)
    try:
        chosen = tune(world.index, world.vectors, world.tuning["image"], "image")
    finally:
        world.index.effort = before
    assert chosen == before["image"]
    assert max(tried) < world.index.lists
    assert chosen.probes in tried


def test_tuning_says_when_the_target_is_out_of_reach(world):
    index = build(world.vectors[:3_000], IvfPqParams(lists=20, code_bytes=1, bits=8))
    effort = tune(index, world.vectors, world.tuning["text"], "text", target_recall=1.0, k=3)
    assert effort.recall < 1
    assert index.effort["text"] == effort


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"queries": np.zeros((2, 64))}, UsageError),
        ({"queries": np.empty((0, 64))}, UsageError),
        ({"queries": np.ones((2, 63))}, ModelMismatch),
        ({"kind": "sound"}, UsageError),
        ({"target_recall": 0}, UsageError),
        ({"k": 0}, UsageError),
    ],
)
def test_tuning_refuses_what_it_cannot_use(world, change, error):
    arguments = {"queries": world.tuning["text"], "kind": "text", "target_recall": 0.9, "k": 10} | change
    with pytest.raises(error):
        tune(
            world.index,
            world.vectors,
            arguments.pop("queries"),
            arguments.pop("kind"),
            **arguments,
        )


@pytest.mark.parametrize("width", [63, 65, 1])
def test_a_search_through_the_index_refuses_another_width(world, width):
    searcher = Searcher(world.vectors, world.index, exact_limit=0)
    with pytest.raises(ModelMismatch, match=f"{width} numbers"):
        searcher.search(np.ones((2, width)), 5, kind="text")


@pytest.mark.parametrize("k", [0, -3])
def test_searcher_refuses_k(world, k):
    with pytest.raises(UsageError):
        Searcher(world.vectors, world.index).search(np.ones(64), k, kind="text")


def test_searcher_refuses_queries_and_kinds(world):
    searcher = Searcher(world.vectors, world.index, exact_limit=0)
    with pytest.raises(UsageError):
        searcher.search(np.full(64, np.nan), 3, kind="text")
    with pytest.raises(ModelMismatch):
        searcher.search(np.ones(65), 3, kind="text")
    with pytest.raises(UsageError, match="kind"):
        searcher.search(np.ones(64), 3, kind="sound")
    assert searcher.search(np.ones(64), 3, kind="text", allowed=[])[1].shape == (1, 0)


def test_an_index_of_other_vectors_is_refused(world):
    with pytest.raises(ValueError, match="does not belong"):
        Searcher(world.vectors[:4_999], world.index)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_holds_for_a_filter_that_admits_what_is_far_from_the_query(world, kind):
    """The farther half of the rows: the lists that are nearest to the query hold few of them."""
    searcher = Searcher(world.vectors[: world.index.covered], world.index, exact_limit=0)
    exact = ExactSearch(world.vectors[: world.index.covered])
    shares = []
    for query in world.fresh[kind][:20]:
        order = exact.search(query, world.index.covered)[1][0]
        allowed = np.sort(order[world.index.covered // 2 :])
        found = searcher.search(query, 10, kind=kind, allowed=allowed)
        shares.append(recall(found, exact.search(query, 10, allowed), 10))
    assert np.mean(shares) >= 0.9


@pytest.mark.parametrize("indexed", [False, True])
def test_within_a_cosine_are_all_that_reach_it_best_first(world, indexed):
    searcher = Searcher(world.vectors, world.index if indexed else None, exact_limit=0)
    query = world.fresh["image"][0]
    everything = world.vectors.astype(np.float64) @ query
    for least in (2.0, 0.8, 0.6, -2.0):
        scores, slots = searcher.within(query, least, kind="image")
        assert (scores >= least).all()
        assert (np.diff(scores) <= 0).all()
        assert len(set(slots.tolist())) == slots.size
        true = int((everything >= least).sum())
        assert slots.size <= true
        assert slots.size >= (0.9 if indexed else 1) * true
    allowed = np.arange(0, len(world.vectors), 3)
    assert set(searcher.within(query, 0.5, kind="image", allowed=allowed)[1]) <= set(allowed)
    assert searcher.within(query, -2, kind="image", allowed=[])[1].size == 0


def test_within_refuses_what_it_cannot_answer(world):
    searcher = Searcher(world.vectors, world.index, exact_limit=0)
    with pytest.raises(UsageError, match="must be a number"):
        searcher.within(world.fresh["text"][0], float("nan"), kind="text")
    with pytest.raises(UsageError, match="one query"):
        searcher.within(world.fresh["text"][:2], 0.2, kind="text")


def test_rows_come_back_as_they_are_stored(world):
    searcher = Searcher(world.vectors, world.index)
    np.testing.assert_array_equal(
        searcher.reconstruct([5_500, 3, 3]), world.vectors[[5_500, 3, 3]].astype(np.float32)
    )
    assert searcher.reconstruct([]).shape == (0, 64)
    for bad in ([len(world.vectors)], [-1], [0.5]):
        with pytest.raises(UsageError):
            searcher.reconstruct(bad)


@pytest.mark.parametrize("kind", KINDS)
def test_many_queries_find_what_each_finds_alone(world, kind):
    searcher = Searcher(world.vectors, world.index, exact_limit=0)
    scores, slots = searcher.search(world.fresh[kind], 10, kind=kind)
    for row, query in enumerate(world.fresh[kind][:20]):
        alone = searcher.search(query, 10, kind=kind)
        np.testing.assert_array_equal(alone[1][0], slots[row])
        np.testing.assert_array_equal(alone[0][0], scores[row])
