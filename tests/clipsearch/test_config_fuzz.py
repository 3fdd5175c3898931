"""Configs of strangers, damaged at random: a model, or an error in a sentence."""

import json
import random
import shutil

import pytest

from clipsearch.errors import ClipsearchError
from clipsearch.mapped_model import MappedModel, map_model

CONFIGS = 300
CONFIG = "open_clip_config.json"
VALUES = [None, True, -1, 0, 1, 3, 1e9, 2**70, 1e308, "", "x" * 1000, "\x00", [], [1, 2], {}, {"a": {}}]
SPELLINGS = [b"NaN", b"Infinity", b"1e999", b"9" * 5000, b"[" * 2000, b"\xff", b"", b'{"a":' * 2000]


def places(value):
    """Each entry of a document, as what holds it and its key there."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def damaged(text, chance):
    """The document with a few entries changed, gone or new; now and then with bytes that are no document."""
    values = json.loads(text)
    for _ in range(chance.choice([1, 1, 2, 5])):
        found = list(places(values))
        if not found:
            break
        holder, key = chance.choice(found)
        if chance.random() < 0.2:
            del holder[key]
        else:
            holder[key] = chance.choice(VALUES)
    data = json.dumps(values).encode()
    if chance.random() < 0.3:
        start = chance.randrange(len(data))
        data = data[:start] + chance.choice(SPELLINGS) + data[start + chance.choice([0, 1, 8]) :]
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import torch

    from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
    from clipsearch.preprocess import Preprocess
    from clipsearch.tokenizer import ClipTokenizer
    from clipsearch.weights import save_folder

    torch.manual_seed(0)
    tokenizer = ClipTokenizer.train(["a dog on a beach", "a red flower"], 514, 8)
    vision = VisionConfig(image_size=32, layers=1, width=64, patch_size=16)
    text = TextConfig(context_length=8, vocab_size=tokenizer.vocab_size, width=64, heads=1, layers=1)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(folder, Clip(ClipConfig(16, vision, text)), Preprocess(32), tokenizer)
    return folder


def test_damaged_configs_are_models_or_a_sentence(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "damaged")
    text, chance = (folder / CONFIG).read_bytes(), random.Random(0)
    models, sentences = 0, []
    for _ in range(CONFIGS):
        (tmp_path / "damaged" / CONFIG).write_bytes(damaged(text, chance))
        try:
            models += isinstance(map_model(tmp_path / "damaged"), MappedModel)
        except ClipsearchError as error:
            sentences.append(str(error))
    assert models > 0
    assert sentences
    assert not [sentence for sentence in sentences if "\n" in sentence]
