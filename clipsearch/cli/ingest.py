"""`clipsearch index`."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsearch.cli.console import (
    DeviceOption,
    LibraryOption,
    amount,
    parse_size,
    progress_bar,
    results,
    say,
    shown,
    size,
    write_json,
)
from clipsearch.cli.light import LightCommand
from clipsearch.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from clipsearch_indexer.ingest import Progress, Summary

REASONS_SHOWN = 5
_MOMENT = 0.5  # seconds


class FolderCommand(LightCommand):
    """A command over folders: an empty name, as of an unset variable, is not the working directory."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line. Raises UsageError for an empty word."""
        if "" in args:
            raise UsageError(
                "One of the words is empty, perhaps a variable of the shell; `.` is this folder."
            )
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("index", cls=FolderCommand)(index)


def index(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of photos; none means those the library knows.", show_default=False),
    ] = None,
    library: LibraryOption = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model name or folder (default: the library's own).")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", "-x", help="Leave out names or relative paths (glob).")
    ] = None,
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Follow symbolic links.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoder processes (default: one a core).")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Images encoded at once (default: 32, on a GPU 256)."),
    ] = None,
    ann: Annotated[
        bool, typer.Option("--ann", help="Also build the approximate index, whatever the size.")
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="What the index may take, as 2GB (default: a quarter of the machine's).",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Index nothing; tell which index the library gets, and why.")
    ] = False,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the summary as JSON.")] = False,
) -> None:
    """Index folders of photos, or bring the library up to date.

    Only what changed is read again; moved and copied photos are recognised by their content. Ctrl-C keeps
    what was done.
    """
    from clipsearch.api import Library
    from clipsearch_indexer.ingest import Options
    from clipsearch_indexer.scan import DEFAULT_EXCLUDES

    budget = None if memory is None else parse_size(memory)
    if plan:
        _tell_plan(library, budget, as_json)
        return
    options = Options((*DEFAULT_EXCLUDES, *(exclude or ())), follow_symlinks, workers, batch)
    with Library.open(library, create=True, device=device) as opened:
        fresh = opened.model is None
        with reporting() as report:
            summary = opened.index(folders or [], model=model, options=options, report=report, memory=budget)
        if ann and not summary.interrupted:
            opened.build_index(memory=budget)
        model, photos = opened.model, len(opened)
    if as_json:
        write_json(as_json_of(summary))
    else:
        tell(summary)
        if fresh and model:
            say(f"Model: {model}. `clipsearch models list` shows better ones; `--model` takes another.")
        say(f"The library at {shown(bytes(opened.path))} holds {amount(photos, 'photo')}.")
    if summary.interrupted:
        raise KeyboardInterrupt
    if summary.failed or summary.offline:
        raise typer.Exit(1)


def _tell_plan(library: Path | None, budget: int | None, as_json: bool) -> None:
    """The index of a library as it is, and at ten and a hundred times its size."""
    from clipsearch.api import Library

    with Library.open(library) as opened:
        plans = [opened.plan_index(budget, growth=growth) for growth in (1, 10, 100)]
    if as_json:
        write_json([dataclasses.asdict(plan) for plan in plans])
        return
    with results():
        typer.echo(f"Within {size(plans[0].budget)} of memory (--memory takes another budget):")
        for plan in plans:
            typer.echo(f"{plan.vectors:>15,} × {plan.dim}: {plan.name}; {plan.reason}")
            if plan.params is not None:
                told = (f"{size(plan.memory)} of memory", f"{size(plan.disk)} on disk")
                typer.echo(f"{'':>22}{', '.join(told)}, up to {size(plan.building)} while it is built")


@contextmanager
def reporting() -> Iterator[Callable[[Progress], None]]:
    """A bar for an indexing run on a terminal, once the run has lasted a moment: most find no change."""
    began = time.monotonic()
    bar: _Bar | None = None
    with ExitStack() as opened:

        def report(progress: Progress) -> None:
            nonlocal bar
            if bar is None and time.monotonic() - began > _MOMENT and sys.stderr.isatty():
                bar = _Bar(opened.enter_context(progress_bar("photos")))
            if bar is not None:
                bar.tell(progress)

        yield report


class _Bar:
    """The bar of an indexing run: how far it is in its present stage."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, rate="")
        self._stage = ""
        self._started = 0.0

    def tell(self, progress: Progress) -> None:
        """Show where the run is."""
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._started = progress.stage, now
            self._bar.reset(self._task, total=progress.total or None, description=progress.stage, rate="")
        elapsed = now - self._started
        rate = f"{progress.done / elapsed:.1f}/s" if elapsed > 1 else ""
        self._bar.update(self._task, completed=progress.done, total=progress.total or None, rate=rate)


def tell(summary: Summary) -> None:
    """Say what an indexing run did."""
    parts = [amount(summary.new, "new photo")]
    for count, what in (
        (summary.reembedded, "known photos embedded for this model"),
        (summary.moved, "moved"),
        (summary.copies, "copies"),
        (summary.returned, "back again"),
        (summary.unchanged, "unchanged"),
        (summary.missing, "no longer there (hidden; `clipsearch prune` forgets them)"),
        (len(summary.failed), "failed"),
        (summary.quarantined, "failed before and unchanged (not tried again)"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    rate = f" ({summary.new / summary.seconds:.1f} photos/s)" if summary.new and summary.seconds else ""
    say(f"{', '.join(parts)} in {summary.seconds:.1f} s{rate}.")
    if summary.pending:
        say(
            f"{amount(summary.pending, 'photo')} could not be embedded for this model yet; until then the "
            "library goes on with the model it has."
        )
    for path in summary.offline:
        say(f"Offline: {shown(path)} cannot be reached; its photos are kept.")
    for path, reason in summary.unscanned[:REASONS_SHOWN]:
        say(f"Not scanned: {shown(path)}: {reason}")
    for path, reason in summary.failed[:REASONS_SHOWN]:
        say(f"Failed: {shown(path)}: {reason}")
    more = len(summary.failed) - REASONS_SHOWN
    if more > 0:
        say(f"… and {more:,} more; `clipsearch status --failed` lists them.")


def as_json_of(summary: Summary) -> dict[str, object]:
    """The same for programs."""
    from clipsearch.paths import to_json

    return {
        **summary.counts(),
        "failed": [{"path": to_json(path), "reason": reason} for path, reason in summary.failed],
        "unscanned": [{"path": to_json(path), "reason": reason} for path, reason in summary.unscanned],
        "offline": [to_json(path) for path in summary.offline],
        "seconds": round(summary.seconds, 3),
        "interrupted": summary.interrupted,
    }
