"""The checkpoint of a run: weights, optimiser and average of one step, enough to go on exactly there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipsearch.durable import replacing
from clipsearch.errors import StorageError, TrainingError
from clipsearch_train.optimiser import WeightAverage


def save_checkpoint(
    path: Path, step: int, model: nn.Module, optimiser: torch.optim.Optimizer, average: WeightAverage | None
) -> None:
    """Write a checkpoint, whole or not at all: when that fails, the old one stays. Raises StorageError."""
    state: dict[str, Any] = {
        "step": step,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": None if average is None else average.state(),
    }
    try:
        with replacing(path, name="checkpoint") as file:
            torch.save(state, file)
    except RuntimeError as error:  # what torch's writer makes of the disk's error
        raise StorageError(f"{path} could not be written: is the disk full? The old one is kept.") from error


def load_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, average: WeightAverage | None
) -> int:
    """Fill model, optimiser and average from a checkpoint; returns its step.

    Rates and decay stay those of the recipe, which may have changed since. Raises TrainingError for a
    damaged checkpoint or one of another model.
    """
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # a damaged pickle raises nearly anything
        raise TrainingError(f"{path} is damaged; delete it to begin anew.") from error
    asked = [{key: group[key] for key in group if key != "params"} for group in optimiser.param_groups]
    try:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        if average is not None and state["average"] is not None:
            average.load(state["average"])
        step = int(state["step"])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise TrainingError(f"{path} is of another recipe; give a new --out folder.") from error
    for group, settings in zip(optimiser.param_groups, asked, strict=True):
        group.update(settings)
    return step
