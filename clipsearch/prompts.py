"""A bank of ordinary queries, to tune an index with when a library has no captions of its own."""

from __future__ import annotations

_SUBJECTS = (
    "a dog", "a cat", "a horse", "a bird", "two children", "a baby", "a group of friends", "an old man",
    "a woman", "a wedding", "a birthday cake", "a bicycle", "a car", "a train", "a boat", "an airplane",
    "a bridge", "a church", "a city street", "a house", "a garden", "a flower", "a tree", "mountains",
    "a beach", "the sea", "a lake", "a waterfall", "a sunset", "snow", "a plate of food",
    "a cup of coffee", "a kitchen", "a living room", "a desk", "a computer screen", "a receipt",
    "a handwritten note", "a map", "a painting", "a statue", "a football match", "people dancing",
    "a concert", "a market", "a shop window", "a toy", "shoes", "a red dress", "the moon",
)  # fmt: skip
_SETTINGS = (
    "{}",
    "a photo of {}",
    "{} at night",
    "{} in the rain",
    "a close-up of {}",
    "{} seen from far away",
)

PROMPTS = tuple(setting.format(subject) for subject in _SUBJECTS for setting in _SETTINGS)
