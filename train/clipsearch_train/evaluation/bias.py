"""Bias probe: which labels a model gives to which groups of images, and at what rates (paper §7.1).

The paper classified faces of FairFace by demographic group into its own classes with "animal", "gorilla",
"thief", "criminal" … added, and compared the rates. Here both the labels and the groups are the user's.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.errors import UsageError
from clipsearch_train.evaluation.bootstrap import Interval, interval, resampled_means
from clipsearch_train.evaluation.datasets import Dataset, Item, images_below

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BiasQuestion:
    """Sets of prompts by label, and groups of images: what `load_bias` reads."""

    labels: dict[str, tuple[str, ...]]
    groups: tuple[Dataset, ...]

    @property
    def prompts(self) -> list[str]:
        """The prompts of all labels, label by label."""
        return [prompt for prompts in self.labels.values() for prompt in prompts]


@dataclass(frozen=True)
class LabelRate:
    """How one group fares with one label.

    `rate`: percent of the group's images whose nearest prompt is one of the label's. `rate_gap`: by how many
    points that is more than among the images of all other groups. `score`: mean cosine with the label's
    prompts; `score_gap`: by how much it is more than that of all other groups.
    """

    group: str
    label: str
    rate: Interval
    rate_gap: Interval
    score: Interval
    score_gap: Interval


def load_bias(path: Path) -> BiasQuestion:
    """Read a TOML file: `[labels]`, lists of prompts; `[groups]`, folders of images relative to the file.

    Raises UsageError: a file that cannot be read, an unknown key, fewer than two labels or groups, a label
    without prompts, a folder without images.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read as TOML: {error}.") from error
    unknown = sorted(set(told) - {"labels", "groups"})
    if unknown:
        raise UsageError(f"{path} has the unknown key {unknown[0]!r}; known are [labels] and [groups].")
    labels, groups = _entries(told, "labels", path), _entries(told, "groups", path)
    for label, prompts in labels.items():
        if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) for p in prompts):
            raise UsageError(f"{path}: the label {label!r} must be a list of prompts.")
    sets = []
    for group, folder in groups.items():
        if not isinstance(folder, str) or not (path.parent / folder).is_dir():
            raise UsageError(
                f"{path}: the group {group!r} must be a folder of images, and {folder!r} is none."
            )
        images = images_below(path.parent / folder)
        if not images:
            raise UsageError(f"{path}: the folder of the group {group!r} holds no image.")
        sets.append(Dataset(group, tuple(Item(str(image), image) for image in images)))
    return BiasQuestion({label: tuple(prompts) for label, prompts in labels.items()}, tuple(sets))


def _entries(told: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = told.get(name)
    if not isinstance(table, dict) or len(table) < 2:
        raise UsageError(f"{path} needs a table [{name}] with two entries at least.")
    return table


def bias_rates(groups: dict[str, Vectors], labels: dict[str, Vectors], *, seed: int = 0) -> list[LabelRate]:
    """Rates and scores of every label in every group, with 95% bootstrap intervals over images.

    groups: image embeddings by group, (n, d) unit rows; two groups at least.
    labels: prompt embeddings by label, (p, d) unit rows. Of prompts that score alike the first counts.
    """
    owner = np.repeat(np.arange(len(labels)), [len(rows) for rows in labels.values()])
    prompt_PD = np.concatenate(list(labels.values()))
    values = {
        group: _values(image_ND @ prompt_PD.T, owner, len(labels)) for group, image_ND in groups.items()
    }
    draws = {
        group: resampled_means(value, seed=seed + number)
        for number, (group, value) in enumerate(values.items())
    }
    found = []
    for group, own in values.items():
        rest = np.concatenate([value for other, value in values.items() if other != group])
        # A seed of its own: the other images are another sample than the group's.
        gaps = draws[group] - resampled_means(rest, seed=seed + len(values))
        if min(len(own), len(rest)) == 1:  # what another image would give cannot be told: anything
            most = np.repeat([100.0, 2.0], len(labels))
            gaps = np.repeat(np.stack([-most, most]), 50, axis=0)
        mean, gap = own.mean(axis=0), own.mean(axis=0) - rest.mean(axis=0)
        for number, label in enumerate(labels):
            rate, score = number, len(labels) + number
            found.append(
                LabelRate(
                    group,
                    label,
                    interval(mean[rate], draws[group][:, rate]),
                    interval(gap[rate], gaps[:, rate]),
                    interval(mean[score], draws[group][:, score]),
                    interval(gap[score], gaps[:, score]),
                )
            )
    return found


def _values(scores_NP: Vectors, owner_P: npt.NDArray[np.int64], labels: int) -> npt.NDArray[np.float64]:
    """(N, 2·labels): 100 where an image is given the label, then its mean cosine with each label."""
    given_N = owner_P[scores_NP.argmax(axis=1)]
    rates = (given_N[:, None] == np.arange(labels)) * 100.0
    scores = np.stack([scores_NP[:, owner_P == label].mean(axis=1) for label in range(labels)], axis=1)
    return np.concatenate([rates, scores], axis=1)
