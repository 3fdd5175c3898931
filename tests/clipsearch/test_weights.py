import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from clipsearch.errors import ModelInvalid, ModelNotFound
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.weights import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, build, load_folder, save_folder

Edit = Callable[[dict[str, torch.Tensor]], Any]
VISION = {
    "vit": VisionConfig(32, 2, 32, 16, head_width=16),
    "resnet": VisionConfig(64, (1, 2, 1, 1), 8, None, head_width=16),
    "trunk": VisionConfig(65, 0, 0, None, trunk="mobilenet_edgetpu_100", trunk_proj="mlp"),
    "trunk-linear": VisionConfig(65, 0, 0, None, trunk="mobilenet_edgetpu_100"),
    "trunk-lite": VisionConfig(65, 0, 0, None, trunk="efficientnet_lite2", trunk_proj="mlp"),
}


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return ClipTokenizer.train(["a dog on the beach", "two cats in a box"] * 3, 600, 12)


def make(tokenizer: ClipTokenizer, tower: str = "vit", quick_gelu: bool = False, seed: int = 0) -> Clip:
    torch.manual_seed(seed)
    text = TextConfig(12, tokenizer.vocab_size, 32, 2, 2)
    model = Clip(ClipConfig(16, VISION[tower], text, quick_gelu)).eval().requires_grad_(False)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            # Else the features of a random trunk vanish; the deeper one's would grow, and rounding with them.
            buffer.fill_(0.2 if tower == "trunk-lite" else 0.05)
    return model


def saved(folder: Path, model: Clip, tokenizer: ClipTokenizer, half: bool = False) -> Path:
    save_folder(folder, model, Preprocess(model.config.vision.image_size), tokenizer, half=half)
    return folder


@pytest.fixture
def folder(tmp_path: Path, tokenizer: ClipTokenizer) -> Path:
    return saved(tmp_path / "model", make(tokenizer), tokenizer)


def edit_tensors(folder: Path, edit: Edit) -> None:
    tensors = load_file(folder / OPEN_CLIP_WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / OPEN_CLIP_WEIGHTS)


def edit_config(folder: Path, part: str | None, **values: Any) -> None:
    config = json.loads((folder / OPEN_CLIP_CONFIG).read_text())
    target = config["model_cfg"]
    (target if part is None else target[part]).update(values)
    (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(config))


def same(one: Clip, other: Clip, tokenizer: ClipTokenizer, tolerance: float = 1e-5) -> bool:
    torch.manual_seed(1)
    edge = one.config.vision.image_size
    images, tokens = (
        torch.randn(2, 3, edge, edge),
        torch.from_numpy(tokenizer(["a dog", "two cats in a box"])),
    )
    pairs = [
        (one.encode_image(images), other.encode_image(images)),
        (one.encode_text(tokens), other.encode_text(tokens)),
        (one(images, tokens), other(images, tokens)),
    ]
    return all((a - b).abs().max() <= tolerance * max(1.0, float(a.abs().max())) for a, b in pairs)


@pytest.mark.parametrize(
    ("tower", "quick_gelu"),
    [
        ("vit", False),
        ("vit", True),
        ("resnet", True),
        ("trunk", False),
        ("trunk-linear", False),
        ("trunk-lite", False),
    ],
)
def test_what_is_saved_loads_the_same(
    tmp_path: Path, tokenizer: ClipTokenizer, tower: str, quick_gelu: bool
) -> None:
    model = make(tokenizer, tower, quick_gelu)
    loaded = load_folder(saved(tmp_path, model, tokenizer))
    assert loaded.model.config == model.config
    assert same(model, loaded.model, tokenizer)
    assert not loaded.model.training
    assert (loaded.tokenizer(["a dog"]) == tokenizer(["a dog"])).all()
    half = load_folder(saved(tmp_path, model, tokenizer, half=True))
    assert same(model, half.model, tokenizer, 1e-2)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())


@pytest.mark.parametrize("tower", ["trunk", "trunk-lite"])
def test_a_trunk_without_its_name_is_known_by_its_tensors(
    tmp_path: Path, tokenizer: ClipTokenizer, tower: str
) -> None:
    model = make(tokenizer, tower)
    edit_config(saved(tmp_path, model, tokenizer), "vision_cfg", timm_model_name=None)
    assert load_folder(tmp_path).model.config == model.config


@pytest.mark.parametrize("name", ["mobilenet_edgetpu_100", "resnet50", 3, ["efficientnet_lite2"], {"a": 1}])
def test_a_trunk_under_another_name_is_refused(
    tmp_path: Path, tokenizer: ClipTokenizer, name: object
) -> None:
    edit_config(saved(tmp_path, make(tokenizer, "trunk-lite"), tokenizer), "vision_cfg", timm_model_name=name)
    with pytest.raises(ModelInvalid):
        load_folder(tmp_path)


def test_config_is_openclip_s(folder: Path, tmp_path: Path, tokenizer: ClipTokenizer) -> None:
    assert json.loads((folder / OPEN_CLIP_CONFIG).read_text()) == {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
            "text_cfg": {
                "context_length": 12,
                "vocab_size": tokenizer.vocab_size,
                "hf_tokenizer_name": ".",
                "width": 32,
                "heads": 2,
                "layers": 2,
            },
        },
        "preprocess_cfg": {
            "size": 32,
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    resnet = json.loads(
        (saved(tmp_path / "r", make(tokenizer, "resnet", True), tokenizer) / OPEN_CLIP_CONFIG).read_text()
    )
    assert resnet["model_cfg"]["quick_gelu"] is True
    assert resnet["model_cfg"]["vision_cfg"]["layers"] == [1, 2, 1, 1]
    assert resnet["model_cfg"]["vision_cfg"]["patch_size"] is None


def test_transformers_reads_the_saved_tokenizer(folder: Path, tokenizer: ClipTokenizer) -> None:
    """OpenCLIP's tokenizer for a folder is transformers' AutoTokenizer."""
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["a dog", "two cats in a box on the beach with a dog", ""]
    rows = theirs(texts, padding="max_length", truncation=True, max_length=12)["input_ids"]
    ends = [row.index(tokenizer.end) for row in rows]
    for row, end, ours in zip(rows, ends, tokenizer(texts), strict=True):
        assert row[: end + 1] == ours[: end + 1].tolist()


def test_float16_keeps_what_it_cannot_hold(tmp_path: Path, tokenizer: ClipTokenizer) -> None:
    model = make(tokenizer, "resnet")
    model.visual.bn1.running_var.fill_(1e6)  # type: ignore[union-attr, operator]
    loaded = load_folder(saved(tmp_path, model, tokenizer, half=True))
    assert loaded.model.visual.bn1.running_var.max() == 1e6  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("prefix", ["module.", "text."])
def test_prefixes_of_wrappers_are_dropped(folder: Path, tokenizer: ClipTokenizer, prefix: str) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            if prefix == "module." or not (name.startswith("visual.") or name == "logit_scale"):
                tensors[prefix + name] = tensors.pop(name)

    edit_tensors(folder, rename)
    edit_config(folder, None, custom_text=True)
    assert same(make(tokenizer), load_folder(folder).model, tokenizer)


def test_openclip_s_own_settings_are_followed(folder: Path, tokenizer: ClipTokenizer) -> None:
    edit_config(folder, None, quick_gelu=True)
    assert same(make(tokenizer, quick_gelu=True), load_folder(folder).model, tokenizer)
    config = json.loads((folder / OPEN_CLIP_CONFIG).read_text())
    config["preprocess_cfg"] = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bilinear",
        "resize_mode": "squash",
        "mode": "RGB",
        "fill_color": 0,
    }
    (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(config))
    wanted = Preprocess(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear", squash=True)
    assert load_folder(folder).preprocess == wanted
    del config["preprocess_cfg"]
    (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(config))
    assert load_folder(folder).preprocess == Preprocess(32)


def test_fingerprint_changes_with_all_that_changes_vectors(folder: Path) -> None:
    def changed(change: Callable[[], None]) -> str:
        change()
        return load_folder(folder).fingerprint

    def prepared(**values: Any) -> None:
        config = json.loads((folder / OPEN_CLIP_CONFIG).read_text())
        config["preprocess_cfg"].update(values)
        (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(config))

    prints = [
        load_folder(folder).fingerprint,
        changed(lambda: edit_config(folder, None, quick_gelu=True)),
        changed(lambda: edit_config(folder, "vision_cfg", head_width=32)),
        changed(lambda: edit_tensors(folder, lambda tensors: tensors["visual.proj"].mul_(2))),
        changed(lambda: prepared(mean=[0.5, 0.5, 0.5])),
        changed(lambda: prepared(std=[0.5, 0.5, 0.5])),
        changed(lambda: prepared(interpolation="bilinear")),
        changed(lambda: prepared(resize_mode="squash")),
    ]
    assert len(set(prints)) == 8
    assert load_folder(folder).fingerprint == prints[-1]


def hugging_face(folder: Path, tokenizer: ClipTokenizer, **text: Any) -> transformers.CLIPModel:
    """A random `CLIPModel` saved the way transformers does, with our tokenizer."""
    act = text.pop("hidden_act", "quick_gelu")
    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": 48,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "max_position_embeddings": 12,
            "vocab_size": tokenizer.vocab_size,
            "hidden_act": act,
            "bos_token_id": tokenizer.end - 1,
            "eos_token_id": tokenizer.end,
            **text,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
            "hidden_act": act,
        },
        projection_dim=20,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.08)
    model.save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3})
    )
    return model


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("legacy_end", [False, True])
def test_equals_transformers_clip_model(
    tmp_path: Path, tokenizer: ClipTokenizer, act: str, legacy_end: bool
) -> None:
    end = {"eos_token_id": 2} if legacy_end else {}
    theirs = hugging_face(tmp_path, tokenizer, hidden_act=act, **end)
    ours = load_folder(tmp_path)
    images = torch.randn(3, 3, 32, 32)
    tokens = torch.from_numpy(tokenizer(["a dog", "two cats in a box", ""]))
    with torch.no_grad():
        out = theirs(input_ids=tokens, pixel_values=images)
        images_NE = torch.nn.functional.normalize(ours.model.encode_image(images), dim=-1)
        texts_NE = torch.nn.functional.normalize(ours.model.encode_text(tokens), dim=-1)
        assert (images_NE - out.image_embeds).abs().max() <= 1e-5
        assert (texts_NE - out.text_embeds).abs().max() <= 1e-5
        assert (ours.model(images, tokens) - out.logits_per_image).abs().max() <= 1e-4
    assert ours.model.config.embed_dim == 20
    assert ours.preprocess == Preprocess(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "siglip"}, "type 'siglip'"),
        ({"text_config": {"hidden_act": "relu"}}, "activations"),
        ({"vision_config": {"hidden_act": "gelu"}}, "activations"),
        ({"text_config": {"layer_norm_eps": 1e-3}}, "layer_norm_eps"),
        ({"text_config": {"eos_token_id": 7}}, "token 7"),
        ({"vision_config": {"num_attention_heads": 0}}, "do not fit|cannot have|can read"),
        ({"text_config": 3}, "text_config is 3"),
    ],
)
def test_hugging_face_models_that_differ_are_refused(
    tmp_path: Path, tokenizer: ClipTokenizer, change: dict[str, Any], message: str
) -> None:
    hugging_face(tmp_path, tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    if change == {"vision_config": {"num_attention_heads": 0}}:
        config["vision_config"]["hidden_size"] = 63
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match=message):
        load_folder(tmp_path)


def test_openai_state_dicts_have_no_config(tmp_path: Path, tokenizer: ClipTokenizer) -> None:
    torch.manual_seed(0)
    text = TextConfig(12, tokenizer.vocab_size, 64, 1, 2)
    model = (
        Clip(ClipConfig(16, VisionConfig(32, 2, 64, 16), text, quick_gelu=True)).eval().requires_grad_(False)
    )
    sizes = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(12),
        "vocab_size": torch.tensor(9),
    }
    torch.save({**model.half().state_dict(), **sizes}, tmp_path / "ViT.pt")
    tokenizer.save(tmp_path / "tokenizer.json")
    for place in (tmp_path, tmp_path / "ViT.pt"):
        loaded = load_folder(place)
        assert loaded.model.config == model.config
        assert same(model.float(), loaded.model, tokenizer)


def test_a_weights_file_brings_the_config_beside_it(folder: Path, tokenizer: ClipTokenizer) -> None:
    assert same(make(tokenizer), load_folder(folder / OPEN_CLIP_WEIGHTS).model, tokenizer)


def test_checkpoints_of_openclip_s_trainer(folder: Path, tokenizer: ClipTokenizer) -> None:
    state = {f"module.{name}": t for name, t in load_file(folder / OPEN_CLIP_WEIGHTS).items()}
    (folder / OPEN_CLIP_WEIGHTS).unlink()
    torch.save({"epoch": 3, "state_dict": state}, folder / "open_clip_pytorch_model.bin")
    assert same(make(tokenizer), load_folder(folder).model, tokenizer)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("visual.proj"), "visual.attnpool|visual.proj|left over"),
        (lambda t: t.pop("ln_final.weight"), r"1 tensors are missing \(ln_final.weight\)"),
        (lambda t: t.pop("text_projection"), "text_projection is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), r"1 tensors are left over \(extra\)"),
        (lambda t: t.update(ln_final=torch.zeros(1)), "left over"),
        (
            lambda t: t.update({"ln_final.weight": torch.zeros(5)}),
            r"ln_final.weight \(5,\) instead of \(32,\)",
        ),
        (lambda t: t.update({"ln_final.weight": torch.zeros(32, dtype=torch.int64)}), "do not fit"),
        (lambda t: t.update({"visual.conv1.weight": torch.zeros(3)}), r"visual.conv1.weight is \(3,\)"),
        (
            lambda t: t.update({"visual.positional_embedding": torch.zeros(1, 32)}),
            "visual.positional_embedding",
        ),
        (lambda t: t.update(logit_bias=torch.zeros(())), "SigLIP"),
        (lambda t: t.update({"text_decoder.ln.weight": torch.zeros(1)}), "CoCa"),
        (lambda t: t.update({"text.transformer.embeddings.x": torch.zeros(1)}), "Hugging Face text tower"),
        (lambda t: t.clear(), "missing"),
    ],
)
def test_tensors_that_are_no_clip_are_one_sentence(folder: Path, edit: Edit, message: str) -> None:
    edit_tensors(folder, edit)
    with pytest.raises(ModelInvalid, match=message) as caught:
        load_folder(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("text_cfg", {"hf_model_name": "roberta-base"}, "text_cfg.hf_model_name = 'roberta-base'"),
        ("text_cfg", {"no_causal_mask": True}, "no_causal_mask"),
        ("text_cfg", {"pool_type": "last"}, "pool_type"),
        ("text_cfg", {"heads": 5}, "cannot have 5 attention heads"),
        ("text_cfg", {"heads": 0}, "cannot have 0"),
        ("text_cfg", {"heads": "two"}, "can read"),
        ("vision_cfg", {"head_width": 7}, "heads of width 7"),
        ("vision_cfg", {"timm_model_name": "vit_base_patch16_siglip_224"}, "timm_model_name"),
        ("vision_cfg", {"norm_kwargs": {"eps": 1e-6}}, "norm_kwargs"),
        ("vision_cfg", {"pool_type": "avg"}, "pool_type"),
        (None, {"multimodal_cfg": {}}, "CoCa"),
        (None, {"text_cfg": 3}, "text_cfg is 3"),
    ],
)
def test_configs_of_other_architectures_are_refused(
    folder: Path, part: str | None, values: dict[str, Any], message: str
) -> None:
    edit_config(folder, part, **values)
    with pytest.raises(ModelInvalid, match=message):
        load_folder(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"model_cfg": []}', "[" * 100_000, '{"preprocess_cfg": {"mean": 1}}']
)
def test_damaged_configs_are_refused(folder: Path, content: str) -> None:
    (folder / OPEN_CLIP_CONFIG).write_text(content)
    with pytest.raises(ModelInvalid):
        load_folder(folder)


