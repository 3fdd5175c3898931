"""`clipsearch eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.console import JsonOption, write_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval")(evaluate)


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
