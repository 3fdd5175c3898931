"""What an evaluation found: numbers for people and programs, a folder with JSON, markdown and plots."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch import __version__
from clipsearch.durable import make_directory, replace
from clipsearch.errors import UsageError
from clipsearch_train.evaluation.bias import LabelRate
from clipsearch_train.evaluation.calibration import EDGES, Calibration
from clipsearch_train.evaluation.probe import Probe
from clipsearch_train.evaluation.robustness import Trend
from clipsearch_train.evaluation.tables import Results, bias_table, results_table, threshold_table

# What a JSON file or an array that is not as it was written may raise.
_NOT_WHOLE = (
    OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
REPORT = "report.json"
OUTCOMES = "outcomes.npz"
FORMAT = 1


@dataclass(frozen=True)
class DatasetReport:
    """Scores on one data set.

    `metrics` are single numbers, accuracies and recalls in percent. `outcomes` are the ranks behind them, an
    int64 array each, by which two models are compared image by image: `text_to_image` (a caption each, whose
    images `image_of_caption` names), `image_to_text`, `zero_shot`, `probe`, and one for each shift. `digest`
    is equal where the same questions were asked. `skipped` are images that could not be read. `trends` are
    the baselines', by metric of accuracy under shift.
    """

    name: str
    digest: str
    metrics: Mapping[str, float]
    skipped: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    per_class: Mapping[str, float] = field(default_factory=dict)
    probe: Probe | None = None
    calibration: Calibration | None = None
    trends: Mapping[str, Trend] = field(default_factory=dict)
    outcomes: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything but the outcomes, in JSON's types."""
        told: dict[str, Any] = {
            "digest": self.digest,
            "metrics": dict(self.metrics),
            "skipped": list(self.skipped),
            "remarks": list(self.remarks),
        }
        if self.per_class:
            told["per_class"] = dict(self.per_class)
        if self.probe is not None:
            told["probe"] = {
                "strength": self.probe.strength,
                "train_images": self.probe.train_images,
                "tried": [[strength, accuracy] for strength, accuracy in self.probe.tried.items()],
            }
        if self.calibration is not None:
            found = self.calibration
            told["calibration"] = {
                "matching": {str(q): value for q, value in found.quantiles(found.matching).items()},
                "others": {str(q): value for q, value in found.quantiles(found.others).items()},
                "prevalence_here": found.prevalence,
                "cutoffs": found.table(),
                "histogram": _histogram(found),
                "search": None if found.search is None else asdict(found.search),
            }
        return told


@dataclass(frozen=True)
class Report:
    """An evaluation of one model: `settings` are templates, seed and the like."""

    model: str
    fingerprint: str
    settings: Mapping[str, Any]
    datasets: tuple[DatasetReport, ...]
    bias: tuple[LabelRate, ...] = ()
    remarks: tuple[str, ...] = ()
    """Sentences that are about no data set of `datasets`."""

    def told(self) -> list[str]:
        """All remarks."""
        return [*(remark for dataset in self.datasets for remark in dataset.remarks), *self.remarks]

    @property
    def results(self) -> Results:
        """The metrics by data set."""
        return {dataset.name: dataset.metrics for dataset in self.datasets}

    def summary(self) -> dict[str, Any]:
        """The metrics by data set, and under `bias` the rates where that was asked for."""
        rates = [asdict(rate) for rate in self.bias]
        return {**self.results, **({"bias": rates} if rates else {})}

    def tables(self) -> str:
        """All scores as markdown tables."""
        parts = [results_table(self.results), bias_table(self.bias) if self.bias else ""]
        return "\n\n".join(part for part in parts if part)

    def markdown(self) -> str:
        """The report as a page."""
        parts = [f"# Evaluation of {self.model}", self._told(), self.tables()]
        for dataset in self.datasets:
            if dataset.calibration is not None:
                parts += [f"## Cut-offs on {dataset.name}", threshold_table(dataset.calibration)]
        remarks = [f"- {remark}" for dataset in self.datasets for remark in dataset.remarks]
        if remarks:
            parts += ["## Remarks", "\n".join(remarks)]
        return "\n\n".join(parts) + "\n"

    def _told(self) -> str:
        templates = len(self.settings.get("templates", ()))
        return (
            f"clipsearch {__version__}, fingerprint {self.fingerprint}, "
            f"{templates} prompt template{'s' if templates != 1 else ''}. Accuracies and recalls in percent."
        )

    def to_json(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return {
            "format": FORMAT,
            "clipsearch": __version__,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "settings": dict(self.settings),
            "datasets": {dataset.name: dataset.to_json() for dataset in self.datasets},
            "bias": [asdict(rate) for rate in self.bias],
        }

    def save(self, folder: Path) -> list[Path]:
        """Write `report.json`, `report.md`, `outcomes.npz` and the plots; returns their paths.

        Raises StorageError, MissingExtra (matplotlib).
        """
        from clipsearch_train.evaluation.plots import plots

        pictures = plots(self)  # before anything is written
        make_directory(folder)
        arrays = {
            f"{number}/{name}": ranks
            for number, dataset in enumerate(self.datasets)
            for name, ranks in dataset.outcomes.items()
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        files = {
            OUTCOMES: buffer.getvalue(),
            "report.md": self.markdown().encode("utf-8", "replace"),
            **pictures,
            # Last: where it is, the rest is.
            REPORT: (json.dumps(self.to_json(), indent=2) + "\n").encode(),
        }
        for name, content in files.items():
            replace(folder / name, content, name="report")
        return [folder / name for name in files]


@dataclass(frozen=True)
class SavedReport:
    """A report read back: metrics, digests and outcomes by data set; `place` is the folder's name."""

    model: str
    results: Results
    digests: Mapping[str, str]
    outcomes: Mapping[str, Mapping[str, npt.NDArray[np.int64]]]
    place: str = ""
    templates: tuple[str, ...] = ()


def load_report(folder: Path) -> SavedReport:
    """Read what `Report.save` wrote. Raises UsageError for a folder that holds no whole report."""
    try:
        told = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        datasets: dict[str, dict[str, Any]] = told["datasets"]
        with (folder / OUTCOMES).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            outcomes: dict[str, dict[str, npt.NDArray[np.int64]]] = {name: {} for name in datasets}
            names = list(datasets)
            for key in arrays.files:
                number, _, kind = key.partition("/")
                outcomes[names[int(number)]][kind] = np.asarray(arrays[key], dtype=np.int64)
        return SavedReport(
            str(told["model"]),
            {name: {k: float(v) for k, v in found["metrics"].items()} for name, found in datasets.items()},
            {name: str(found["digest"]) for name, found in datasets.items()},
            outcomes,
            folder.resolve().name,
            tuple(map(str, told.get("settings", {}).get("templates", ()))),
        )
    except _NOT_WHOLE as error:
        raise UsageError(
            f"{folder} holds no evaluation report ({error}); `clipsearch eval MODEL … --out DIR` writes one."
        ) from error


def _histogram(found: Calibration) -> dict[str, list[float]]:
    """Counts in steps of 0.01, without the empty ends."""
    counts = {"matching": found.matching, "others": found.others}
    coarse = {name: value.reshape(-1, 10).sum(axis=1) for name, value in counts.items()}
    seen = np.flatnonzero(coarse["matching"] + coarse["others"])
    inside = slice(int(seen[0]), int(seen[-1]) + 1)
    edges = [round(float(edge), 2) for edge in EDGES[::10][inside]]
    return {"from": edges} | {name: value[inside].tolist() for name, value in coarse.items()}
