from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from clipsearch.model import VisionConfig, fold_batch_norms
from clipsearch.trunk import ConvTrunk, TrunkTower
from clipsearch.trunk_blocks import TRUNKS
from clipsearch_train.data import decode, read_shards
from clipsearch_train.image_teacher import ImageTeacher


@pytest.mark.parametrize(
    ("name", "weights"),
    # timm's networks without their classifiers of 1,281,000 weights.
    [("mobilenet_edgetpu_100", 2_810_432), ("efficientnet_lite2", 6_092_072 - 1_281_000)],
)
def test_trunk_has_the_size_of_the_published_network(name: str, weights: int) -> None:
    with torch.device("meta"):
        trunk = ConvTrunk(TRUNKS[name])
    assert sum(p.numel() for p in trunk.parameters()) == weights


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("proj", ["linear", "mlp"])
def test_tower_projects_into_the_embedding_space(trunk: str, proj: str) -> None:
    config = VisionConfig(65, 0, 0, None, trunk=trunk, trunk_proj=proj)
    tower = TrunkTower(config, 16).eval()
    assert tower(torch.zeros(2, 3, 65, 65)).shape == (2, 16)


@pytest.mark.parametrize("name", TRUNKS)
def test_folded_batch_norms_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    trunk = ConvTrunk(TRUNKS[name])
    images = torch.randn(4, 3, 65, 65)
    with torch.no_grad():
        trunk(images)
        trunk.eval()
        before = trunk(images)
        fold_batch_norms(trunk)
        after = trunk(images)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in trunk.modules())
    assert (before - after).abs().max() <= 1e-4 * before.abs().max()


@pytest.mark.shared
def test_features_equal_those_of_the_onnx_teacher(shared: Path) -> None:
    """At 193 px every map is odd, so that TensorFlow's "SAME" padding is ours on both sides alike."""
    name = "teacher/mobilenet_edgetpu_224.fp16.onnx"
    graph = onnx.load(shared / name)
    for dim in (2, 3):
        graph.graph.input[0].type.tensor_type.shape.dim[dim].dim_value = 193
    for node in graph.graph.node:
        pads = next((attribute.ints for attribute in node.attribute if attribute.name == "pads"), None)
        if node.op_type == "Conv" and pads is not None:
            both = max(pads)
            pads[:] = [both] * 4
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    teacher = ImageTeacher(name, shared, 193)
    samples, _ = read_shards([shared / "val" / "val-flickr8k-000.tar"], 4)
    pixels = np.stack([teacher.preprocess.pixels(decode(sample.image)) for sample in samples])
    ours = teacher.features(samples, lambda *_: None).astype(np.float32)
    inputs = [teacher.preprocess.normalise(row[None]).numpy() for row in pixels]
    theirs = np.stack([session.run(["features"], {"t0": image})[0].ravel() for image in inputs])
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine.min() >= 0.999  # ours run in bfloat16
