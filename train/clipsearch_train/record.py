"""What a run writes down: its recipe, where it ran, a row for each step, its scores on held-out data."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clipsearch import __version__
from clipsearch.durable import replace, storage_errors
from clipsearch.errors import UsageError
from clipsearch_train import recipe as recipes
from clipsearch_train.card import Results

RECIPE = "recipe.json"
LOG = "log.csv"
SCORES = "eval.jsonl"
STARTS = "environment.jsonl"
TERMS = ("contrastive", "image", "text", "bank", "features", "similarity")
COLUMNS = (
    "step", "loss", *TERMS, "logit_scale", "logit_bias", "lr", "gradient_norm", "samples_per_s", "data_wait",
)  # fmt: skip


class Record:
    """`recipe.json`, `environment.jsonl`, `log.csv` and `eval.jsonl` in a run's folder."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def require_same_data(self, recipe: recipes.Recipe) -> None:
        """Raise UsageError where the folder holds a run on fewer or more samples, such as one of `--smoke`.

        Its tokenizer was learnt from those, and its scores are of those.
        """
        try:
            told = json.loads((self._out / RECIPE).read_text(encoding="utf-8"))
            limit = told["recipe"]["data"]["limit"]
        except (OSError, ValueError, KeyError, TypeError):  # none, or none of ours: it will be written anew
            return
        if limit != recipe.data.limit:
            raise UsageError(
                f"{self._out} holds a run on other data: data.limit, which --smoke sets to 16, was "
                f"{limit or 'not set'} and is {recipe.data.limit or 'not set'} now. Give another --out, or "
                "delete that folder."
            )

    def begin(self, recipe: recipes.Recipe, step: int, where: Mapping[str, Any]) -> None:
        """Write down what runs and `where`; cut off the steps that the checkpoint has not seen.

        Raises StorageError.
        """
        told = {
            "clipsearch": __version__,
            "torch": torch.__version__,
            "resumed_at": step,
            "recipe": dataclasses.asdict(recipe),
        }
        replace(self._out / RECIPE, (json.dumps(told, indent=2) + "\n").encode(), name="recipe")
        self._add(STARTS, {"step": step, "seed": recipe.seed, **where})
        kept = [row for row in self.steps() if int(row["step"]) <= step]
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        replace(self._out / LOG, buffer.getvalue().encode(), name="log")
        self._write_scores([line for line in self.scores() if line["step"] <= step])

    def log(self, row: Mapping[str, float]) -> None:
        """Add a step's row to `log.csv`. Raises StorageError."""
        path = self._out / LOG
        with storage_errors(path), path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow({key: f"{value:.6g}" for key, value in row.items()})

    def score(self, step: int, results: Results) -> None:
        """Put the scores of a step at the end of `eval.jsonl`. Raises StorageError."""
        self._write_scores(
            [*(line for line in self.scores() if line["step"] < step), {"step": step, **results}]
        )

    def steps(self) -> list[dict[str, str]]:
        """The rows of `log.csv` so far; a last one that a kill cut short is left out."""
        path = self._out / LOG
        if not path.is_file():
            return []
        with storage_errors(path), path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if None not in row.values() and row["step"].isdigit()]

    def scores(self) -> list[dict[str, Any]]:
        """The lines of `eval.jsonl` so far; a last one that a kill cut short is left out."""
        path = self._out / SCORES
        if not path.is_file():
            return []
        with storage_errors(path):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _write_scores(self, lines: Sequence[Mapping[str, Any]]) -> None:
        replace(
            self._out / SCORES, "".join(json.dumps(line) + "\n" for line in lines).encode(), name="scores"
        )

    def _add(self, name: str, value: Mapping[str, Any]) -> None:
        path = self._out / name
        with storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")
