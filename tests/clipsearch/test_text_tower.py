import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from clipsearch import shares
from clipsearch.config import bundled_models
from clipsearch.layouts import openai_layout
from clipsearch.mapped import map_tensors
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.model_files import infer_config
from clipsearch.text_tower import TextTower, erf, gelu, sigmoid_gelu
from clipsearch.weights import build

TINY = TextConfig(context_length=12, vocab_size=40, width=32, heads=2, layers=2)
HEADS = {"text_cfg": {"heads": 2}, "vision_cfg": {"head_width": 16}}
B32 = TextConfig()  # of ViT-B/32: 512 wide, 12 layers, 49,408 tokens
LENGTHS = (2, 3, 6, 1, 11)


def rows(config: TextConfig, lengths: tuple[int, ...] = LENGTHS) -> np.ndarray:
    """Random texts of those lengths, each ended by the highest id, with noise behind the end."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size - 2, (len(lengths), config.context_length))
    tokens[np.arange(len(lengths)), np.minimum(lengths, config.context_length - 1)] = config.vocab_size - 1
    return tokens


def by_torch(model: Clip, tokens: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return F.normalize(model.encode_text(torch.from_numpy(tokens)), dim=-1).numpy()


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def tower_of(path: Path, asked: Mapping[str, Any], quick_gelu: bool = False) -> TextTower:
    with path.open("rb") as file:
        tensors = openai_layout(map_tensors(file), asked, np.concatenate)
    return TextTower(tensors, infer_config(tensors, asked).text, quick_gelu=quick_gelu)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_features_are_those_of_the_torch_tower(tmp_path: Path, quick_gelu: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Clip(ClipConfig(16, VisionConfig(32, 1, 32, 16, head_width=16), TINY, quick_gelu))
    torch.nn.init.normal_(model.ln_final.bias)
    stored = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    save_file(stored, tmp_path / "w")
    model.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    tower = tower_of(tmp_path / "w", HEADS, quick_gelu)
    tokens = rows(TINY)
    features = tower.encode(tokens)
    assert features.dtype == np.float32
    assert np.abs(unit(features) - by_torch(model.eval(), tokens)).max() <= 1e-5
    assert np.abs(unit(tower.encode(tokens)) - unit(features)).max() == 0
    one_by_one = np.concatenate([tower.encode(row[None]) for row in tokens])
    assert np.abs(unit(one_by_one) - unit(features)).max() <= 1e-6
    assert tower.encode(tokens[:0]).shape == (0, 16)


def test_a_tower_of_the_size_of_vit_b_32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Clip(ClipConfig(512, VisionConfig(32, 1, 64, 16), B32)).eval()
    save_file(model.state_dict(), tmp_path / "w")
    tokens = rows(B32, (4, 7))
    features = tower_of(tmp_path / "w", {}).encode(tokens)
    assert np.abs(unit(features) - by_torch(model, tokens)).max() <= 1e-5
    processors = shares._processors()
    monkeypatch.setattr(shares, "_processors", lambda: 3 - min(2, processors))
    assert (tower_of(tmp_path / "w", {}).encode(tokens) == features).all()  # one thread or two: every bit


def test_mini() -> None:
    path = bundled_models() / "mini" / "open_clip_model.safetensors"
    asked = json.loads(path.with_name("open_clip_config.json").read_text())["model_cfg"]
    model = build(load_file(path), asked)
    tokens = rows(model.config.text)
    features = tower_of(path, asked).encode(tokens)
    assert np.abs(unit(features) - by_torch(model, tokens)).max() <= 1e-5


@pytest.mark.shared
@pytest.mark.parametrize("name", ["vit_tiny", "modified_resnet_tiny"])
def test_features_are_those_of_the_reference_code(shared: Path, name: str) -> None:
    io = load_file(shared / "parity" / f"{name}.io.safetensors")
    tower = tower_of(shared / "parity" / f"{name}.weights.safetensors", {}, quick_gelu=True)
    features = tower.encode(io["tokens"].numpy().astype(np.int64))
    wanted = io["text_features"].numpy()
    assert np.abs(features - wanted).max() <= 1e-4
    assert np.abs(unit(features) - unit(wanted)).max() <= 1e-5


def test_only_the_rows_of_the_tokens_are_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Clip(ClipConfig(16, VisionConfig(32, 1, 32, 16, head_width=16), TINY))
    tokens = rows(TINY, (3,))
    unused = sorted(set(range(TINY.vocab_size)) - set(tokens[0, :4].tolist()))
    with torch.no_grad():
        model.token_embedding.weight[unused] = float("nan")
        model.positional_embedding[4:] = float("nan")
    save_file(model.state_dict(), tmp_path / "w")
    assert np.isfinite(tower_of(tmp_path / "w", HEADS).encode(tokens)).all()


def test_error_function() -> None:
    x = np.linspace(-6, 6, 100_001, dtype=np.float32)
    wanted = np.array([math.erf(value) for value in x.tolist()])
    assert np.abs(erf(x) - wanted).max() <= 4e-7
    assert erf(np.array([np.inf, -np.inf], np.float32)).tolist() == pytest.approx([1, -1])


def test_activations_are_torch_s() -> None:
    x = np.linspace(-60, 60, 50_001, dtype=np.float32)
    t = torch.from_numpy(x)
    assert np.abs(gelu(x) - F.gelu(t).numpy()).max() <= 2e-6
    with np.errstate(over="ignore"):
        assert np.abs(sigmoid_gelu(x) - (t * torch.sigmoid(1.702 * t)).numpy()).max() <= 1e-6
