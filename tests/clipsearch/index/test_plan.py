from __future__ import annotations

import pytest

from clipsearch.errors import UsageError
from clipsearch.index.plan import EXACT_LIMIT, MAX_ROWS_A_LIST, ROWS_A_LIST, make_plan

SIZES = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000]
GB = 10**9


@pytest.mark.parametrize("dim", [512, 768])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("memory", [GB, 6 * GB, 200 * GB])
def test_every_size_has_a_plan_within_its_memory(n, dim, memory):
    plan = make_plan(n, dim, memory)
    assert (plan.way == "exact") == (n <= EXACT_LIMIT)
    assert plan.memory <= memory
    assert plan.reason
    if plan.way != "exact":
        assert ROWS_A_LIST * plan.lists <= plan.sample <= max(MAX_ROWS_A_LIST * plan.lists, 65_536)
        assert plan.sample <= n
        assert plan.width % (plan.code_bytes * 8 // plan.bits) == 0


@pytest.mark.parametrize("dim", [512, 768])
def test_no_hole_between_sizes(dim):
    """Every size from a thousand to a billion, a fifth apart: the way changes once each, lists never fall
    while memory is no matter."""
    n, ways, lists = 1_000, [], 0
    while n <= 1_000_000_000:
        plan = make_plan(n, dim, 6 * GB)
        ways.append(plan.way)
        roomy = make_plan(n, dim, 10_000 * GB)
        assert roomy.lists >= lists
        lists = roomy.lists
        n = n * 6 // 5
    changes = [way for way, before in zip(ways[1:], ways, strict=False) if way != before]
    assert changes == ["ivf-pq", "ivf-pq-mapped"]


def test_a_million_of_512_takes_less_than_a_hundred_bytes_each():
    plan = make_plan(1_000_000, 512, 6 * GB)
    assert (plan.way, plan.lists, plan.width, plan.code_bytes, plan.bits) == ("ivf-pq", 8_000, 256, 64, 4)
    assert plan.memory / plan.n < 100


@pytest.mark.parametrize("memory", [1, 10_000, 1 << 20, 16 << 20, 40 << 20, 100 << 20])
@pytest.mark.parametrize("n", [500_000, 20_000_000, 1_000_000_000])
def test_tiny_budgets_are_kept_or_search_is_exact(n, memory):
    plan = make_plan(n, 512, memory)
    assert plan.memory <= memory
    if plan.way == "exact":
        assert "exact, from the file" in plan.reason


def test_less_memory_means_codes_in_the_file_then_no_index():
    ways = [make_plan(1_000_000, 512, memory).way for memory in (GB, 120_000_000, 20 << 20, 1 << 20)]
    assert ways == ["ivf-pq", "ivf-pq-mapped", "ivf-pq-mapped", "exact"]


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 64, 100, 255, 256, 257, 640, 1_024])
def test_any_width_can_be_coded(dim):
    for memory in (GB, 40 << 20):
        plan = make_plan(1_000_000, dim, memory)
        assert plan.way != "exact"
        assert plan.width <= dim
        assert plan.width % (plan.code_bytes * 8 // plan.bits) == 0


def test_nonsense_is_refused():
    for arguments in [(-1, 512, GB), (10, 0, GB), (10, 512, 0), (10, 512, -5)]:
        with pytest.raises(UsageError):
            make_plan(*arguments)


def test_the_default_is_a_quarter_of_the_machine():
    import os

    quarter = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    assert make_plan(1_000, 512).budget == quarter
