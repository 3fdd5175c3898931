"""Plots of a report, as PNG files: {name: bytes}."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.errors import MissingExtra
from clipsearch_train.evaluation.calibration import EDGES, PREVALENCE, Calibration
from clipsearch_train.evaluation.robustness import Trend, inverse_logit, logit
from clipsearch_train.evaluation.shifts import SHIFTS
from clipsearch_train.evaluation.tables import SHIFT, SHIFTED, shift_pairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clipsearch_train.evaluation.bias import LabelRate
    from clipsearch_train.evaluation.probe import Probe
    from clipsearch_train.evaluation.report import DatasetReport, Report

DPI = 120
_TICKS = (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99)
_MOST_BARS = 40


def plots(report: Report) -> dict[str, bytes]:
    """Draw what the report holds. Raises MissingExtra where matplotlib is not installed."""
    return {name: png(figure) for name, figure in _figures(report)}


def new_figure(width: float = 6.4, height: float = 4.2) -> tuple[Figure, Axes]:
    """A figure of one pair of axes, in inches. Raises MissingExtra."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "Plots need matplotlib; install it with: pip install 'clipsearch[train]'"
        ) from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def png(figure: Figure) -> bytes:
    """A drawn figure, without date and version, so that equal figures are equal bytes."""
    buffer = io.BytesIO()
    spell_out(figure)
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def spell_out(figure: Figure) -> None:
    """Have names drawn as they are: a `$` in one begins no formula, which might not even be one."""
    from matplotlib.text import Text

    powers = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if axis.get_scale() != "linear"
        for label in axis.get_ticklabels(which="both")
    }
    for text in figure.findobj(Text):
        if isinstance(text, Text) and id(text) not in powers:
            text.set_parse_math(False)


def _figures(report: Report) -> Iterator[tuple[str, Figure]]:
    retrieved = [dataset for dataset in report.datasets if "text_to_image" in dataset.outcomes]
    if retrieved:
        yield "recall.png", _recall(report.model, retrieved)
    for dataset in report.datasets:
        name = re.sub(r"[^\w.-]", "_", dataset.name)
        if dataset.per_class:
            yield f"classes-{name}.png", _classes(dataset)
        if dataset.probe is not None:
            yield f"probe-{name}.png", _probe(dataset.name, dataset.probe)
        if dataset.calibration is not None:
            yield f"calibration-{name}.png", _calibration(dataset.name, dataset.calibration)
        if any(key.startswith(SHIFT) for key in dataset.metrics):
            yield f"shifts-{name}.png", _shifts(dataset)
    trends = {key: trend for dataset in report.datasets for key, trend in dataset.trends.items()}
    found = robustness({report.model: {d.name: d.metrics for d in report.datasets}}, trends)
    if found is not None:
        yield "effective-robustness.png", found
    if report.bias:
        yield "bias.png", _bias(report.bias)


def _recall(model: str, datasets: Sequence[DatasetReport]) -> Figure:
    figure, axes = new_figure()
    for dataset in datasets:
        for way, style in (("text_to_image", "-"), ("image_to_text", "--")):
            ranks = np.sort(dataset.outcomes[way]) + 1
            share = np.arange(1, len(ranks) + 1) / len(ranks) * 100
            label = f"{dataset.name}, {way.replace('_to_', '→')}"
            axes.step(
                np.append(ranks, ranks[-1] + 1), np.append(share, 100), style, where="post", label=label
            )
    axes.set(xscale="log", xlabel="k", ylabel="recall@k, %", ylim=(0, 100), title=f"Retrieval, {model}")
    axes.set_xlim(left=1)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend()
    return figure


def _classes(dataset: DatasetReport) -> Figure:
    """Top-1 by class: bars where they can be told apart, else the sorted curve with its ends named."""
    told = sorted(dataset.per_class.items(), key=lambda item: -item[1])
    values = [accuracy for _, accuracy in told]
    if len(told) <= _MOST_BARS:
        figure, axes = new_figure(height=max(2.5, 1 + 0.2 * len(told)))
        axes.barh([name for name, _ in told][::-1], values[::-1])
        axes.set(xlabel="top-1, %", xlim=(0, 100))
    else:
        figure, axes = new_figure()
        axes.fill_between(range(1, len(told) + 1), values, step="mid", alpha=0.6)
        axes.set(xlabel=f"classes, best first ({told[0][0]} … {told[-1][0]})", ylabel="top-1, %")
        axes.set(ylim=(0, 100), xlim=(1, len(told)))
    axes.set_title(f"Zero-shot by class, {dataset.name}")
    return figure


def _probe(name: str, probe: Probe) -> Figure:
    figure, axes = new_figure()
    axes.plot(list(probe.tried), list(probe.tried.values()), "o-")
    axes.axvline(probe.strength, color="grey", linestyle=":", label=f"chosen, {probe.strength:.2g}")
    axes.set(xscale="log", xlabel="λ (strength of the L2 penalty)", ylabel="accuracy on held-out images, %")
    axes.set_title(f"Linear probe, {name}")
    axes.legend()
    return figure


