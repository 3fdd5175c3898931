from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from clipsearch import encoder as encoders
from clipsearch import load_model, resident_text, torch_towers
from clipsearch.errors import ModelInvalid, ModelNotFound, UsageError
from clipsearch.mapped_model import map_model
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.resident_text import ResidentTextTower
from clipsearch.text_encoder import TextEncoder, load_text_encoder
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.weights import OPEN_CLIP_WEIGHTS, save_folder

TEXTS = ["a dog on the beach", "two cats", "", "😀", "a very long text " * 20]


@pytest.fixture(autouse=True)
def torch_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole models run in torch here, in single precision, whatever would be best on this machine."""
    monkeypatch.setattr(encoders, "find_spec", lambda _: None)
    monkeypatch.setattr(torch_towers, "multiplies_bf16", lambda: False)


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return ClipTokenizer.train(["a dog on the beach", "two cats in a box"] * 3, 600, 12)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: ClipTokenizer) -> Path:
    torch.manual_seed(0)
    text = TextConfig(12, tokenizer.vocab_size, 32, 2, 2)
    model = Clip(ClipConfig(16, VisionConfig(32, 2, 32, 16, head_width=16), text)).eval()
    save_folder(tmp_path / "model", model, Preprocess(32), tokenizer)
    return tmp_path / "model"


def words(folder: Path, fingerprint: str) -> TextEncoder:
    found = load_text_encoder(folder, fingerprint)
    assert found is not None
    return found


def test_rows_are_those_of_the_whole_model(folder: Path) -> None:
    whole = load_model(folder)
    light = words(folder, whole.fingerprint)
    rows = light.encode_text(TEXTS)
    assert (light.name, light.fingerprint) == (whole.name, whole.fingerprint)
    assert rows.dtype == np.float32
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() <= 1e-6
    assert np.abs(rows - whole.encode_text(TEXTS)).max() <= 1e-5
    assert light.encode_text([]).shape == (0, 16)


def test_rows_are_the_same_for_a_program_that_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_model(folder)
    monkeypatch.setattr(resident_text, "worth_it", lambda _: True)
    resident = load_text_encoder(folder, whole.fingerprint, resident=True)
    assert resident is not None
    assert isinstance(resident._tower, ResidentTextTower)
    assert np.abs(resident.encode_text(TEXTS) - whole.encode_text(TEXTS)).max() <= 1e-5
    assert resident.encode_text([]).shape == (0, 16)


def test_damaged_weights_are_refused_by_a_program_that_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_file(folder / OPEN_CLIP_WEIGHTS)
    weights["transformer.resblocks.1.mlp.c_fc.bias"][3] = torch.nan
    save_file(weights, folder / OPEN_CLIP_WEIGHTS)
    fingerprint = map_model(folder).fingerprint  # type: ignore[union-attr]
    monkeypatch.setattr(resident_text, "worth_it", lambda _: True)
    with pytest.raises(ModelInvalid, match=r"c_fc\.bias holds values that are not numbers"):
        load_text_encoder(folder, fingerprint, resident=True)


def test_the_bundled_model() -> None:
    whole = load_model("mini")
    rows = words(Path("mini"), whole.fingerprint).encode_text(TEXTS)
    assert np.abs(rows - whole.encode_text(TEXTS)).max() <= 1e-5


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_a_folder_of_transformers(
    tmp_path: Path, tokenizer: ClipTokenizer, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    size = {"intermediate_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.end - 1, "eos_token_id": tokenizer.end}
    config = transformers.CLIPConfig(
        projection_dim=16,
        text_config=size
        | {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 12, "hidden_act": act}
        | ends,
        vision_config=size | {"image_size": 32, "patch_size": 16, "hidden_act": act},
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    tokenizer.save(tmp_path / "tokenizer.json")
    whole = load_model(tmp_path, device="cpu")
    rows = words(tmp_path, whole.fingerprint).encode_text(TEXTS)
    assert np.abs(rows - whole.encode_text(TEXTS)).max() <= 1e-5
    monkeypatch.setattr(encoders, "find_spec", find_spec)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    light = load_model(tmp_path, device="cpu").encode_pixels(pictures)
    assert np.abs(light - whole.encode_pixels(pictures)).max() <= 1e-5


def test_another_model_is_not_taken(folder: Path) -> None:
    assert load_text_encoder(folder, "f" * 16) is None


def test_the_fingerprint_is_that_of_the_file_that_is_there(folder: Path) -> None:
    fingerprint = load_model(folder).fingerprint
    tensors = load_file(folder / OPEN_CLIP_WEIGHTS)
    tensors["ln_final.bias"] += 1
    save_file(tensors, folder / OPEN_CLIP_WEIGHTS)
    assert load_text_encoder(folder, fingerprint) is None


def test_weights_that_only_torch_reads_are_left_to_it(folder: Path) -> None:
    tensors = load_file(folder / OPEN_CLIP_WEIGHTS)
    (folder / OPEN_CLIP_WEIGHTS).unlink()
    torch.save(tensors, folder / "open_clip_pytorch_model.bin")
    assert load_text_encoder(folder, load_model(folder).fingerprint) is None


def test_what_is_no_model_is_said(folder: Path) -> None:
    (folder / OPEN_CLIP_WEIGHTS).write_bytes(b"nonsense" * 10)
    with pytest.raises(ModelInvalid, match="is not a CLIP model"):
        load_text_encoder(folder, "f" * 16)
    with pytest.raises(ModelNotFound):
        load_text_encoder(folder / "elsewhere", "f" * 16)


def test_a_text_is_not_a_list_of_texts(folder: Path) -> None:
    light = words(folder, load_model(folder).fingerprint)
    with pytest.raises(UsageError, match="a list of texts"):
        light.encode_text("a dog")


def test_damaged_weights_give_no_embedding(folder: Path) -> None:
    tensors = load_file(folder / OPEN_CLIP_WEIGHTS)
    tensors["ln_final.bias"] += float("inf")
    save_file(tensors, folder / OPEN_CLIP_WEIGHTS)
    light = words(folder, load_model(folder).fingerprint)
    with pytest.raises(ModelInvalid, match=r"no usable embedding for 2 of 2 inputs \(rows 0, 1\)"):
        light.encode_text(["a dog", "two cats"])
