"""A GPU compares with centroids where there is one; the index is the CPU's, and a full GPU stops nothing."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from clipsearch.index import gpu
from clipsearch.index.ivfpq import build
from clipsearch.index.params import IvfPqParams

PARAMS = IvfPqParams(lists=20, code_bytes=16)
FULL = "StandardGpuResources: alloc fail type FlatData dev 0 (cudaMalloc error out of memory [2])"


@pytest.fixture
def card(monkeypatch):
    """FAISS with one GPU, whose indexes are copies on the CPU; what is moved there is noted."""
    moved = []

    def to_gpu(resources, device, index, options):
        assert device == 0
        moved.append(index.ntotal)
        return faiss.clone_index(index)

    gpu._resources.cache_clear()
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "GpuClonerOptions", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    yield moved
    gpu._resources.cache_clear()  # a real GPU wants real ones


def written(index):
    return faiss.serialize_index(index.engine).tobytes()


def test_the_centroids_are_compared_on_the_gpu_and_the_index_is_of_the_cpu(world, card):
    index = build(world.vectors, PARAMS, seed=1)
    assert set(card) == {0, 20}, "k-means starts empty; the centroids go there once, to give rows their lists"
    assert card.count(20) == 1
    assert type(index.engine).__name__ == "IndexPreTransform"
    again = faiss.deserialize_index(np.frombuffer(written(index), np.uint8))
    assert again.ntotal == len(world.vectors)


def test_a_full_gpu_is_told_and_the_cpu_goes_on(world, card, monkeypatch, caplog):
    def full(*_):
        raise RuntimeError(FULL)

    monkeypatch.setattr(faiss, "index_cpu_to_gpu", full, raising=False)
    index = build(world.vectors, PARAMS, seed=1)
    assert "The memory of the GPU is full, so the CPU goes on." in caplog.messages
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert written(index) == written(build(world.vectors, PARAMS, seed=1))


def test_other_errors_of_a_gpu_are_not_hidden(world, card, monkeypatch):
    def broken(*_):
        raise RuntimeError("Invalid GPU device 0")

    monkeypatch.setattr(faiss, "index_cpu_to_gpu", broken, raising=False)
    with pytest.raises(RuntimeError, match="Invalid GPU device"):
        build(world.vectors, PARAMS, seed=1)


@pytest.mark.skipif(not gpu.has_gpu(), reason="FAISS finds no GPU")
def test_a_real_gpu_finds_the_nearest_centroid(world):
    centroids = world.vectors[:50].astype(np.float32)
    rows = world.fresh["image"]
    found = gpu.NearestRows(centroids)(rows)
    np.testing.assert_array_equal(found, (rows @ centroids.T).argmax(axis=1))
    assert build(world.vectors, PARAMS, seed=1).engine.ntotal == len(world.vectors)