def _calibration(name: str, found: Calibration) -> Figure:
    """Both distributions as densities, and below what a cut-off keeps and lets through."""
    figure, axes = new_figure(height=6.4)
    axes.remove()
    top, bottom = figure.subplots(2, sharex=True)
    for counts, label in ((found.matching, "matching"), (found.others, "others")):
        coarse = counts.reshape(-1, 10).sum(axis=1)
        top.stairs(coarse / max(1, coarse.sum()), EDGES[::10], fill=True, alpha=0.5, label=label)
    cutoff = found.suggested()
    bottom.plot(EDGES, found.recall() * 100, label="recall")
    bottom.plot(EDGES, found.precision(PREVALENCE) * 100, label=f"precision where {PREVALENCE:.0%} match")
    for axes in (top, bottom):
        axes.axvline(cutoff, color="grey", linestyle=":", label=f"suggested cut-off, {cutoff:.3f}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend()
    seen = np.flatnonzero(found.matching + found.others)
    bottom.set(xlim=(EDGES[seen[0]], EDGES[seen[-1] + 1]), xlabel="cosine", ylabel="%", ylim=(0, 100))
    top.set(ylabel="share of pairs in 0.01", title=f"What cosine means a match, {name}")
    return figure


def _shifts(dataset: DatasetReport) -> Figure:
    figure, axes = new_figure()
    most = max(severities for _, severities in SHIFTS.values())
    axes.axhline(dataset.metrics["top1"], color="grey", linestyle=":", label="none")
    for number, (name, (_, severities)) in enumerate(SHIFTS.items()):
        found = {
            severity: dataset.metrics[key]
            for severity in range(1, severities + 1)
            if (key := f"{SHIFT}{name}_{severity}" if severities > 1 else SHIFT + name) in dataset.metrics
        }
        if not found:
            continue
        if severities == 1:
            axes.axhline(found[1], linestyle="--", label=name, color=f"C{number}")
        else:
            axes.plot(list(found), list(found.values()), "o-", label=name, color=f"C{number}")
    axes.set(xlabel="severity", ylabel="top-1, %", xlim=(0.8, most + 0.2), xticks=range(1, most + 1))
    axes.set_ylim(bottom=0)
    axes.set_title(f"Under shift, {dataset.name}")
    axes.legend(ncols=2)
    return figure


def robustness(
    models: Mapping[str, Mapping[str, Mapping[str, float]]], trends: Mapping[str, Trend] | None = None
) -> Figure | None:
    """Accuracy under shift against accuracy on the original, on logit axes (Taori et al. 2020).

    models: metrics by data set, by model; None where no model has accuracies under shift. trends: lines by
    metric, drawn where baselines gave one, with the baselines as rings.
    """
    points = [
        (model, key, scores[original], scores[key])
        for model, results in models.items()
        for scores in results.values()
        for key, original in shift_pairs(scores)
    ]
    if not points:
        return None
    figure, axes = new_figure(6.0, 6.0)
    trends = trends or {}
    others = [model for trend in trends.values() for model in trend.models]
    shown = np.array([(before, after) for _, _, before, after in points] + others)
    low, high = max(0.1, shown.min() * 0.7), min(99.9, 100 - (100 - shown.max()) * 0.7)
    line = np.linspace(logit(low), logit(high), 50)
    axes.plot(line, line, color="grey", linestyle=":", label="no loss")
    markers = dict(zip(models, "os^Dv*", strict=False))
    names = dict.fromkeys(_told(key) for _, key, _, _ in points)
    colours = {name: f"C{number % 10}" for number, name in enumerate(names)}
    for key, trend in trends.items():
        colour, expected = colours[_told(key)], logit(trend.expected(inverse_logit(line)))
        axes.plot(line, expected, linewidth=0.8, color=colour, label=f"trend, {_told(key)}")
        axes.scatter(*logit(trend.models).T, facecolors="none", edgecolors=colour)
    labelled = set()
    for model, key, before, after in points:
        name = _told(key)
        label = name if len(models) == 1 else f"{name}, {model}"
        axes.scatter(
            logit(before),
            logit(after),
            color=colours[name],
            marker=markers.get(model, "o"),
            label=None if label in labelled else label,
        )
        labelled.add(label)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(logit(ticks), [str(tick) for tick in ticks])
    axes.set(xlim=(line[0], line[-1]), ylim=(line[0], line[-1]), aspect="equal")
    axes.set(xlabel="top-1 on the original, % (logit)", ylabel="top-1 under shift, % (logit)")
    axes.set_title("Effective robustness")
    axes.legend(fontsize="small")
    return figure


def _told(key: str) -> str:
    """A shift's name without its severity, or the name of a shifted set."""
    if key.startswith(SHIFTED):
        return key.removeprefix(SHIFTED)
    return key.removeprefix(SHIFT).partition("_")[0]


def _bias(rates: Sequence[LabelRate]) -> Figure:
    groups = list(dict.fromkeys(rate.group for rate in rates))
    labels = list(dict.fromkeys(rate.label for rate in rates))
    figure, axes = new_figure(width=max(6.4, 1.2 * len(labels)))
    width = 0.8 / len(groups)
    for number, group in enumerate(groups):
        found = [rate.rate for rate in rates if rate.group == group]
        values = np.array([rate.value for rate in found])
        spread: Any = np.abs([[rate.low, rate.high] for rate in found] - values[:, None]).T
        places = np.arange(len(labels)) + (number - (len(groups) - 1) / 2) * width
        axes.bar(places, values, width * 0.95, yerr=spread, capsize=2, label=group)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylabel="images given the label, %", title="Labels by group, with 95% intervals")
    axes.legend(title="group")
    return figure


__all__ = ["new_figure", "plots", "png", "robustness"]
