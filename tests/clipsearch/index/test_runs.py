"""Lists that are built on the disk: the same bytes as in memory, a bound on memory, a disk that is full."""

from __future__ import annotations

import errno
import subprocess
import sys
import tempfile

import faiss
import numpy as np
import pytest

from clipsearch.errors import StorageError, UsageError
from clipsearch.index.ivfpq import build
from clipsearch.index.params import IvfPqParams
from clipsearch.index.runs import OnDisk
from clipsearch.index.storage import load, save

PARAMS = IvfPqParams(lists=20, code_bytes=16, bits=8)
ROWS = 1_200

WITHIN_A_LIMIT = """
import resource, sys
from pathlib import Path
import numpy as np, faiss
from clipsearch.index import ivfpq, learning
from clipsearch.index.params import IvfPqParams
from clipsearch.index.runs import OnDisk

faiss.omp_set_num_threads(1)
ivfpq.ROWS_PER_ADD, learning.SAMPLE = 2_048, 512  # codebooks are quickly learnt: rows are what is bounded
rows = np.random.default_rng(0).standard_normal((100_000, 32), np.float32).astype(np.float16)
params = IvfPqParams(lists=8, code_bytes=32, bits=8)
on_disk = OnDisk(Path(sys.argv[1]), 10_000) if sys.argv[2] == "disk" else None
ivfpq.build(rows[:2_048], params, on_disk=on_disk)  # what the first one takes is taken
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
limit = used * 1024 + 3_000_000  # 100,000 rows of 40 bytes are 4 MB, and lists grow by doubling
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(ivfpq.build(rows, params, on_disk=on_disk).engine.ntotal)
"""


@pytest.mark.parametrize("lists", [20, 50], ids=["full", "mostly empty"])
def test_they_are_byte_for_byte_those_built_in_memory(world, tmp_path, monkeypatch, lists):
    monkeypatch.setattr("clipsearch.index.ivfpq.ROWS_PER_ADD", 300)
    vectors = np.concatenate([world.vectors[:20]] * 100) if lists == 50 else world.vectors[:ROWS]
    params = IvfPqParams(lists=lists, code_bytes=16, bits=8)
    whole = build(vectors, params, seed=1)
    disk = build(vectors, params, seed=1, on_disk=OnDisk(tmp_path, 500))
    writer = faiss.VectorIOWriter()
    faiss.write_index(whole.engine, writer)
    disk.file.seek(0)
    assert disk.file.read() == faiss.vector_to_array(writer.data).tobytes()
    assert list(tmp_path.iterdir()) == []
    assert (disk.mapped, disk.imbalance) == (True, whole.imbalance)
    for kind, queries in world.fresh.items():
        np.testing.assert_array_equal(
            disk.candidates(queries, 50, 5), whole.candidates(queries, 50, 5), err_msg=kind
        )


def test_they_are_published_and_loaded(world, tmp_path):
    vectors = world.vectors[:ROWS]
    index = build(vectors, PARAMS, on_disk=OnDisk(tmp_path, 500))
    paths = tmp_path / "index.faiss", tmp_path / "index.json"
    save(index, *paths, vectors=vectors, fingerprint="model")
    found = load(*paths, fingerprint="model", dim=64, max_slots=ROWS, vectors=vectors)
    assert found.index is not None, found.reason
    assert found.index.mapped
    rows = world.fresh["text"]
    np.testing.assert_array_equal(found.index.candidates(rows, 50, 5), index.candidates(rows, 50, 5))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds all memory of a process on Linux")
def test_memory_is_bounded_while_they_are_built(tmp_path):
    def run(where):
        command = [sys.executable, "-c", WITHIN_A_LIMIT, str(tmp_path), where]
        return subprocess.run(command, capture_output=True, text=True)

    on_disk, in_memory = run("disk"), run("memory")
    assert on_disk.stdout.strip() == "100000", on_disk.stderr
    assert in_memory.returncode != 0, "the limit is one that lists in memory do not keep to"


def test_a_full_disk_is_told(world, tmp_path, monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(StorageError):
        build(world.vectors[:ROWS], PARAMS, on_disk=OnDisk(tmp_path, 500))


def test_codes_that_cannot_be_mapped_are_refused(world, tmp_path):
    with pytest.raises(UsageError, match="8 bits"):
        build(world.vectors, IvfPqParams(lists=20, code_bytes=16), on_disk=OnDisk(tmp_path, 500))
