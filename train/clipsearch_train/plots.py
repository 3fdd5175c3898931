"""The course of a run as a picture: loss, logit scale, learning rate, scores."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipsearch.durable import replace
from clipsearch.errors import MissingExtra
from clipsearch_train.best import LEADING
from clipsearch_train.evaluation.plots import spell_out
from clipsearch_train.record import TERMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTS = "plots.png"
# Points of a smoothed curve: more cannot be seen.
_POINTS = 200


def require_matplotlib() -> None:
    """Raise MissingExtra where there is nothing to draw with: better before a run than after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra("Plots of a run need matplotlib: pip install 'clipsearch[train]'.") from error


def draw(folder: Path, steps: Sequence[Mapping[str, str]], scores: Sequence[Mapping[str, Any]]) -> None:
    """Write `plots.png` from the rows of `log.csv` and the lines of `eval.jsonl`. Raises StorageError."""
    # Neither pyplot nor a display: a figure that is only ever a file.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    (loss, rate), (scale, recall) = figure.subplots(2, 2)
    terms = [name for name in TERMS if any(row[name] for row in steps)]
    # One term is the loss, whatever its name.
    for name in ("loss", *(terms if len(terms) > 1 else ())):
        _curve(loss, steps, name)
    _curve(rate, steps, "lr")
    _curve(scale, steps, "logit_scale")
    _curve(scale, steps, "logit_bias")
    _scores(recall, scores)
    for axes, title in (
        (loss, "loss"),
        (rate, "learning rate"),
        (scale, "logit scale"),
        (recall, "held-out data, %"),
    ):
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    picture = io.BytesIO()
    spell_out(figure)
    figure.savefig(picture, format="png", dpi=100)
    replace(folder / PLOTS, picture.getvalue(), name="plots")


def _curve(axes: Axes, steps: Sequence[Mapping[str, str]], name: str) -> None:
    rows = [(int(row["step"]), float(row[name])) for row in steps if row[name]]
    if rows:
        x, y = thinned(np.array(rows, dtype=np.float64))
        axes.plot(x, y, label=name)


def thinned(rows_N2: npt.NDArray[np.float64], points: int = _POINTS) -> tuple[Any, Any]:
    """Steps and values, each the mean of a run of rows where there are more rows than points."""
    parts = np.array_split(rows_N2, min(points, len(rows_N2)))
    means = np.array([part.mean(axis=0) for part in parts])
    return means[:, 0], means[:, 1]


def _scores(axes: Axes, scores: Sequence[Mapping[str, Any]]) -> None:
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in scores:
        for source, results in line.items():
            if isinstance(results, Mapping):
                for metric in LEADING:
                    if metric in results:
                        curve = curves.setdefault(f"{source} {metric.replace('_', ' ')}", [])
                        curve.append((line["step"], results[metric]))
    for label, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), marker="o", markersize=3, label=label)
