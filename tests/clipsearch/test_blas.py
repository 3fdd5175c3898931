import json
import os
import subprocess
import sys

import pytest

# In a process of its own: how many threads there are is decided when NumPy is loaded.
SCRIPT = """
import json, threading
import numpy as np, threadpoolctl
from clipsearch.blas import one_thread

def threads():
    return [found["num_threads"] for found in threadpoolctl.threadpool_info() if "numpy" in found["filepath"]]

def often():
    for _ in range(10):
        with one_thread():
            inside.append(threads())

before, inside = threads(), []
workers = [threading.Thread(target=often) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
try:
    with one_thread():
        inside.append(threads())
        raise KeyError
except KeyError:
    pass
print(json.dumps([before, inside, threads()]))
"""


def test_one_thread_within_the_blocks_and_as_many_as_before_behind_them() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, env=environment, check=True)
    before, inside, after = json.loads(done.stdout)
    if before != [2]:
        pytest.skip("NumPy's library of matrix products does not tell its threads here")
    assert inside == [[1]] * 41
    assert after == [2]
