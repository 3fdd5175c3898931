"""`clipsearch train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.console import amount, say, shown, stages


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(train)


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe (TOML), such as train/recipes/mini.toml.")],
    data: Annotated[Path, typer.Option("--data", help="The folder that the recipe's paths are relative to.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; a run that stopped there goes on.")],
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Two steps on a few samples, to see that it runs.")
    ] = False,
) -> None:
    """Train a model from a recipe; Ctrl-C leaves a checkpoint, the same command goes on from it."""
    from clipsearch_train.card import results_table
    from clipsearch_train.data import named
    from clipsearch_train.recipe import load_recipe
    from clipsearch_train.run import Trainer

    loaded = load_recipe(recipe)
    with stages() as report:
        trainer = Trainer(loaded.smoke() if smoke else loaded, data, out, report)
        say(f"{amount(trainer.data_report.samples, 'sample')}; skipped: {trainer.data_report}.")
        folder = trainer.train()
    corrupt = sorted(trainer.batches.corrupt)
    if corrupt:
        say(f"{amount(len(corrupt), 'image')} could not be decoded ({named(corrupt)}).")
    if trainer.results:
        say(results_table(trainer.results))
    place = shown(bytes(folder))
    say(
        f"{amount(trainer.step, 'step')} done. The model is in {place}; "
        f"try `clipsearch index DIR --model {place}`."
    )
