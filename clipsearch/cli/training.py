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
    out: Annotated[Path, typer.Option("--out", help="The run's folder; a run that stopped there goes on.")],
    recipe: Annotated[
        Path | None,
        typer.Argument(help="A recipe (TOML), such as train/recipes/mini.toml.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="The folder that the recipe's paths are relative to.", show_default=False
        ),
    ] = None,
    library: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A library: train on captions, keywords and folder names of its photos.",
            show_default=False,
        ),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Two steps on a few samples, to see that it runs.")
    ] = False,
) -> None:
    """Train a model from a recipe; Ctrl-C leaves a checkpoint, the same command goes on from it."""
    from clipsearch_train.card import results_table
    from clipsearch_train.data import named
    from clipsearch_train.plan import plan_run
    from clipsearch_train.run import Trainer

    run = plan_run(recipe, data, library, smoke=smoke)
    with stages() as report:
        trainer = Trainer(run.recipe, run.data, out, report, run.extra)
        if trainer.world.is_main:
            say(f"{amount(trainer.data_report.samples, 'sample')}; skipped: {trainer.data_report}.")
            if trainer.warning is not None:
                say(trainer.warning)
        folder = trainer.train()
    corrupt = sorted(trainer.batches.corrupt)
    if corrupt:  # each of several processes decodes a part of the images
        say(f"{amount(len(corrupt), 'image')} could not be decoded ({named(corrupt)}).")
    if not trainer.world.is_main:
        return
    if trainer.results:
        say(results_table(trainer.results))
    place = shown(bytes(folder))
    photos = "DIR" if library is None else f"--library {shown(bytes(library))}"
    say(
        f"{amount(trainer.step, 'step')} done. The model is in {place}; "
        f"try `clipsearch index {photos} --model {place}`."
    )
