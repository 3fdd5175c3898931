"""What is said about images: captions of samples, and the text corpus that the text tower learns from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipsearch.errors import TrainingError
from clipsearch_train.data import Sample
from clipsearch_train.evaluation.templates import IMAGENET_7

# Things people keep pictures of that captions of photographs rarely name.
EVERYDAY = (
    "receipt", "invoice", "screenshot", "meme", "document", "handwriting", "map", "chart", "diagram",
    "selfie", "passport", "ticket", "sunset", "sunrise", "fireworks", "wedding", "birthday party",
    "graduation", "concert",
)  # fmt: skip


WAYS = (
    *IMAGENET_7,
    "a photo of a {}.", "a blurry photo of a {}.", "a black and white photo of the {}.",
    "a close-up photo of the {}.", "a cropped photo of a {}.", "a photo of my {}.", "a drawing of a {}.",
    "a {} on a table", "a person with a {}", "two {}s", "a red {}", "a small {} outdoors",
)  # fmt: skip


def say(sample: Sample, templates: Sequence[str], rng: np.random.Generator) -> str | None:
    """One text for a sample: a caption if it has any, else a label in a template; None if it has neither.

    Several labels (keywords) are joined, a random few of them in random order.
    """
    if sample.captions:
        return sample.captions[int(rng.integers(len(sample.captions)))]
    if not sample.labels:
        return None
    if len(sample.labels) > 1 and rng.random() < 0.5:
        count = int(rng.integers(2, len(sample.labels) + 1))
        return ", ".join(sample.labels[row] for row in rng.permutation(len(sample.labels))[:count])
    label = sample.labels[int(rng.integers(len(sample.labels)))]
    return templates[int(rng.integers(len(templates)))].format(label)


def texts_of(samples: Sequence[Sample], templates: Sequence[str]) -> list[str]:
    """Every caption, and every label in every template, each once."""
    texts: dict[str, None] = {}
    for sample in samples:
        texts |= dict.fromkeys(sample.captions)
    for label in sorted({label for sample in samples for label in sample.labels}):
        texts |= dict.fromkeys([label, *(template.format(label) for template in templates)])
    return list(texts)


def read_texts(paths: Sequence[Path]) -> list[str]:
    """One text a line, from UTF-8 files. Raises TrainingError for a file that is not one."""
    texts: list[str] = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise TrainingError(f"{path} cannot be read as a file of texts: {error}.") from error
        texts += [line.strip() for line in lines if line.strip()]
    return texts


def read_names(paths: Sequence[Path]) -> list[str]:
    """Names of things from JSON files: lists of names, or of objects with a `name` as in LVIS.

    Raises TrainingError for a file that is neither.
    """
    names: list[str] = []
    for path in paths:
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
            entries = [entry if isinstance(entry, str) else entry["name"] for entry in listed]
            # LVIS writes air_conditioner, and says which sense of a word it means in brackets.
            names += [entry.replace("_", " ").split("(")[0].strip() for entry in entries]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise TrainingError(f"{path} cannot be read as a list of names: {error}.") from error
    return names


def in_many_words(names: Sequence[str], rng: np.random.Generator, count: int = 7) -> list[str]:
    """Each name alone and in `count` random ways to speak of a picture of it."""
    texts: list[str] = []
    for name in names:
        chosen = rng.permutation(len(WAYS))[:count]
        texts += [*(WAYS[row].format(name) for row in chosen.tolist()), name]
    return texts


def widen(
    captions: Sequence[str], words: Sequence[str], templates: Sequence[str], rng: np.random.Generator
) -> list[str]:
    """More texts to learn the teacher's sense of: words, phrases, captions with a strange word.

    Captions of a few thousand photographs hold few words; the teacher knows many more. Queries are
    shorter than captions, so phrases of two to five words are cut out of them.
    """
    texts: dict[str, None] = {}
    for word in [*words, *EVERYDAY]:
        texts[word] = None
        texts[templates[int(rng.integers(len(templates)))].format(word)] = None
    for caption in captions:
        tokens = caption.rstrip(" .").split()
        count = int(rng.integers(2, 6))
        if len(tokens) > count:
            start = int(rng.integers(len(tokens) - count + 1))
            texts[" ".join(tokens[start : start + count]).lower()] = None
        if len(words) and tokens:
            tokens[int(rng.integers(len(tokens)))] = words[int(rng.integers(len(words)))]
            texts[" ".join(tokens)] = None
    return list(texts)
