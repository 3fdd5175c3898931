import threading

import numpy as np
import pytest

from clipsearch import shares
from clipsearch.shares import ALIGNED, shared


@pytest.mark.parametrize("processors", [1, 2])
@pytest.mark.parametrize("rows", [0, 1, ALIGNED, 2 * ALIGNED, 2 * ALIGNED + 1, 1000])
def test_every_row_is_done_once(monkeypatch, processors, rows):
    monkeypatch.setattr(shares, "_processors", lambda: processors)
    done, threads = np.zeros(rows, int), set()

    def work(part):
        done[part] += 1
        threads.add(threading.current_thread().name)

    with shared() as share:
        for _ in range(3):
            share(rows, work)
    assert done.tolist() == [3] * rows
    assert len(threads) == (2 if processors == 2 and rows >= 2 * ALIGNED else min(1, rows))


@pytest.mark.parametrize("failing", ["first", "second"])
def test_an_error_in_either_half_is_raised_here_and_the_next_share_goes_on(monkeypatch, failing):
    monkeypatch.setattr(shares, "_processors", lambda: 2)

    def work(part):
        if (part.start == 0) == (failing == "first"):
            raise ValueError(failing)

    with shared() as share:
        with pytest.raises(ValueError, match=failing):
            share(64, work)
        share(64, lambda part: None)


def test_the_second_thread_ends_with_the_block(monkeypatch):
    monkeypatch.setattr(shares, "_processors", lambda: 2)
    with shared():
        (second,) = [thread for thread in threading.enumerate() if thread.name == "second-half"]
    second.join(10)
    assert not second.is_alive()
