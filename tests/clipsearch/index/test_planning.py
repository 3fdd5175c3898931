"""Which index a library gets, at every size and budget."""

from __future__ import annotations

import itertools

import pytest

from clipsearch.errors import UsageError
from clipsearch.index.ivfpq import build
from clipsearch.index.params import GRAPH_FROM
from clipsearch.index.planning import BUILDING, EXACT_LIMIT, default_budget, plan_index
from clipsearch.index.storage import save

GB = 10**9
SIZES = [10**power for power in range(3, 10)]


@pytest.mark.parametrize(
    ("vectors", "dim", "budget"), list(itertools.product(SIZES, (512, 768), (GB // 10, 4 * GB, 64 * GB)))
)
def test_there_is_no_hole_between_sizes(vectors: int, dim: int, budget: int) -> None:
    plan = plan_index(vectors, dim, budget)
    assert plan.reason
    if vectors <= EXACT_LIMIT:
        assert (plan.kind, plan.name, plan.memory) == ("exact", "exact search", vectors * dim * 2)
        return
    assert plan.kind == "ivf-pq"
    assert plan.memory <= budget
    assert plan.params is not None
    resolved = plan.params.resolved(vectors, dim)  # raises for what cannot be built
    assert resolved == plan.params
    assert (resolved.width or 0) % resolved.parts == 0
    assert plan.params.graph == ((resolved.lists or 0) >= GRAPH_FROM)
    sample = (resolved.lists or 0) * resolved.sample_per_list * dim * 4
    assert sample <= max(budget, BUILDING)
    assert plan.disk >= vectors * ((resolved.code_bytes or 0) + 8)
    assert plan.mapped == (plan.disk > budget)


def test_a_smaller_budget_gives_shorter_codes_and_at_last_the_disk() -> None:
    plans = [plan_index(10_000_000, 512, budget) for budget in (4 * GB, GB // 2, GB // 3, GB // 20)]
    lengths = [plan.params.code_bytes for plan in plans if plan.params is not None]
    assert lengths == [64, 32, 16, 64]
    assert [plan.params.bits for plan in plans if plan.params is not None] == [4, 4, 4, 8]
    assert [plan.mapped for plan in plans] == [False, False, False, True]
    assert "longer ones gain nothing" in plans[0].reason
    assert "are the longest that fit" in plans[1].reason
    assert "stay on the disk" in plans[3].reason
    assert plans[3].memory < GB // 20 < plans[3].disk


def test_a_million_takes_less_than_a_hundred_bytes_each() -> None:
    plan = plan_index(1_000_000, 512, 6 * GB)
    assert plan.name == "OPQ128_256,IVF8000,PQ128x4fs"
    assert plan.memory <= 100 * plan.vectors


def test_many_lists_are_found_by_a_graph() -> None:
    plan = plan_index(100_000_000, 512, 64 * GB)
    assert plan.name == "OPQ128_256,IVF80000_HNSW32,PQ128x4fs"
    assert "a graph of their centroids" in plan.reason


def test_an_index_that_is_wanted_is_planned_below_the_limit() -> None:
    assert plan_index(5_000, 64, GB).kind == "exact"
    assert plan_index(5_000, 64, GB, wanted=True).name == "OPQ32_64,IVF128,PQ32x4fs"
    assert plan_index(100, 64, GB, wanted=True).kind == "exact", "too few to learn from"


def test_the_default_is_a_share_of_this_machine() -> None:
    assert plan_index(10_000_000, 512).budget == default_budget() > 10**8


@pytest.mark.parametrize(
    ("vectors", "dim", "budget"), [(10, 512, 0), (10, 512, -5), (-1, 512, GB), (10, 0, GB)]
)
def test_nonsense_is_refused(vectors: int, dim: int, budget: int) -> None:
    with pytest.raises(UsageError, match="must be above 0"):
        plan_index(vectors, dim, budget)


def test_what_is_planned_is_what_is_built(world) -> None:  # type: ignore[no-untyped-def]
    plan = plan_index(len(world.vectors), 64, 10**6, wanted=True)
    index = build(world.vectors, plan.params)
    assert index.key == plan.name


def test_an_index_is_about_as_large_as_was_planned(world, tmp_path) -> None:  # type: ignore[no-untyped-def]
    plan = plan_index(len(world.vectors), 64, GB, wanted=True)
    index = build(world.vectors, plan.params)
    save(index, tmp_path / "i", tmp_path / "m", vectors=world.vectors, fingerprint="model")
    assert (tmp_path / "i").stat().st_size == pytest.approx(plan.disk, rel=0.1)
