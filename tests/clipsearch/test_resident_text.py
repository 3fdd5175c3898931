from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from clipsearch import resident_text
from clipsearch.mapped import map_tensors
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.resident_text import ResidentTextTower, worth_it

TINY = TextConfig(context_length=12, vocab_size=40, width=32, heads=2, layers=3)
END = TINY.vocab_size - 1
LENGTHS = (2, 3, 6, 1, 11, 0)


def rows(lengths: tuple[int, ...] = LENGTHS) -> np.ndarray:
    """Texts of those lengths that begin differently, each ended by the highest id, noise behind the end."""
    tokens = np.random.default_rng(0).integers(0, END - 1, (len(lengths), TINY.context_length))
    tokens[np.arange(len(lengths)), lengths] = END
    return tokens


def model(tmp_path: Path, dtype: torch.dtype, *, quick_gelu: bool) -> tuple[Clip, ResidentTextTower]:
    torch.manual_seed(0)
    made = Clip(ClipConfig(16, VisionConfig(32, 1, 32, 16, head_width=16), TINY, quick_gelu)).eval()
    for name, tensor in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(tensor)
    stored = {name: tensor.to(dtype) for name, tensor in made.state_dict().items()}
    save_file(stored, tmp_path / "w")
    made.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    with (tmp_path / "w").open("rb") as file:
        return made, ResidentTextTower(map_tensors(file), made.config)


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def by_torch(made: Clip, tokens: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return F.normalize(made.encode_text(torch.from_numpy(tokens)), dim=-1).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_features_are_those_of_the_torch_tower(tmp_path: Path, quick_gelu: bool, dtype: torch.dtype) -> None:
    made, tower = model(tmp_path, dtype, quick_gelu=quick_gelu)
    tokens = rows()
    features = tower.encode(tokens)
    assert features.dtype == np.float32
    assert np.abs(unit(features) - by_torch(made, tokens)).max() <= 1e-5
    again = np.concatenate([tower.encode(row[None]) for row in tokens[::-1]])[::-1]
    assert (again == features).all()  # whatever was asked before
    assert tower.encode(tokens[:0]).shape == (0, 16)


def test_many_texts_are_done_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, tower = model(tmp_path, torch.float32, quick_gelu=False)
    tokens = rows()
    monkeypatch.setattr(resident_text, "MANY", 8)
    monkeypatch.setattr(tower, "_session", None)
    assert np.abs(unit(tower.encode(tokens)) - by_torch(made, tokens)).max() <= 1e-5


def test_several_threads_may_ask(tmp_path: Path) -> None:
    _, tower = model(tmp_path, torch.float32, quick_gelu=False)
    tokens = np.tile(rows(), (50, 1))
    with ThreadPoolExecutor(8) as threads:
        found = np.concatenate(list(threads.map(lambda row: tower.encode(row[None]), tokens)))
    assert (found == np.tile(tower.encode(rows()), (50, 1))).all()


def test_what_is_worth_it() -> None:
    assert worth_it(TextConfig())  # of ViT-B/32
    assert not worth_it(TextConfig(width=384, heads=6, layers=4))  # of mini
