"""The checkpoint of a run: all that one step leaves, enough to go on exactly there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipsearch.durable import replacing
from clipsearch.errors import StorageError, TrainingError
from clipsearch_train.optimiser import WeightAverage


@dataclass
class State:
    """What changes from step to step. `best` is the best validation score so far and its step."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None
    scaler: torch.amp.GradScaler
    step: int = 0
    best: tuple[int, float] | None = None


def save_checkpoint(path: Path, state: State) -> None:
    """Write a checkpoint, whole or not at all: when that fails, the old one stays. Raises StorageError."""
    told: dict[str, Any] = {
        "step": state.step,
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "average": None if state.average is None else state.average.state(),
        "scaler": state.scaler.state_dict(),
        "best": state.best,
    }
    try:
        with replacing(path, name="checkpoint") as file:
            torch.save(told, file)
    except RuntimeError as error:  # what torch's writer makes of the disk's error
        raise StorageError(f"{path} could not be written: is the disk full? The old one is kept.") from error


def load_checkpoint(path: Path, state: State) -> None:
    """Fill a state from a checkpoint.

    Rates and decay stay those of the recipe, which may have changed since. Raises TrainingError for a
    damaged checkpoint or one of another model.
    """
    try:
        told = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises nearly anything
        raise TrainingError(f"{path} is damaged; delete it to begin anew.") from error
    groups = state.optimiser.param_groups
    asked = [{key: group[key] for key in group if key != "params"} for group in groups]
    try:
        state.model.load_state_dict(told["model"])
        state.optimiser.load_state_dict(told["optimiser"])
        if state.average is not None and told["average"] is not None:
            state.average.load(told["average"])
        if told.get("scaler"):
            state.scaler.load_state_dict(told["scaler"])
        state.step, state.best = int(told["step"]), told.get("best")
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise TrainingError(f"{path} is of another recipe; give a new --out folder.") from error
    for group, settings in zip(state.optimiser.param_groups, asked, strict=True):
        group.update(settings)
