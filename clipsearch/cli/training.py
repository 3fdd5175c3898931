"""`clipsearch train`."""

from __future__ import annotations

import os
from contextlib import nullcontext
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
    from clipsearch_train.run_lock import run_lock

    run = plan_run(recipe, data, library, smoke=smoke)
    first = os.environ.get("RANK", "0") == "0"  # of those that torchrun starts, the one that writes
    with run_lock(out) if first else nullcontext(), stages() as report:
        trainer = Trainer(run.recipe, run.data, out, report, run.extra)
        if trainer.world.is_main:
            say(f"{amount(trainer.data_report.samples, 'sample')}; skipped: {trainer.data_report}.")
            if trainer.warning is not None:
                say(trainer.warning)
            for remark in trainer.validation.remarks:
                say(remark)
        folder = trainer.train()
    corrupt = sorted(trainer.batches.corrupt)
    if corrupt:  # each of several processes decodes a part of the images
        say(f"{amount(len(corrupt), 'image')} could not be decoded ({named(corrupt)}).")
    if not trainer.world.is_main:
        return
    if trainer.results:
        say(results_table(trainer.results))
    if trainer.result_step not in (None, trainer.step):
        say(f"These are the scores after {amount(trainer.result_step or 0, 'step')}, the best of the run.")
    place = shown(bytes(folder))
    photos = "DIR" if library is None else f"--library {shown(bytes(library))}"
    say(
        f"{amount(trainer.step, 'step')} done. The model is in {place}; "
        f"try `clipsearch index {photos} --model {place}`."
    )
