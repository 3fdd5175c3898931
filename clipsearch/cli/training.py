"""`clipsearch train` and `clipsearch eval`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.console import JsonOption, amount, progress_bar, say, shown, write_json

# How often a stage says where it is when there is no terminal to draw a bar on.
_SECONDS_BETWEEN_LINES = 60.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("train")(train)
    app.command("eval")(evaluate)


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
    with _stages() as report:
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


def evaluate(
    model: Annotated[str, typer.Argument(help="A model name or folder.")],
    data: Annotated[list[Path], typer.Option("--data", help="Shards (tar) to score the model on.")],
    as_json: JsonOption = False,
) -> None:
    """Score a model: retrieval recall on samples with captions, zero-shot accuracy on those with labels."""
    from clipsearch.errors import TrainingError
    from clipsearch.weights import load_folder
    from clipsearch.zoo import resolve
    from clipsearch_train.card import results_table
    from clipsearch_train.validation import Validation

    loaded = load_folder(resolve(model).folder)
    results = Validation.read(data).evaluate(loaded.model, loaded.preprocess, loaded.tokenizer)
    if not results:
        raise TrainingError(
            "These shards hold nothing to score: no source has captions, or labels throughout."
        )
    if as_json:
        write_json(results)
    else:
        typer.echo(results_table(results))


@contextmanager
def _stages() -> Iterator[Callable[..., None]]:
    """A bar for each stage of a run; where there is no terminal, a line now and then."""
    with progress_bar("steps") as bar:
        tasks: dict[str, tuple[object, float]] = {}
        said: dict[str, float] = {}
        quiet = not sys.stderr.isatty()

        def report(stage: str, done: int, total: int, detail: str = "") -> None:
            now = time.monotonic()
            if stage not in tasks:
                tasks[stage], said[stage] = (bar.add_task(stage, total=total, rate=""), now), now
            task, started = tasks[stage]
            rate = f"{done / (now - started):.1f}/s" if now - started > 1 else ""
            rate = f"{rate} {detail}".strip()
            bar.update(task, completed=done, total=total, rate=rate)  # type: ignore[arg-type]
            if quiet and (done >= total or now - said[stage] > _SECONDS_BETWEEN_LINES):
                said[stage] = now
                say(f"{stage}: {done:,} of {total:,} {rate}".rstrip())

        yield report
