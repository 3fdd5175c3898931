import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from clipsearch import encoder as encoders
from clipsearch import runtime_towers, torch_towers
from clipsearch.bf16_tower import multiplies_bf16
from clipsearch.encoder import Encoder, load_model
from clipsearch.errors import ImageError, ModelInvalid, UsageError
from clipsearch.mapped_model import MappedModel
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.runtime_towers import RuntimeTowers
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.torch_towers import Device, TorchTowers
from clipsearch.weights import OPEN_CLIP_WEIGHTS, LoadedModel, save_folder

needs_bf16 = pytest.mark.skipif(not multiplies_bf16(), reason="no bfloat16 in this CPU")
VISION = {
    "vit": VisionConfig(32, 2, 32, 8, head_width=16),
    "resnet": VisionConfig(64, (1, 1, 1, 1), 8, None, head_width=16),
}
TEXTS = ["a dog on the beach", "two cats", "", "😀", "a very long text " * 20]


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return ClipTokenizer.train(["a dog on the beach", "two cats in a box"] * 3, 600, 12)


def make(tokenizer: ClipTokenizer, tower: str = "vit") -> LoadedModel:
    torch.manual_seed(0)
    config = ClipConfig(16, VISION[tower], TextConfig(12, tokenizer.vocab_size, 32, 2, 2))
    model = Clip(config).eval().requires_grad_(False)
    return LoadedModel(model, Preprocess(VISION[tower].image_size), tokenizer, "f" * 16)


def in_torch(loaded: LoadedModel, bf16: bool = False) -> Encoder:
    towers = TorchTowers(loaded.model, loaded.preprocess, Device("cpu", bf16=bf16))
    return Encoder("tiny", "here", loaded.fingerprint, loaded.preprocess, loaded.tokenizer, towers)


def in_runtime(loaded: LoadedModel) -> Encoder:
    tensors = {name: tensor.numpy() for name, tensor in loaded.model.state_dict().items()}
    config = loaded.model.config
    towers = RuntimeTowers(MappedModel(Path(), tensors, config, loaded.preprocess, loaded.fingerprint))
    return Encoder("tiny", "here", loaded.fingerprint, loaded.preprocess, loaded.tokenizer, towers)


@pytest.fixture(params=[(in_torch, "vit"), (in_torch, "resnet"), (in_runtime, "vit"), (in_runtime, "resnet")])
def encoder(request: pytest.FixtureRequest, tokenizer: ClipTokenizer) -> Encoder:
    way, tower = request.param
    made: Encoder = way(make(tokenizer, tower))
    return made


def photos(count: int = 5) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40 + n, 70, 3), dtype=np.uint8)) for n in range(count)]


def test_rows_are_unit_float32(encoder: Encoder) -> None:
    for rows in (encoder.encode_text(TEXTS), encoder.encode_images(photos())):
        assert rows.dtype == np.float32
        assert rows.shape == (5, encoder.dim) == (5, 16)
        assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() <= 1e-6
    assert encoder.encode_text([]).shape == encoder.encode_images([]).shape == (0, 16)
    assert encoder.encode_pixels(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 16)
    assert encoder.logit_scale == pytest.approx(1 / 0.07)


def test_a_row_is_the_same_alone_and_in_a_batch(encoder: Encoder) -> None:
    for encode, inputs in ((encoder.encode_text, TEXTS), (encoder.encode_images, photos())):
        together = encode(inputs)  # type: ignore[operator]
        alone = np.concatenate([encode([one]) for one in inputs])  # type: ignore[operator]
        assert np.abs(together - alone).max() <= 1e-5
        assert np.abs(together - encode(inputs, batch=2)).max() <= 1e-5  # type: ignore[operator]


@pytest.mark.parametrize("way", [in_torch, in_runtime])
@pytest.mark.parametrize("tower", list(VISION))
def test_features_are_the_model_s(
    tokenizer: ClipTokenizer, tower: str, way: Callable[[LoadedModel], Encoder]
) -> None:
    plain, encoder = make(tokenizer, tower), way(make(tokenizer, tower))
    pixels = np.stack([plain.preprocess.pixels(photo) for photo in photos()])
    wanted = F.normalize(plain.model.encode_image(plain.preprocess.normalise(pixels)), dim=-1).numpy()
    assert np.abs(encoder.encode_images(photos()) - wanted).max() <= 1e-5
    texts = F.normalize(plain.model.encode_text(torch.from_numpy(tokenizer(TEXTS))), dim=-1).numpy()
    assert np.abs(encoder.encode_text(TEXTS) - texts).max() <= 2e-6


@needs_bf16
def test_bfloat16_stays_near_single_precision(tokenizer: ClipTokenizer) -> None:
    single = in_torch(make(tokenizer))
    half = in_torch(make(tokenizer), bf16=True)
    one, other = single.encode_images(photos()), half.encode_images(photos())
    assert (one * other).sum(axis=1).min() >= 0.999
    assert not (one == other).all(), "bfloat16 must have been used"
    assert other.dtype == np.float32
    assert (single.encode_text(TEXTS) == half.encode_text(TEXTS)).all()


