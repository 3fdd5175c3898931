"""`clipsearch status` and `prune`; what keeps a library whole is in `clipsearch.cli.care`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.console import JsonOption, LibraryOption, amount, results, say, shown, size, write_json

if TYPE_CHECKING:
    from clipsearch.api import Status
    from clipsearch.store import FailureRow


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (status, prune):
        app.command(command.__name__)(command)


def status(
    library: LibraryOption = None,
    as_json: JsonOption = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="List the files that gave no image, and why.")
    ] = False,
) -> None:
    """Show what the library holds."""
    from clipsearch.api import Library

    with Library.open(library) as opened:
        found = opened.status()
        failures = opened.failures() if failed else []
    if as_json:
        from clipsearch.paths import to_json

        listed = [{"path": to_json(row.path), "reason": row.reason, "kind": row.kind} for row in failures]
        write_json(found.to_dict() | ({"failures": listed} if failed else {}))
        return
    with results():
        _tell(found, failures)


def _tell(found: Status, failures: Sequence[FailureRow]) -> None:
    typer.echo(f"library  {shown(bytes(found.path))} ({size(found.disk_bytes)})")
    typer.echo(f"photos   {found.images:,} in {amount(found.files, 'file')}")
    for count, name in ((found.missing, "missing"), (found.failed, "failed")):
        if count:
            typer.echo(f"{name:8} {count:,}")
    typer.echo(f"model    {found.model or 'none yet'}")
    typer.echo(f"index    {_index_line(found.index)}")
    for root in found.roots:
        typer.echo(f"folder   {shown(root.path)}{'' if root.online else ' (offline)'}")
    if found.last_run is not None:
        typer.echo(f"last run {found.last_run.started_at}, {found.last_run.status}")
    for row in failures:
        typer.echo(f"failed   {shown(row.path)}: {row.reason}")


def _index_line(index: dict[str, object]) -> str:
    if index["kind"] == "none":
        return "none yet"
    if index["kind"] == "exact":
        return f"exact search of {index['vectors']:,} vectors"
    recall, latency = index["recall@10"], index["latency_ms"]
    assert isinstance(recall, dict)
    assert isinstance(latency, dict)
    told = ", ".join(
        f"{kind} {value:.3f}" + (f" in {latency[kind]:.1f} ms" if kind in latency else "")
        for kind, value in recall.items()
    )
    covered = f"{index['covered']:,} of {index['vectors']:,} vectors"
    return f"{index['key']} of {covered}; recall@10: {told}"


def prune(library: LibraryOption = None) -> None:
    """Forget photos whose files are gone. The only command that deletes; photo files are never touched."""
    from clipsearch.api import Library

    with Library.open(library) as opened:
        result = opened.prune()
    say(f"Forgot {amount(result.files, 'file')} and {amount(result.images, 'photo')}.")
