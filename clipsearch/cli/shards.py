"""`clipsearch shards make`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.console import amount, say, shown, stages

app = typer.Typer(no_args_is_help=True, help="Training data as webdataset shards.")


def register(application: typer.Typer) -> None:
    """Add the commands."""
    application.add_typer(app, name="shards")


@app.callback()
def _shards() -> None:
    # With a callback a single command keeps its name.
    pass


@app.command("make")
def make(
    folder: Annotated[Path, typer.Argument(help="A folder of images; folders below it count too.")],
    out: Annotated[Path, typer.Option("--out", help="Where train/ and val/ go.")],
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions",
            help="A .csv, .tsv or .jsonl file of captions or labels (default: text files beside the images).",
        ),
    ] = None,
    folder_labels: Annotated[
        bool, typer.Option("--folder-labels", help="The name of an image's folder is a label of it.")
    ] = False,
    size: Annotated[
        int, typer.Option("--size", help="Larger images are brought to this many pixels on the shorter side.")
    ] = 256,
    val: Annotated[
        float, typer.Option("--val", help="The share of the images to keep for validation, such as 0.1.")
    ] = 0.0,
    name: Annotated[
        str | None, typer.Option("--name", help="The name of the data set (default: the folder's).")
    ] = None,
    per_shard: Annotated[int, typer.Option("--per-shard", help="Images a shard.")] = 1000,
    quality: Annotated[int, typer.Option("--quality", help="Quality of the JPEGs.")] = 90,
) -> None:
    """Write shards from a folder of images and what is said about them; a run that stopped goes on."""
    from clipsearch_train.pack import Packing, pack
    from clipsearch_train.recipe_data import Folder

    source = Folder(str(folder), None if captions is None else str(captions), folder_labels, name or None)
    with stages() as report:
        packed = pack(source, out, Packing(size, quality, val, per_shard), report)
    for part in packed.samples:
        written = amount(packed.shards[part], "shard")
        say(f"{amount(packed.samples[part], 'sample')} in {written} in {shown(bytes(out / part))}.")
    say(f"Left out: {packed.skipped}.")
