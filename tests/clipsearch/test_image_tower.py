import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file as load_arrays

from clipsearch.config import bundled_models
from clipsearch.graphs import image_graph
from clipsearch.image_tower import ImageTower
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.model_files import infer_config
from clipsearch.preprocess import Preprocess
from clipsearch.weights import load_folder

TEXT = TextConfig(context_length=12, vocab_size=40, width=32, heads=2, layers=2)
VISION = {
    "vit": VisionConfig(32, 3, 32, 8, head_width=16),
    "vit of one block": VisionConfig(32, 1, 32, 16, head_width=8),
    "resnet": VisionConfig(64, (1, 2, 1, 3), 8, None, head_width=16),
    "mobilenet": VisionConfig(97, 0, 0, None, trunk="mobilenet_edgetpu_100"),
    "mobilenet, mlp": VisionConfig(65, 0, 0, None, trunk="mobilenet_edgetpu_100", trunk_proj="mlp"),
    "lite, mlp": VisionConfig(65, 0, 0, None, trunk="efficientnet_lite2", trunk_proj="mlp"),
}


def clip(vision: VisionConfig, quick_gelu: bool = False) -> Clip:
    """A model whose gains, biases and running means all matter."""
    torch.manual_seed(0)
    model = Clip(ClipConfig(16, vision, TEXT, quick_gelu)).eval().requires_grad_(False)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.add_(0.2 * torch.rand_like(tensor) if "var" in name else 0.2 * torch.randn_like(tensor))
    return model


def arrays(model: Clip) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def pixels(size: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= 1e-5 * max(1, np.abs(theirs).max())


@pytest.mark.parametrize("count", [0, 1, 4, 9])
@pytest.mark.parametrize("name", ["vit", "resnet", "mobilenet"])
def test_pictures_are_embedded_the_same_however_many_come(name: str, count: int) -> None:
    model = clip(VISION[name])
    tower = ImageTower(model.config, arrays(model), Preprocess(VISION[name].image_size))
    images = pixels(VISION[name].image_size, count)
    found = tower.features(images)
    assert found.shape == (count, 16)
    for one, image in zip(found, images, strict=True):
        assert_same(one, tower.features(image[None])[0])


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("name", list(VISION))
def test_features_are_those_of_the_torch_tower(name: str, quick_gelu: bool) -> None:
    vision = VISION[name]
    model, preprocess = clip(vision, quick_gelu), Preprocess(vision.image_size)
    tower = ImageTower(model.config, arrays(model), preprocess)
    images = pixels(vision.image_size)
    assert_same(tower.features(images), model.encode_image(preprocess.normalise(images)).numpy())
    assert_same(tower.features(images[:1]), tower.features(images)[:1])


@pytest.mark.parametrize("name", list(VISION))
def test_the_graph_is_valid_onnx(name: str) -> None:
    model = clip(VISION[name])
    for preprocess in (None, Preprocess(VISION[name].image_size)):
        written, weights = image_graph(model.config, arrays(model), preprocess)
        graph = onnx.load_from_string(written)
        onnx.checker.check_model(_filled(graph, weights), full_check=True)
        assert {tensor.name for tensor in graph.graph.initializer} >= set(weights)


def _filled(graph: onnx.ModelProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    for tensor in graph.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    return graph


@pytest.mark.shared
@pytest.mark.parametrize("name", ["vit_tiny", "modified_resnet_tiny"])
def test_features_equal_the_reference_code(shared: Path, name: str) -> None:
    tensors = load_arrays(shared / "parity" / f"{name}.weights.safetensors")
    io = load_arrays(shared / "parity" / f"{name}.io.safetensors")
    tower = ImageTower(infer_config(tensors, None), tensors, None)
    assert np.abs(tower.features(io["images"]) - io["image_features"]).max() <= 1e-4


def test_embeddings_of_the_bundled_model_are_the_same() -> None:
    loaded = load_folder(bundled_models() / "mini")
    tensors = load_arrays(bundled_models() / "mini" / "open_clip_model.safetensors")
    tensors = {name.removeprefix("text."): tensor for name, tensor in tensors.items()}
    tower = ImageTower(infer_config(tensors, _asked()), tensors, loaded.preprocess)
    images = pixels(loaded.preprocess.size)
    ours = tower.features(images)
    theirs = loaded.model.encode_image(loaded.preprocess.normalise(images)).detach().numpy()
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() >= 0.99999


def _asked() -> dict[str, object]:
    config: dict[str, dict[str, object]] = json.loads(
        (bundled_models() / "mini" / "open_clip_config.json").read_text()
    )
    return config["model_cfg"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["vit", "mobilenet"])
def test_weights_that_are_no_numbers_are_refused(name: str, value: float) -> None:
    model = clip(VISION[name])
    tensor = {"vit": "visual.proj", "mobilenet": "visual.trunk.conv_stem.weight"}[name]
    model.state_dict()[tensor].view(-1)[5] = value
    with pytest.raises(ValueError, match="not numbers"):
        ImageTower(model.config, arrays(model), Preprocess(VISION[name].image_size))


def test_the_runtime_keeps_no_record_of_its_use_and_tells_nobody(tmp_path):
    """Left to itself it opens a store of events, which it sends away, in the home folder when imported."""
    told = ("HOME", "XDG_", "ORT_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    program = "from clipsearch.runtime import _silent_runtime; _silent_runtime()"
    subprocess.run([sys.executable, "-c", program], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []
