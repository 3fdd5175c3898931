import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig, fold_batch_norms
from clipsearch.weights import build

TINY_TEXT = TextConfig(context_length=12, vocab_size=40, width=32, heads=2, layers=2)
TINY_VIT = ClipConfig(16, VisionConfig(32, 2, 32, 16, head_width=16), TINY_TEXT)
TINY_RESNET = ClipConfig(16, VisionConfig(64, (1, 2, 1, 1), 8, None, head_width=16), TINY_TEXT)


def tokens(*rows: list[int], length: int = 12) -> torch.Tensor:
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def resnet(embed: int, edge: int, layers: tuple[int, int, int, int], width: int, text: int) -> ClipConfig:
    return ClipConfig(
        embed, VisionConfig(edge, layers, width, None), TextConfig(width=text, heads=text // 64), True
    )


def vit(embed: int, edge: int, layers: int, width: int, patch: int, text: int) -> ClipConfig:
    vision = VisionConfig(edge, layers, width, patch)
    return ClipConfig(embed, vision, TextConfig(width=text, heads=text // 64))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        pytest.param(resnet(1024, 224, (3, 4, 6, 3), 64, 512), 102_007_137, id="RN50"),
        pytest.param(resnet(512, 224, (3, 4, 23, 3), 64, 512), 119_688_033, id="RN101"),
        pytest.param(resnet(640, 288, (4, 6, 10, 6), 80, 640), 178_300_601, id="RN50x4"),
        pytest.param(resnet(768, 384, (6, 8, 18, 8), 96, 768), 290_979_217, id="RN50x16"),
        pytest.param(resnet(1024, 448, (3, 15, 36, 10), 128, 1024), 623_258_305, id="RN50x64"),
        pytest.param(vit(512, 224, 12, 768, 32, 512), 151_277_313, id="ViT-B-32"),
        pytest.param(vit(512, 256, 12, 768, 32, 512), 151_288_833, id="ViT-B-32-256"),
        pytest.param(vit(512, 224, 12, 768, 16, 512), 149_620_737, id="ViT-B-16"),
        pytest.param(vit(768, 224, 24, 1024, 14, 768), 427_616_513, id="ViT-L-14"),
        pytest.param(vit(768, 336, 24, 1024, 14, 768), 427_944_193, id="ViT-L-14-336"),
    ],
)
def test_parameter_counts_are_those_of_the_released_models(config: ClipConfig, parameters: int) -> None:
    with torch.device("meta"):
        model = Clip(config)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.shared
@pytest.mark.parametrize("name", ["vit_tiny", "modified_resnet_tiny"])
def test_features_and_logits_equal_the_reference_code(shared: Path, name: str) -> None:
    io = load_file(shared / "parity" / f"{name}.io.safetensors")
    model = build(load_file(shared / "parity" / f"{name}.weights.safetensors"), None)
    sizes = json.loads((shared / "parity" / f"{name}.config.json").read_text())
    assert model.config.vision.image_size == sizes["image_resolution"]
    assert model.config.text.heads == sizes["transformer_heads"]
    with torch.inference_mode():
        image, text = model.encode_image(io["images"]), model.encode_text(io["tokens"])
        logits = model(io["images"], io["tokens"])
    assert (image - io["image_features"]).abs().max() <= 1e-4
    assert (text - io["text_features"]).abs().max() <= 1e-4
    assert (logits - io["logits_per_image"]).abs().max() <= 1e-4


def test_what_follows_the_end_of_text_changes_nothing() -> None:
    torch.manual_seed(0)
    model = Clip(TINY_VIT).eval()
    clean = tokens([38, 3, 4, 39], [38, 5, 39])
    noisy = clean.clone()
    noisy[0, 4:], noisy[1, 3:] = 7, 9
    assert torch.equal(model.encode_text(clean), model.encode_text(noisy))


def test_text_computed_up_to_the_last_end_equals_the_full_length() -> None:
    torch.manual_seed(0)
    model = Clip(TINY_VIT).eval()
    short = [38, 3, 4, 39]
    full = [38, *range(1, 11), 39]
    alone = model.encode_text(tokens(short))
    beside_a_long_text = model.encode_text(tokens(short, full))[:1]
    assert (alone - beside_a_long_text).abs().max() <= 1e-6


def test_text_tower_is_causal() -> None:
    torch.manual_seed(0)
    model = Clip(TINY_VIT).eval()
    first = model.encode_text(tokens([38, 3, 39]))
    assert not torch.allclose(first, model.encode_text(tokens([38, 4, 39])))
    hidden = model.transformer(torch.randn(1, 6, 32), causal=True)
    x = torch.randn(1, 6, 32)
    changed = x.clone()
    changed[0, 4] += 1
    before, after = model.transformer(x, causal=True), model.transformer(changed, causal=True)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert not torch.allclose(before[:, 4:], after[:, 4:])
    assert hidden.shape == (1, 6, 32)


@pytest.mark.parametrize("config", [TINY_VIT, TINY_RESNET], ids=["vit", "resnet"])
def test_logits_are_scaled_cosines(config: ClipConfig) -> None:
    torch.manual_seed(0)
    model = Clip(config).eval()
    images = torch.randn(2, 3, config.vision.image_size, config.vision.image_size)
    texts = tokens([38, 3, 39], [38, 4, 5, 39], [38, 39])
    logits = model(images, texts)
    cosines = F.cosine_similarity(model.encode_image(images)[:, None], model.encode_text(texts)[None], dim=-1)
    assert logits.shape == (2, 3)
    assert torch.allclose(logits, cosines / 0.07, atol=1e-4)


def test_logit_scale_is_clamped_at_100() -> None:
    model = Clip(TINY_VIT)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    model.clamp_logit_scale()
    assert model.logit_scale.exp().item() == pytest.approx(100.0, rel=1e-5)


def test_checkpointing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    model = Clip(TINY_VIT)
    images, texts = torch.randn(2, 3, 32, 32), tokens([38, 3, 39], [38, 4, 39])
    grads = []
    for enabled in (False, True):
        model.set_checkpointing(enabled)
        model.zero_grad()
        model(images, texts).sum().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() == dict(model.named_parameters()).keys()
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-6) for name in grads[0])


def test_folded_batch_norms_compute_the_same() -> None:
    torch.manual_seed(0)
    tower = Clip(TINY_RESNET).visual
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for module in tower.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
        tower.train()
        tower(images)
        tower.eval()
        before = tower(images)
        fold_batch_norms(tower)
        after = tower(images)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in tower.modules())
    assert (before - after).abs().max() <= 1e-4 * before.abs().max()
