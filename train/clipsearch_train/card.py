"""The model card: what a model is, what it was trained on and what it scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipsearch.durable import replace
from clipsearch_train import recipe as recipes
from clipsearch_train.evaluation.tables import Results, results_table


def write_card(folder: Path, recipe: recipes.Recipe, sources: Mapping[str, int], results: Results) -> None:
    """Write `README.md` into a model folder; `sources` says how many images each has. Raises StorageError."""
    lines = [
        "---",
        "library_name: open_clip",
        "pipeline_tag: zero-shot-image-classification",
        "---",
        f"# {recipe.name}",
        "",
        f"A CLIP model made by `clipsearch train` from the recipe `{recipe.name}`.",
        *_start(recipe),
        "",
        "## Trained on",
        "",
        "| source | images |",
        "|---|---|",
        *(f"| {source or 'unnamed'} | {count:,} |" for source, count in sorted(sources.items())),
        "",
        "## Scores",
        "",
        *_scores(results),
    ]
    replace(folder / "README.md", ("\n".join(lines) + "\n").encode(), name="card")


def _start(recipe: recipes.Recipe) -> list[str]:
    """What it began as."""
    if recipe.start is None:
        return []
    start = recipe.start
    lora = f"; adapters of rank {start.lora_rank}, merged" if start.lora_rank else ""
    return [
        "",
        f'It began as `{start.model}` (image tower: "{start.image}", text tower: "{start.text}"{lora}).',
    ]


def _scores(results: Results) -> list[str]:
    """The tables of the evaluation, and the command that makes them again."""
    if not results:
        return ["Not evaluated: the recipe names no validation shards with captions or labels."]
    return [
        "`clipsearch eval . --data SHARD` in this folder, with the validation shards, scores again. Recalls "
        "and accuracies are in percent; classification uses seven prompt templates, ensembled.",
        "",
        results_table(results),
    ]


__all__ = ["Results", "results_table", "write_card"]
