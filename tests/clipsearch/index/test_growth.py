"""An index grows, notices when it no longer fits, is found by a graph, lies on the disk; and its curve."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from clipsearch.errors import UsageError
from clipsearch.index import ivfpq
from clipsearch.index.curve import curve
from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import KINDS, Effort, build, extend, has_drifted
from clipsearch.index.params import IvfPqParams
from clipsearch.index.searcher import Searcher
from clipsearch.index.storage import load, save
from clipsearch.index.truth import Truth
from clipsearch.index.tuning import asked, standard_error, tune_and_measure

PARAMS = IvfPqParams(lists=20, code_bytes=16)


def found_share(vectors, index, queries, kind):
    exact = ExactSearch(vectors).search(queries, 10)[0][:, 9:]
    scores = Searcher(vectors, index, exact_limit=0).search(queries, 10, kind=kind)[0]
    return float((scores >= exact).mean())


def test_rows_are_added_without_learning_anew(world):
    index = build(world.vectors[:2_000], PARAMS, seed=1)
    quantizer = ivfpq.inner(index.engine).quantizer
    centroids = quantizer.reconstruct_n(0, 20).copy()
    told = []
    extend(index, world.vectors, progress=lambda *step: told.append(step))
    assert index.covered == index.engine.ntotal == len(world.vectors)
    assert index.trained_on == 2_000
    assert told == [("add", len(world.vectors), len(world.vectors))]
    np.testing.assert_array_equal(centroids, quantizer.reconstruct_n(0, 20))
    for kind in KINDS:
        tune_and_measure(index, world.vectors, world.tuning[kind], kind)
        assert found_share(world.vectors, index, world.fresh[kind], kind) > 0.9


def test_an_index_has_drifted_when_it_was_learnt_of_too_little(world):
    index = build(world.vectors[:1_000], PARAMS, seed=1)
    assert not has_drifted(index, 4_000)
    assert has_drifted(index, 4_001)


def test_an_index_has_drifted_when_new_rows_fall_into_few_lists(world):
    index = build(world.vectors[:2_000], PARAMS, seed=1)
    alike = np.concatenate([world.vectors[:2_000], np.repeat(world.vectors[:1], 1_500, axis=0)])
    extend(index, world.vectors[:3_500])
    assert not has_drifted(index, 3_500), "as many, but like the others"
    index = build(world.vectors[:2_000], PARAMS, seed=1)
    extend(index, alike)
    assert has_drifted(index, 3_500)


def test_lists_that_a_graph_finds_hold_what_all_lists_hold(world, tmp_path):
    vectors = world.vectors[:3_000]
    flat, graph = (build(vectors, replace(PARAMS, graph=graph), seed=1) for graph in (False, True))
    assert graph.key == "OPQ32_64,IVF20_HNSW32,PQ32x4fs"
    queries = world.fresh["image"]
    for probes in (4, 20):
        shares = []
        for index in (flat, graph):
            index.effort["image"] = Effort(probes, 20)
            shares.append(found_share(vectors, index, queries, "image"))
        assert shares[1] > shares[0] - 0.05
    paths = tmp_path / "index.faiss", tmp_path / "index.json"
    save(graph, *paths, vectors=vectors, fingerprint="model")
    again = load(*paths, fingerprint="model", dim=64, max_slots=3_000, vectors=vectors)
    assert again.index is not None, again.reason
    assert again.index.params.graph
    np.testing.assert_array_equal(
        again.index.candidates(queries[:5], 50, 4), graph.candidates(queries[:5], 50, 4)
    )


def test_lists_that_stay_on_the_disk_answer_the_same(world, tmp_path):
    vectors = world.vectors[:3_000]
    index = build(vectors, replace(PARAMS, bits=8), seed=1)
    index.mapped, index.budget = True, 12_345
    paths = tmp_path / "index.faiss", tmp_path / "index.json"
    save(index, *paths, vectors=vectors, fingerprint="model")
    loaded = load(*paths, fingerprint="model", dim=64, max_slots=3_000, vectors=vectors).index
    assert loaded is not None
    assert (loaded.mapped, loaded.budget, loaded.trained_on) == (True, 12_345, 3_000)
    lists = ivfpq.faiss().downcast_InvertedLists(ivfpq.inner(loaded.engine).invlists)
    assert type(lists).__name__ == "OnDiskInvertedLists"
    rows = world.fresh["text"][:10]
    wanted = index.candidates(rows, 40, 6)
    np.testing.assert_array_equal(loaded.candidates(rows, 40, 6), wanted)
    paths[0].unlink()  # as a new index that is published in its place does
    np.testing.assert_array_equal(loaded.candidates(rows, 40, 6), wanted)


def test_what_is_measured_is_measured_on_other_queries(world):
    index = copy.copy(world.index)
    index.effort = {}
    vectors = world.vectors[: index.covered]
    queries = world.fresh["text"]
    effort = tune_and_measure(index, vectors, queries, "text", target_recall=0.9)
    assert index.effort["text"] is effort
    held = queries[1::2]
    assert effort.recall == pytest.approx(found_share(vectors, index, held, "text"), abs=1e-3)
    assert effort.recall >= 0.88
    assert effort.latency_ms is not None
    assert effort.latency_ms > 0
    with pytest.raises(UsageError, match="two queries"):
        tune_and_measure(index, vectors, queries[:1], "text")


def test_the_held_out_queries_surely_reach_the_target_too(world):
    index, vectors = copy.copy(world.index), world.vectors[: world.index.covered]
    index.effort = {}
    for kind in KINDS:
        queries = world.fresh[kind]
        held = Truth.of(vectors, queries[1::2], 10)
        for target in (0.6, 0.7, 0.8, 0.9):
            effort = tune_and_measure(index, vectors, queries, kind, target_recall=target)
            shares = asked(index, vectors, held, effort)[0]
            assert shares.mean() - standard_error(shares) >= target


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_rises_to_what_is_tuned(world, kind):
    points = curve(world.index, world.vectors, world.fresh[kind], kind)
    exact, through = points[0], points[1:]
    assert (exact.recall, exact.probes, exact.spread) == (1.0, None, None)
    assert [p.probes for p in through] == sorted(p.probes for p in through)
    assert [p.recall for p in through] == sorted(p.recall for p in through)
    used = [p for p in through if p.tuned]
    assert [p.probes for p in used] == [world.index.effort[kind].probes]
    assert used[0].recall >= 0.9
    assert all(p.p95_ms >= p.median_ms > 0 for p in points)
