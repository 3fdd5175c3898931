"""Tiny shards and recipes: coloured squares with captions, which any model can learn."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.weights import save_folder

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 60, 220),
    "yellow": (230, 220, 30),
    "white": (245, 245, 245),
    "black": (10, 10, 10),
}
RECIPE = """
eval_every = 1000

[model]
embed_dim = 32
[model.vision]
image_size = 32
layers = 1
width = 32
patch_size = 16
head_width = 16
[model.text]
context_length = 12
vocab_size = 600
width = 32
heads = 2
layers = 1

[data]
train = ["train/*.tar"]
val = ["val/*.tar"]
min_crop = 0.8

[optim]
steps = 6
batch = 12
lr = 2e-3
warmup = 2
"""


TEXT = TextConfig(context_length=10, vocab_size=530, width=32, heads=2, layers=2)
VISIONS = {
    "vit": VisionConfig(image_size=32, layers=3, width=32, patch_size=16, head_width=16),
    "resnet": VisionConfig(image_size=32, layers=(1, 1, 1, 1), width=8, patch_size=None, head_width=64),
    "mobilenet": VisionConfig(image_size=65, trunk="mobilenet_edgetpu_100", trunk_proj="mlp"),
}


def encoded(image: Image.Image, extension: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[extension])
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def colour_members(count: int, seed: int = 0) -> dict[str, bytes]:
    """`count` noisy squares of six colours; each says its colour in two captions and a label."""
    rng = np.random.default_rng(seed)
    members: dict[str, bytes] = {}
    for number in range(count):
        name = list(COLOURS)[number % len(COLOURS)]
        pixels = np.clip(np.array(COLOURS[name]) + rng.integers(-10, 10, (40, 48, 3)), 0, 255).astype(
            np.uint8
        )
        extension = ("png", "jpg", "webp")[number % 3]
        members[f"{number:04}.{extension}"] = encoded(Image.fromarray(pixels), extension)
        text = {"source": "colours", "captions": [f"a {name} square", f"the colour {name}"], "labels": [name]}
        members[f"{number:04}.json"] = json.dumps(text).encode()
    return members


def make_base(folder: Path, vision: VisionConfig = VISIONS["vit"]) -> Path:
    """A model folder with a preprocessing of its own."""
    torch.manual_seed(1)
    texts = [f"a {name} square" for name in COLOURS] * 3
    tokenizer = ClipTokenizer.train(texts, TEXT.vocab_size, TEXT.context_length)
    text = TextConfig(TEXT.context_length, tokenizer.vocab_size, TEXT.width, TEXT.heads, TEXT.layers)
    model = Clip(ClipConfig(24, vision, text, quick_gelu=True))
    size = model.config.vision.image_size
    save_folder(folder, model, Preprocess(size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), tokenizer)
    return folder


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A data folder with train/ and val/ shards."""
    write_tar(tmp_path / "data" / "train" / "a.tar", colour_members(24))
    write_tar(tmp_path / "data" / "val" / "b.tar", colour_members(12, seed=1))
    return tmp_path / "data"


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[..., Any]:
    """Write the recipe, with some `old=new` replacements, and load it."""

    def make(**replacements: str) -> Any:
        from clipsearch_train.recipe import load_recipe

        text = RECIPE
        for key, value in replacements.items():
            lines = [line for line in text.splitlines() if line.startswith(f"{key} =")]
            assert len(lines) == 1, key
            text = text.replace(lines[0], f"{key} = {value}")
        path = tmp_path / "tiny.toml"
        path.write_text(text)
        return load_recipe(path)

    return make
