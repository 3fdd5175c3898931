"""Which samples a step takes: every promise is checked by counting."""

import itertools
from collections import Counter

import numpy as np
import pytest

from clipsearch_train.order import Epochs, PooledEpochs, PooledResampled, Resampled

SIZES = [7, 1, 16, 16, 3, 16, 9, 16, 16]


def taken(order: PooledEpochs | PooledResampled, count: int) -> list[tuple[int, int]]:
    """The first `count` samples as (chunk, place within the chunk)."""
    out: list[tuple[int, int]] = []
    while len(out) < count:
        pool = order.pool(len(out))
        assert pool.start <= len(out) < pool.stop
        held = [(chunk, place) for chunk in pool.chunks for place in range(SIZES[chunk])]
        out += [held[row] for row in pool.order[len(out) - pool.start :]]
    return out[:count]


@pytest.mark.parametrize("batch", [1, 8, 30, 100])
def test_every_sample_once_an_epoch(batch: int) -> None:
    order = Epochs(100, batch, seed=3)
    rows = np.concatenate([order.rows(step) for step in range(300 // batch)])
    epochs = [rows[start : start + 100].tolist() for start in range(0, len(rows) - 99, 100)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs), "every epoch has another order"


def test_a_step_does_not_depend_on_those_before() -> None:
    for make in (lambda: Epochs(50, 8, 0), lambda: Resampled(np.ones(50), 8, 0)):
        forth, back = make(), make()
        steps = {step: back.rows(step).tolist() for step in reversed(range(20))}
        assert [forth.rows(step).tolist() for step in range(20)] == [steps[step] for step in range(20)]


def test_weights_are_how_often_a_sample_is_drawn() -> None:
    order = Resampled(np.array([1.0] * 30 + [3.0] * 30 + [0.0] * 30), 10, 0)
    rows = np.concatenate([order.rows(step) for step in range(2000)])
    first, second, never = (int(((rows >= start) & (rows < start + 30)).sum()) for start in (0, 30, 60))
    assert never == 0
    assert 2.5 < second / first < 3.1
    assert all(len(set(order.rows(step).tolist())) == 10 for step in range(50)), "no repeats in a batch"


@pytest.mark.parametrize("shuffle", [1, 20, 40, 10_000])
def test_pools_hold_every_sample_once_an_epoch(shuffle: int) -> None:
    order = PooledEpochs(SIZES, shuffle, seed=1)
    total = sum(SIZES)
    everything = {(chunk, place) for chunk, size in enumerate(SIZES) for place in range(size)}
    drawn = taken(order, 3 * total)
    for epoch in range(3):
        part = drawn[epoch * total : (epoch + 1) * total]
        assert set(part) == everything
        assert len(part) == total
    assert drawn[:total] != drawn[total : 2 * total]


def test_a_pool_is_no_larger_than_it_may_be_and_can_be_asked_in_any_order() -> None:
    order, again = PooledEpochs(SIZES, 40, seed=1), PooledEpochs(SIZES, 40, seed=1)
    pools = [order.pool(position) for position in range(300)]
    assert all(len(pool.order) <= 40 for pool in pools)
    for position in reversed(range(300)):
        pool = again.pool(position)
        assert (pool.start, pool.chunks) == (pools[position].start, pools[position].chunks)
        assert (pool.order == pools[position].order).all()


def test_chunks_of_a_pool_are_mixed() -> None:
    drawn = taken(PooledEpochs(SIZES, 1000, seed=1), 40)
    runs = sum(one[0] != other[0] for one, other in itertools.pairwise(drawn))
    assert runs > 25


def test_resampled_pools_follow_size_and_weight() -> None:
    weights = [0.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    order = PooledResampled(SIZES, weights, shuffle=64, batch=8, seed=5)
    assert len(order.pool(0).order) == 64
    drawn = Counter(chunk for chunk, _ in taken(order, 64 * 2000))
    assert 0 not in drawn
    assert 1.8 < drawn[3] / drawn[2] < 2.2
    assert 0.85 < drawn[5] / drawn[7] < 1.15
    assert 10 < drawn[2] / drawn[1] < 25, "a sample of a small chunk is as likely as one of a large"