def test_damaged_weights_are_refused(folder: Path) -> None:
    whole = (folder / OPEN_CLIP_WEIGHTS).read_bytes()
    huge = json.dumps({"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}}).encode()
    for content in (
        b"",
        b"x" * 99,
        whole[:7],
        whole[: len(whole) // 2],
        whole[:-1],
        (1 << 62).to_bytes(8, "little"),
    ):
        (folder / OPEN_CLIP_WEIGHTS).write_bytes(content)
        with pytest.raises(ModelInvalid, match="cannot be read as model weights"):
            load_folder(folder)
    (folder / OPEN_CLIP_WEIGHTS).write_bytes(len(huge).to_bytes(8, "little") + huge)
    with pytest.raises(ModelInvalid, match="cannot be read as model weights"):
        load_folder(folder)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_run_no_code(folder: Path, tmp_path: Path, protocol: int) -> None:
    (folder / OPEN_CLIP_WEIGHTS).unlink()
    target, touched = folder / "pytorch_model.bin", tmp_path / "touched"
    plain = pickle.dumps({"a": Bomb(touched)}, protocol)
    target.write_bytes(plain)
    with pytest.raises(ModelInvalid, match="cannot be read as model weights") as caught:
        load_folder(folder)
    assert "weights_only=False" not in str(caught.value)
    torch.save({"a": Bomb(touched)}, target, pickle_protocol=max(2, protocol))
    with pytest.raises(ModelInvalid, match="more than tensors"):
        load_folder(folder)
    for names in (["x/data.pkl", "x/constants.pkl"], ["../../x/data.pkl"], ["data.pkl"]):
        with zipfile.ZipFile(target, "w") as archive:
            for name in names:
                archive.writestr(name, plain)
        with pytest.raises(ModelInvalid):
            load_folder(folder)
    assert not touched.exists()
    pickle.loads(plain)
    assert touched.exists()  # the bomb is real


@pytest.mark.parametrize("value", [3, [1], {"a": 3}, {"a": {"b": torch.zeros(1)}}, torch.zeros(2)])
def test_what_is_no_state_dict_is_refused(folder: Path, value: object) -> None:
    (folder / OPEN_CLIP_WEIGHTS).unlink()
    torch.save(value, folder / "pytorch_model.bin")
    with pytest.raises(ModelInvalid, match="not a dictionary of tensors"):
        load_folder(folder)


def test_tokenizer_is_needed_and_must_fit(folder: Path, tokenizer: ClipTokenizer) -> None:
    ClipTokenizer.train(["x y z"], 515, 12).save(folder / "tokenizer.json")
    with pytest.raises(ModelInvalid, match="do not belong together"):
        load_folder(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFound, match=r"holds no tokenizer\.json; put the model's own beside"):
        load_folder(folder)


def test_folders_without_weights_say_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="holds no CLIP weights"):
        load_folder(tmp_path)
    (tmp_path / "a.pt").write_bytes(b"x")
    (tmp_path / "b.pt").write_bytes(b"x")
    with pytest.raises(ModelNotFound, match="holds no CLIP weights"):
        load_folder(tmp_path)


def test_half_written_folders_do_not_appear(
    folder: Path, tokenizer: ClipTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsearch.errors import StorageError

    before = load_folder(folder).fingerprint
    monkeypatch.setenv("CLIPSEARCH_FAILPOINT", "weights.write:enospc")
    with pytest.raises(StorageError, match="disk is full"):
        saved(folder, make(tokenizer, seed=5), tokenizer)
    assert load_folder(folder).fingerprint == before


def test_build_needs_no_folder(tokenizer: ClipTokenizer) -> None:
    model = make(tokenizer)
    cfg = {"text_cfg": {"heads": 2}, "vision_cfg": {"head_width": 16}}
    assert same(model, build(model.state_dict(), cfg), tokenizer)


@pytest.mark.parametrize("size", [-1, 0, 1025, 10**9])
def test_a_picture_size_that_no_tensor_confirms_is_bounded(
    tmp_path: Path, tokenizer: ClipTokenizer, size: int
) -> None:
    folder = saved(tmp_path / "trunk", make(tokenizer, "trunk", False), tokenizer)
    config = json.loads((folder / OPEN_CLIP_CONFIG).read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = size
    (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match="pixels square"):
        load_folder(folder)


@pytest.mark.parametrize("name", [OPEN_CLIP_CONFIG, "tokenizer.json"])
def test_a_file_of_a_terabyte_is_not_read(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelInvalid, match="reads at most"):
        load_folder(folder)
