"""`clipsearch eval-index`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.console import JsonOption, LibraryOption, results, say, shown, write_json
from clipsearch.errors import MissingExtra

if TYPE_CHECKING:
    from clipsearch.index.curve import Point
    from clipsearch.index.ivfpq import Kind


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval-index")(eval_index)


def eval_index(
    library: LibraryOption = None,
    k: Annotated[int, typer.Option("-n", min=1, help="Results a query.")] = 10,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw the curves into this PNG file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what the index finds, against exact search, for queries in words and by picture.

    The queries are those that measured the index when it was built: captions of the library where it has
    many, else ordinary prompts, and photos of the library.
    """
    from clipsearch.api import Library

    with Library.open(library) as opened:
        found = opened.eval_index(k)
    if plot is not None:
        _draw(plot, found, k)
    if as_json:
        write_json({kind: [dataclasses.asdict(point) for point in points] for kind, points in found.items()})
    else:
        with results():
            typer.echo("\n\n".join(_table(kind, points, k) for kind, points in found.items()))
    if plot is not None:
        say(f"The curves are in {shown(bytes(plot))}.")


def _table(kind: str, points: list[Point], k: int) -> str:
    lines = [
        f"| {kind} queries: lists read | candidates × {k} | recall@{k} | median ms | p95 ms |",
        "|---|---|---|---|---|",
    ]
    for point in points:
        read = "exact search" if point.probes is None else f"{point.probes}{' (used)' if point.tuned else ''}"
        spread = "all" if point.spread is None else str(point.spread)
        lines.append(
            f"| {read} | {spread} | {point.recall:.3f} | {point.median_ms:.2f} | {point.p95_ms:.2f} |"
        )
    return "\n".join(lines)


def _draw(path: Path, found: Mapping[Kind, list[Point]], k: int) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("Drawing needs `pip install 'clipsearch[train]'`.") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for kind, points in found.items():
        through = [point for point in points if point.probes is not None]
        axes.plot([p.median_ms for p in through], [p.recall for p in through], "o-", label=f"{kind} queries")
        for point in through:
            if point.tuned:
                axes.plot(point.median_ms, point.recall, "o", markersize=11, fillstyle="none", color="black")
    axes.set(xlabel="milliseconds a query (median)", ylabel=f"recall@{k}", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
