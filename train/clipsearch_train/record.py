"""What a run writes down: its recipe, a row for each step, its scores on held-out data."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from clipsearch import __version__
from clipsearch.durable import replace, storage_errors
from clipsearch_train import recipe as recipes
from clipsearch_train.card import Results

COLUMNS = (
    "step",
    "contrastive",
    "image",
    "text",
    "bank",
    "features",
    "similarity",
    "logit_scale",
    "steps_per_s",
)


class Record:
    """`recipe.json`, `log.csv` and `eval.jsonl` in a run's folder."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def begin(self, recipe: recipes.Recipe, step: int) -> None:
        """Write down what runs here, and cut from the log the steps that the checkpoint has not seen."""
        told = {
            "clipsearch": __version__,
            "torch": torch.__version__,
            "resumed_at": step,
            "recipe": dataclasses.asdict(recipe),
        }
        replace(self._out / "recipe.json", (json.dumps(told, indent=2) + "\n").encode(), name="recipe")
        path = self._out / "log.csv"
        kept = []
        if path.is_file():
            with storage_errors(path), path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
        replace(path, buffer.getvalue().encode(), name="log")

    def log(self, row: Mapping[str, float]) -> None:
        """Add a step's row to `log.csv`. Raises StorageError."""
        path = self._out / "log.csv"
        with storage_errors(path), path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow({key: round(value, 5) for key, value in row.items()})

    def score(self, step: int, results: Results) -> None:
        """Add a line of scores to `eval.jsonl`. Raises StorageError."""
        path = self._out / "eval.jsonl"
        with storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **results}) + "\n")
