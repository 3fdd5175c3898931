"""Shards and recipes of strangers, damaged at random: samples, or an error in a sentence."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

from clipsearch.errors import ClipsearchError
from clipsearch_train.data import read_shards
from clipsearch_train.recipe import load_recipe
from tests.train.conftest import colour_members, write_tar

SHARDS = 300
RECIPES = 100
RECIPE = Path(__file__).resolve().parents[2] / "train" / "recipes" / "distill.toml"


def damaged(data: bytes, chance: random.Random) -> bytes:
    """`data` with a few bytes changed, a piece gone, twice there, or zeroed."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 3, 20])):
        start = chance.randrange(len(changed))
        end = start + chance.choice([1, 1, 8, 512])
        piece = changed[start:end]
        options = [bytes(chance.randrange(256) for _ in piece), b"", piece * 2, bytes(len(piece))]
        changed[start:end] = chance.choice(options)
        if not changed:
            return b"x"
    return bytes(changed)


def test_damaged_shards_give_samples_or_a_sentence(tmp_path: Path) -> None:
    plain = write_tar(tmp_path / "whole.tar", colour_members(3)).read_bytes()
    chance = random.Random(0)
    path, read = tmp_path / "damaged.tar", 0
    for number in range(SHARDS):
        data = damaged(plain, chance)
        path.write_bytes(gzip.compress(data, 1) if number % 3 == 0 else data)
        try:
            samples, _ = read_shards([path])
        except ClipsearchError:
            continue
        read += len(samples)
    assert read > 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["damaged.tar", "whole.tar"]


def test_damaged_recipes_are_recipes_or_a_sentence(tmp_path: Path) -> None:
    text, chance = RECIPE.read_bytes(), random.Random(1)
    path, refused = tmp_path / "damaged.toml", 0
    for _ in range(RECIPES):
        path.write_bytes(damaged(text, chance))
        try:
            load_recipe(path)
        except ClipsearchError:
            refused += 1
    assert refused > 0
