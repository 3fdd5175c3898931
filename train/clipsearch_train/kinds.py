"""General words: what covers a class or a label that is more special.

Photographs of sunflowers are labelled "sunflower", and a classifier knows daisies; who looks for "a flower"
wants both. The table in `kinds.toml` says which words cover which classes of ImageNet-1k and which labels.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from clipsearch_train.data import Sample

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Kind:
    """`words` that mean the same, the `classes` of ImageNet-1k and the `labels` (lower case) they cover."""

    words: tuple[str, ...]
    classes: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()


@cache
def kinds() -> tuple[tuple[Kind, ...], ...]:
    """Groups of kinds; those of one group share no class."""
    text = (Path(__file__).parent / "kinds.toml").read_text(encoding="utf-8")
    return tuple(
        tuple(
            Kind(tuple(entry["words"]), _numbers(entry["classes"]), tuple(entry.get("labels", ())))
            for entry in group.values()
        )
        for group in tomllib.loads(text).values()
    )


def _numbers(ranges: Sequence[str]) -> tuple[int, ...]:
    numbers: list[int] = []
    for spoken in ranges:
        first, _, last = spoken.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def words_of_kinds() -> list[str]:
    """Every word of every kind, each once."""
    return list(dict.fromkeys(word for group in kinds() for kind in group for word in kind.words))


def members(group: Sequence[Kind]) -> Tensor:
    """Which class belongs to which kind of a group: float32 (1000, kinds), ones and zeros."""
    table_CK = torch.zeros(IMAGENET_CLASSES, len(group))
    for column, kind in enumerate(group):
        table_CK[list(kind.classes), column] = 1
    return table_CK


def broadened(sample: Sample) -> Sample:
    """The sample with the first word of each kind that covers one of its labels as a further label."""
    covering = _covering()
    more = [word for label in sample.labels for word in covering.get(label.lower(), ())]
    labels = tuple(dict.fromkeys((*sample.labels, *more)))
    return sample if labels == sample.labels else dataclasses.replace(sample, labels=labels)


@cache
def _covering() -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for group in kinds():
        for kind in group:
            for label in kind.labels:
                table[label] = (*table.get(label, ()), kind.words[0])
    return table