def test_convolutional_towers_stay_in_single_precision(tokenizer: ClipTokenizer) -> None:
    encoders = [in_torch(make(tokenizer, "resnet"), bf16=bf16) for bf16 in (False, True)]
    assert (encoders[0].encode_images(photos()) == encoders[1].encode_images(photos())).all()


def rotated(image: Image.Image, orientation: int) -> Image.Image:
    turned = image.transpose({6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}[orientation])
    turned.getexif()[0x0112] = orientation
    return turned


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
)
def test_images_of_all_modes(encoder: Encoder, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray((np.arange(1600).reshape(40, 40) * 40).astype(np.uint16))
    elif mode == "LAB":
        image = Image.new("LAB", (40, 40), (128, 10, 10))  # Pillow converts none into it
    elif mode in ("LA", "PA"):
        image = photos(1)[0].convert("L").convert("LA" if mode == "LA" else "P").convert(mode)
    else:
        image = photos(1)[0].convert(mode)
    assert np.isfinite(encoder.encode_images([image])).all()


def test_transparency_is_put_on_white(encoder: Encoder) -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    white = Image.new("RGB", (40, 40), "white")
    assert (encoder.encode_images([clear]) == encoder.encode_images([white])).all()


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_opened_image_equals_its_file(encoder: Encoder, tmp_path: Path, orientation: int) -> None:
    upright = photos(1)[0]
    turned = rotated(upright, orientation)
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    with Image.open(tmp_path / "turned.png") as opened:
        rows = encoder.encode_images([upright, tmp_path / "turned.png", str(tmp_path / "turned.png"), opened])
    assert np.abs(rows - rows[0]).max() <= 1e-6


def test_what_is_no_image_is_an_image_error(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"nonsense")
    for path in (tmp_path / "x.jpg", tmp_path / "none.jpg"):
        with pytest.raises(ImageError):
            encoder.encode_images([path])


def test_one_text_or_image_is_not_a_list(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="list of texts"):
        encoder.encode_text("a dog")
    with pytest.raises(UsageError, match="list of images"):
        encoder.encode_images("a.jpg")


def test_damaged_weights_are_told_not_passed_on(tokenizer: ClipTokenizer) -> None:
    loaded = make(tokenizer)
    loaded.model.token_embedding.weight[int(tokenizer(["two"])[0, 1])] = torch.nan
    encoder = in_torch(loaded)
    assert encoder.encode_text(["a dog"]).shape == (1, 16)
    with pytest.raises(ModelInvalid, match=r"no usable embedding for 2 of 3 inputs \(rows 0, 2\)"):
        encoder.encode_text(["two cats", "a dog", "two dogs"])
    loaded.model.text_projection.zero_()  # type: ignore[operator]
    with pytest.raises(ModelInvalid, match="its weights are damaged"):
        encoder.encode_text(["a dog"])


@pytest.mark.parametrize("name", ["meta", "cuda:99", "nonsense", "", "cpu:x"])
def test_devices_that_are_not_there_are_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="There is no device"):
        Device.pick(name)


def test_a_device_out_of_memory_is_a_usage_error(
    tokenizer: ClipTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = in_torch(make(tokenizer))

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(encoder._towers._model, "encode_image", full)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"The device cpu failed \(CUDA out of memory\.\)"):
        encoder.encode_images(photos(1))


