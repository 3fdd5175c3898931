"""The model card: what a model is, what it was trained on and what it scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipsearch_train import recipe as recipes

Results = Mapping[str, Mapping[str, float]]


def write_card(folder: Path, recipe: recipes.Recipe, sources: Mapping[str, int], results: Results) -> None:
    """Write `README.md` into a model folder; `sources` says how many images each has."""
    lines = [
        "---",
        "library_name: open_clip",
        "pipeline_tag: zero-shot-image-classification",
        "---",
        f"# {recipe.name}",
        "",
        f"A CLIP model made by `clipsearch train` from the recipe `{recipe.name}`.",
        "",
        "## Trained on",
        "",
        "| source | images |",
        "|---|---|",
        *(f"| {source or 'unnamed'} | {count:,} |" for source, count in sorted(sources.items())),
        "",
        "## Scores",
        "",
        results_table(results),
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def results_table(results: Results) -> str:
    """Scores as a markdown table, one row a data set."""
    rows = ["| data | " + "scores in percent |", "|---|---|"]
    for source, scores in results.items():
        told = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in scores.items())
        rows.append(f"| {source} | {told} |")
    return "\n".join(rows)
