"""Two reports side by side: differences with confidence intervals, from the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.durable import make_directory, replace
from clipsearch.errors import UsageError
from clipsearch_train.evaluation.bootstrap import Interval, paired_difference
from clipsearch_train.evaluation.plots import new_figure, png, robustness
from clipsearch_train.evaluation.report import SavedReport
from clipsearch_train.evaluation.tables import SHIFT, markdown

Outcomes = Mapping[str, npt.NDArray[np.int64]]

# Counts, and settings found on the way: their difference says nothing about which model is better.
_NOT_SCORES = frozenset({
    "images", "captions", "classes", "probe_strength", "probe_train_images", "word_order_captions",
    "matching_median", "others_median", "cutoff", "search_shown",
})  # fmt: skip
# How scores that are not in percent are written.
_FORMS = {"auc": ".3f"}


@dataclass(frozen=True)
class Difference:
    """One metric of one data set for both models.

    `interval` is of the difference b - a; None where it cannot be drawn anew image by image.
    """

    dataset: str
    metric: str
    a: float
    b: float
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; `models` are two different names."""

    models: tuple[str, str]
    differences: tuple[Difference, ...]
    results: tuple[Mapping[str, Mapping[str, float]], Mapping[str, Mapping[str, float]]]
    remark: str = ""

    def markdown(self) -> str:
        """A table; differences whose 95% interval leaves out zero are bold."""
        rows = []
        for found in self.differences:
            form = _FORMS.get(found.metric, ".1f")
            told = f"{found.b - found.a:+{form}}"
            spread = "–"
            if found.interval is not None:
                spread = f"{found.interval.low:+.1f} to {found.interval.high:+.1f}"
                told = f"**{told}**" if found.interval.is_clear else told
            metric = found.metric.replace("_", " ")
            rows.append([found.dataset, metric, f"{found.a:{form}}", f"{found.b:{form}}", told, spread])
        return markdown(["data", "score", *self.models, "difference", "95% interval"], rows)

    def to_json(self) -> dict[str, Any]:
        """In JSON's types."""
        return {"models": list(self.models), "differences": [asdict(found) for found in self.differences]}

    def save(self, folder: Path) -> list[Path]:
        """Write `comparison.md`, `comparison.json` and plots; returns their paths. Raises StorageError."""
        import json

        files = {"comparison.png": self._plot()}
        found = robustness(dict(zip(self.models, self.results, strict=True)))
        if found is not None:
            files["effective-robustness.png"] = png(found)
        files["comparison.md"] = (self.markdown() + "\n").encode()
        files["comparison.json"] = (json.dumps(self.to_json(), indent=2) + "\n").encode()
        make_directory(folder)
        for name, content in files.items():
            replace(folder / name, content, name="report")
        return [folder / name for name in files]

    def _plot(self) -> bytes:
        shown = [found for found in self.differences if found.interval is not None]
        figure, axes = new_figure(height=1.2 + 0.25 * len(shown))
        for place, found in enumerate(reversed(shown)):
            assert found.interval is not None
            colour = "C0" if found.interval.is_clear else "grey"
            axes.plot([found.interval.low, found.interval.high], [place, place], color=colour)
            axes.plot(found.interval.value, place, "o", color=colour)
        names = [f"{found.dataset}: {found.metric.replace('_', ' ')}" for found in reversed(shown)]
        axes.set_yticks(range(len(shown)), names)
        axes.axvline(0, color="grey", linestyle=":")
        a, b = self.models
        axes.set(xlabel=f"points by which {b} is better than {a}", title="Differences with 95% intervals")
        return png(figure)


def compare(a: SavedReport, b: SavedReport, *, seed: int = 0) -> Comparison:
    """Compare two reports on the data sets that both have.

    Intervals are percentiles of a paired bootstrap over images: both models are scored on the same draw, and
    the captions of an image are drawn together. Raises UsageError where the reports have no data set in
    common, or one of that name with other images.
    """
    common = [name for name in a.results if name in b.results]
    if not common:
        raise UsageError(
            f"The two reports have no data set in common: one scores {', '.join(a.results) or 'none'}, "
            f"the other {', '.join(b.results) or 'none'}."
        )
    found = []
    for name in common:
        if a.digests[name] != b.digests[name]:
            raise UsageError(
                f"The two reports scored other images, captions or classes under the name {name}; "
                "evaluate both models on the same data."
            )
        for metric, value in a.results[name].items():
            if metric in b.results[name] and metric not in _NOT_SCORES:
                other = b.results[name][metric]
                spread = _interval(metric, a.outcomes[name], b.outcomes[name], seed)
                found.append(Difference(name, metric, value, other, spread))
    remark = ""
    if a.templates != b.templates:
        remark = "The two reports are of other prompt templates, which also makes a difference for classes."
    return Comparison(_distinct(a, b), tuple(found), (a.results, b.results), remark)


def _interval(metric: str, a: Outcomes, b: Outcomes, seed: int) -> Interval | None:
    """The paired interval of a metric that is a share of hits, in points."""
    kind, most = _hits_of(metric)
    if kind is None or kind not in a or kind not in b or a[kind].shape != b[kind].shape:
        return None
    hits = [(ranks[kind] < most) * 100.0 for ranks in (a, b)]
    if kind != "text_to_image":
        return paired_difference(hits[0], hits[1], seed=seed)
    owner = a["image_of_caption"]
    images = int(owner.max()) + 1
    sums = [np.bincount(owner, weights=hit, minlength=images) for hit in hits]
    return paired_difference(sums[0], sums[1], np.bincount(owner, minlength=images), seed=seed)


def _hits_of(metric: str) -> tuple[str | None, int]:
    """Which outcome a metric counts, and how many ranks of it are hits."""
    for way in ("text_to_image", "image_to_text"):
        if metric.startswith(f"{way}_r"):
            return way, int(metric.removeprefix(f"{way}_r"))
    if metric in ("top1", "top5"):
        return "zero_shot", int(metric.removeprefix("top"))
    if metric == "probe_top1":
        return "probe", 1
    return (metric, 1) if metric.startswith(SHIFT) else (None, 0)


def _distinct(a: SavedReport, b: SavedReport) -> tuple[str, str]:
    """What to call two models: every run's is called `model`, so the reports' folders may have to tell."""
    if a.model != b.model:
        return a.model, b.model
    places = (a.place, b.place) if a.place != b.place else ("a", "b")
    return f"{a.model} ({places[0]})", f"{b.model} ({places[1]})"
