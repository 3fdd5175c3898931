"""`clipsearch models list | pull | info`."""

from __future__ import annotations

from typing import Annotated

import typer

from clipsearch.cli.console import JsonOption, amount, results, say, size, write_json

app = typer.Typer(no_args_is_help=True, help="Models on this machine and on the hub.")


def register(application: typer.Typer) -> None:
    """Add the commands."""
    application.add_typer(app, name="models")


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List models: those on this machine and the released ones that can be pulled."""
    from clipsearch import zoo

    here = {found.name: found.folder for found in zoo.installed()}
    rows = [
        {
            "name": entry.name,
            "installed": zoo.local_folder(entry.name).name in here,
            "imagenet_zero_shot": entry.imagenet,
            "edge": entry.edge,
            "dim": entry.dim,
            "million_parameters": entry.parameters,
            "repository": entry.repository,
        }
        for entry in zoo.RELEASES
    ]
    known = {zoo.local_folder(entry.name).name for entry in zoo.RELEASES}
    own = [{"name": name, "installed": True} for name in here if name not in known]
    if as_json:
        write_json(own + rows)
        return
    with results():
        for name in here:
            if name not in known:
                note = "bundled, works offline" if name == zoo.BUNDLED else "on this machine"
                typer.echo(f"* {name:<17} {note}")
        for entry, row in zip(zoo.RELEASES, rows, strict=True):
            mark = "*" if row["installed"] else " "
            note = " (recommended)" if entry is zoo.RECOMMENDED else ""
            typer.echo(
                f"{mark} {entry.name:<17} {entry.imagenet:>4}% ImageNet zero-shot, "
                f"{entry.parameters:>3} M parameters, {entry.edge} px{note}"
            )
    say("\n* on this machine; `clipsearch models pull NAME` fetches another (NAME may be hf-hub:owner/name).")


@app.command()
def pull(name: Annotated[str, typer.Argument(help="A name of `models list`, or hf-hub:owner/name.")]) -> None:
    """Download a model from the hub."""
    from clipsearch import zoo

    say(f"Asking the hub for {name} …")
    found = zoo.pull(name)
    say(f"{found.name} is in {found.folder}. New libraries use the best model there is; `--model` chooses.")


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A model on this machine, or a model folder.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a model is: sizes, input, fingerprint."""
    from clipsearch.zoo import resolve

    found = resolve(name)  # before torch is loaded, which takes seconds
    from clipsearch.model_files import find_weights
    from clipsearch.weights import load_folder

    loaded = load_folder(found.folder)
    config = loaded.model.config
    parameters = sum(p.numel() for p in loaded.model.parameters())
    weights_bytes = find_weights(found.folder).stat().st_size
    if as_json:
        write_json(
            {
                "name": found.name,
                "folder": str(found.folder),
                "parameters": parameters,
                "weights_bytes": weights_bytes,
                "edge": loaded.preprocess.size,
                "dim": config.embed_dim,
                "vocabulary": config.text.vocab_size,
                "context_length": config.text.context_length,
                "fingerprint": loaded.fingerprint,
            }
        )
        return
    with results():
        typer.echo(f"{found.name} in {found.folder} ({size(weights_bytes)})")
        typer.echo(
            f"{amount(parameters, 'parameter')}, input {loaded.preprocess.size} px, "
            f"embeddings of {config.embed_dim}"
        )
        typer.echo(f"{config.text.vocab_size:,} tokens, texts of up to {config.text.context_length}")
        typer.echo(f"fingerprint {loaded.fingerprint}")