def test_a_batch_too_large_for_the_device_is_halved(
    tokenizer: ClipTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = in_torch(make(tokenizer))
    pixels = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), np.uint8)
    wanted = encoder.encode_pixels(pixels)
    model = encoder._towers._model  # type: ignore[attr-defined]
    encode, asked = model.encode_image, []

    def small(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return cast("torch.Tensor", encode(x))

    monkeypatch.setattr(model, "encode_image", small)
    np.testing.assert_allclose(encoder.encode_pixels(pixels), wanted, atol=1e-6)
    assert asked == [11, 5, 2, 2, 2, 2, 2, 1]
    encoder.encode_pixels(pixels[:4])
    assert asked[8:] == [2, 2], "it remembers"


def test_the_default_device_is_there() -> None:
    device = Device.pick()
    assert dataclasses.replace(device, bf16=False, half=False) == Device(device.name)
    assert Device.pick("cpu").half is False


def test_load_model_by_folder(tokenizer: ClipTokenizer, tmp_path: Path) -> None:
    loaded = make(tokenizer)
    save_folder(tmp_path / "mine", loaded.model, loaded.preprocess, tokenizer)
    encoder = load_model(tmp_path / "mine", device="cpu")
    assert (encoder.name, encoder.source, encoder.device) == ("mine", str(tmp_path / "mine"), "cpu")
    again = load_model(str(tmp_path / "mine"), device="cpu")
    assert encoder.fingerprint == again.fingerprint
    assert len(encoder.fingerprint) == 16
    assert (encoder.encode_text(TEXTS) == again.encode_text(TEXTS)).all()


@pytest.fixture(autouse=True)
def a_plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, and no bfloat16 but where a test asks for it."""
    monkeypatch.setattr(torch_towers, "multiplies_bf16", lambda: False)
    monkeypatch.setattr(runtime_towers, "cpu_has_bf16", lambda: False)
    monkeypatch.setattr(encoders, "may_have_gpu", lambda: False)


@pytest.fixture
def folder(tokenizer: ClipTokenizer, tmp_path: Path) -> Path:
    loaded = make(tokenizer)
    save_folder(tmp_path / "model", loaded.model, loaded.preprocess, tokenizer)
    return tmp_path / "model"


def runs_in_torch(encoder: Encoder) -> bool:
    return isinstance(encoder._towers, TorchTowers)


def test_both_ways_give_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    light = load_model(folder)
    monkeypatch.setattr(encoders, "find_spec", lambda _: None)
    whole = load_model(folder)
    assert (runs_in_torch(whole), runs_in_torch(light)) == (True, False)
    for fact in ("name", "source", "fingerprint", "preprocess", "dim", "device"):
        assert getattr(light, fact) == getattr(whole, fact), fact
    assert light.logit_scale == pytest.approx(whole.logit_scale, rel=1e-6)
    assert (light.encode_images(photos()) * whole.encode_images(photos())).sum(axis=1).min() >= 0.99999
    assert np.abs(light.encode_text(TEXTS) - whole.encode_text(TEXTS)).max() <= 1e-5


def test_torch_serves_what_only_torch_can(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not runs_in_torch(load_model(folder, device="cpu"))
    with pytest.raises(UsageError, match="There is no device"):
        load_model(folder, device="meta")
    with monkeypatch.context() as patch:
        patch.setattr(encoders, "find_spec", lambda name: None)
        assert runs_in_torch(load_model(folder))
    with monkeypatch.context() as patch:  # there may be a GPU, but torch knows of none
        patch.setattr(encoders, "may_have_gpu", lambda: True)
        patch.setattr(Device, "pick", lambda: Device("cpu"))
        assert not runs_in_torch(load_model(folder))
    torch.save(load_file(folder / OPEN_CLIP_WEIGHTS), folder / "open_clip_pytorch_model.bin")
    (folder / OPEN_CLIP_WEIGHTS).unlink()
    assert runs_in_torch(load_model(folder))


@needs_bf16
def test_many_pictures_go_to_bfloat16_and_few_to_the_runtime(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    single = load_model(folder).encode_pixels(pixels)
    monkeypatch.setattr(runtime_towers, "cpu_has_bf16", lambda: True)
    encoder = load_model(folder)
    assert (encoder.encode_pixels(pixels[:7]) == single[:7]).all()
    many = encoder.encode_pixels(pixels)
    assert not (many == single).all(), "bfloat16 must have been used"
    assert (many * single).sum(axis=1).min() >= 0.999
    assert (encoder.encode_pixels(pixels[:2]) == encoder.encode_pixels(pixels[:2])).all()
    assert not (encoder.encode_pixels(pixels[:2]) == single[:2]).all(), "it stays where it is"


@needs_bf16
def test_damaged_weights_are_told_in_bfloat16(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_towers, "cpu_has_bf16", lambda: True)
    tensors = load_file(folder / OPEN_CLIP_WEIGHTS)
    tensors["visual.ln_post.bias"][3] = torch.nan
    save_file(tensors, folder / OPEN_CLIP_WEIGHTS)
    with pytest.raises(ModelInvalid, match=r"damaged: visual.ln_post.bias holds values that are not numbers"):
        load_model(folder).encode_pixels(np.zeros((8, 32, 32, 3), np.uint8))
    monkeypatch.setattr(torch_towers, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(encoders, "find_spec", lambda _: None)
    with pytest.raises(ModelInvalid, match=r"damaged: visual.ln_post.bias holds values that are not numbers"):
        load_model(folder)


def test_damaged_weights_are_told_without_torch(folder: Path) -> None:
    tensors = load_file(folder / OPEN_CLIP_WEIGHTS)
    tensors["visual.ln_post.bias"][3] = torch.nan
    save_file(tensors, folder / OPEN_CLIP_WEIGHTS)
    with pytest.raises(ModelInvalid, match=r"damaged: visual.ln_post.bias holds values that are not numbers"):
        load_model(folder).encode_images(photos(1))
    del tensors["visual.ln_post.bias"]
    save_file(tensors, folder / OPEN_CLIP_WEIGHTS)
    with pytest.raises(ModelInvalid, match=r"1 tensors are missing \(visual.ln_post.bias\)"):
        load_model(folder)
    (folder / OPEN_CLIP_WEIGHTS).write_bytes(b"nonsense" * 10)
    with pytest.raises(ModelInvalid, match="is not a CLIP model that clipsearch can read"):
        load_model(folder)
