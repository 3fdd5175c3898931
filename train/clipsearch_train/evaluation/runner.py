"""One evaluation of one model: every image is embedded once, then everything that was asked for is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.errors import TrainingError
from clipsearch_train.data import named
from clipsearch_train.evaluation.bias import BiasQuestion, LabelRate, bias_rates
from clipsearch_train.evaluation.calibration import Calibration, calibrate
from clipsearch_train.evaluation.datasets import Dataset, matching_classes
from clipsearch_train.evaluation.features import Embedded, Features, Model
from clipsearch_train.evaluation.features import Report as Progress
from clipsearch_train.evaluation.probe import Probe, linear_probe
from clipsearch_train.evaluation.report import DatasetReport, Report, SavedReport
from clipsearch_train.evaluation.retrieval import retrieve
from clipsearch_train.evaluation.robustness import Trend
from clipsearch_train.evaluation.shifts import Shift
from clipsearch_train.evaluation.tables import EFFECTIVE, ORIGINAL, SHIFT, SHIFTED, shift_pairs
from clipsearch_train.evaluation.templates import IMAGENET_7, ONE, check_templates
from clipsearch_train.evaluation.word_order import exchange_nouns, find_nouns, true_above_exchanged
from clipsearch_train.evaluation.zeroshot import classify

Rows = npt.NDArray[np.int64]


class NamedModel(Model, Protocol):
    """A model that says what it is, as `clipsearch.Encoder` does."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Plan:
    """What is evaluated beside retrieval and zero-shot classification, which every data set gets that can.

    templates: of prompts, each with one {}. shifts: copies to classify again. shifted: data sets of the
    same classes to hold against the first one that has them. probe_on: labelled training images for linear
    probes. calibrate: where scores of matches lie. word_order: captions against ones with two nouns
    exchanged. bias: labels and groups. baselines: other models' reports, whose trend says what accuracy under
    shift is to be expected. seed: of noise, splits and bootstraps.
    """

    templates: tuple[str, ...] = IMAGENET_7
    shifts: tuple[Shift, ...] = ()
    shifted: tuple[Dataset, ...] = ()
    probe_on: tuple[Dataset, ...] = ()
    calibrate: bool = False
    word_order: bool = False
    bias: BiasQuestion | None = None
    baselines: tuple[SavedReport, ...] = ()
    seed: int = 0


def evaluate(
    model: NamedModel,
    datasets: Sequence[Dataset],
    plan: Plan | None = None,
    progress: Progress = lambda *_: None,
) -> Report:
    """Score a model. Images that cannot be read are left out, counted and named.

    Raises TrainingError (nothing that can be scored, classes that do not fit), ModelInvalid (embeddings that
    are no numbers), UsageError (templates), MissingExtra (scikit-learn, for a probe).
    """
    plan = plan or Plan()
    check_templates(plan.templates, "The templates")
    _check(datasets, plan)
    return _Run(Features(model, progress), plan).report(model, datasets)


def _check(datasets: Sequence[Dataset], plan: Plan) -> None:
    """Find out before anything is embedded what could not be scored afterwards."""
    repeated = [d.name for number, d in enumerate(datasets) if d.name in {e.name for e in datasets[:number]}]
    if repeated:
        raise TrainingError(f"Two data sets are called {repeated[0]!r}; rename one.")
    if not plan.bias and not any(d.captioned or d.labelled for d in datasets):
        raise TrainingError("There is nothing to score: no data set has captions, or labels throughout.")
    labelled = [dataset for dataset in datasets if dataset.labelled]
    if not labelled and (plan.shifts or plan.shifted or plan.probe_on):
        raise TrainingError("Shifts and linear probes need images of classes, and no data set has any.")
    twice = [name for name, count in Counter(other.name for other in plan.shifted).items() if count > 1]
    if twice:
        raise TrainingError(f"Two shifted sets are called {twice[0]!r}; rename one.")
    for other in plan.shifted:
        if not any(_shares(dataset, other) for dataset in labelled):
            matching_classes(other, labelled[0].class_names)  # says which are missing
    for train in plan.probe_on:
        if not any(_covers(train, dataset) for dataset in labelled):
            matching_classes(labelled[0], train.class_names)


def _shares(dataset: Dataset, other: Dataset) -> bool:
    """Whether images of `other` have a class that images of `dataset` have."""
    return other.labelled and not _classes_of(other).isdisjoint(_classes_of(dataset))


def _covers(dataset: Dataset, other: Dataset) -> bool:
    """Whether every class that images of `other` have is one that images of `dataset` have."""
    return other.labelled and _classes_of(other) <= _classes_of(dataset)


def _classes_of(dataset: Dataset) -> set[str]:
    return {dataset.class_names[item.label].casefold() for item in dataset.items if item.label is not None}


class _Scores:
    """What was found on one data set so far."""

    def __init__(self, embedded: Embedded) -> None:
        self.embedded = embedded
        self.metrics: dict[str, float] = {"images": len(embedded.dataset.items)}
        self.outcomes: dict[str, Rows] = {}
        self.per_class: dict[str, float] = {}
        self.remarks = _left_out(embedded)
        self.trends: dict[str, Trend] = {}
        self.probe: Probe | None = None
        self.calibration: Calibration | None = None

    def report(self) -> DatasetReport:
        dataset = self.embedded.dataset
        return DatasetReport(
            dataset.name,
            dataset.digest,
            self.metrics,
            self.embedded.skipped,
            tuple(self.remarks),
            self.per_class,
            self.probe,
            self.calibration,
            self.trends,
            self.outcomes,
        )


def _left_out(embedded: Embedded) -> list[str]:
    """Sentences about what was named and not scored."""
    dataset, count = embedded.dataset, len(embedded.skipped)
    if not count:
        return list(dataset.remarks)
    told = "1 image" if count == 1 else f"{count:,} images"
    return [*dataset.remarks, f"{dataset.name}: {told} could not be read ({named(embedded.skipped)})."]


class _Run:
    def __init__(self, features: Features, plan: Plan) -> None:
        self.features, self.plan = features, plan

    def report(self, model: NamedModel, datasets: Sequence[Dataset]) -> Report:
        plan = self.plan
        pending = list(plan.shifted)
        scored = []
        for dataset in datasets:
            shifts = plan.shifts if dataset.labelled else ()
            scores = _Scores(self.features.images(dataset, shifts, plan.seed))
            if dataset.captioned:
                self._retrieval(scores)
            elif dataset.labelled:
                self._zero_shot(scores)
                for other in [other for other in pending if _shares(dataset, other)]:
                    self._pair(scores, other)
                    pending.remove(other)
                self._probe(scores)
            if plan.baselines:
                self._trends(scores)
            scored.append(scores.report())
        rates, remarks = self._bias()
        return Report(model.name, model.fingerprint, self._settings(), tuple(scored), rates, remarks)

    def _settings(self) -> Mapping[str, Any]:
        return {
            "templates": list(self.plan.templates),
            "shifts": [str(shift) for shift in self.plan.shifts],
            "seed": self.plan.seed,
        }

    def _retrieval(self, scores: _Scores) -> None:
        dataset, image_ND = scores.embedded.dataset, scores.embedded.original
        text_MD, owner_M = self.features.texts(dataset.captions), dataset.image_of_caption
        found = retrieve(image_ND, text_MD, owner_M)
        scores.metrics |= {"captions": len(owner_M), **found.scores()}
        scores.outcomes |= {
            "text_to_image": found.text_ranks,
            "image_to_text": found.image_ranks,
            "image_of_caption": owner_M,
        }
        if self.plan.calibrate:
            self._calibrate(scores, text_MD, np.arange(len(image_ND)), owner_M)
        if self.plan.word_order:
            self._word_order(scores)

    def _word_order(self, scores: _Scores) -> None:
        dataset = scores.embedded.dataset
        captions, owner_M = dataset.captions, dataset.image_of_caption
        nouns = find_nouns(captions)
        exchanged = [exchange_nouns(caption, nouns) for caption in captions]
        chosen = [row for row, text in enumerate(exchanged) if text is not None]
        if not chosen:
            scores.remarks.append(f"{dataset.name}: no caption has two nouns that could be exchanged.")
            return
        hits = true_above_exchanged(
            scores.embedded.original[owner_M[chosen]],
            self.features.texts(captions)[chosen],
            self.features.texts([text for text in exchanged if text is not None]),
        )
        scores.metrics |= {"word_order": float(hits.mean() * 100), "word_order_captions": len(chosen)}

    def _zero_shot(self, scores: _Scores) -> None:
        dataset, plan = scores.embedded.dataset, self.plan
        class_CD, labels = self.features.classes(dataset.class_names, plan.templates), dataset.labels
        found = classify(scores.embedded.original, class_CD, labels)
        scores.metrics |= {"classes": len(class_CD), **found.scores()}
        scores.outcomes["zero_shot"] = found.ranks
        scores.per_class = {dataset.class_names[c]: accuracy for c, accuracy in found.per_class().items()}
        if len(plan.templates) > 1:
            one = classify(scores.embedded.original, self.features.classes(dataset.class_names, ONE), labels)
            top1 = one.scores()["top1"]
            scores.metrics |= {"one_template_top1": top1, "ensemble_gain": scores.metrics["top1"] - top1}
        if twice := dataset.ambiguous():
            scores.remarks.append(
                f"{dataset.name}: two classes each are called {named(twice)}; nothing can tell them apart, "
                "so their images count as misses."
            )
        for shift in plan.shifts:
            again = classify(scores.embedded.vectors[shift], class_CD, labels)
            key = SHIFT + str(shift).replace(" ", "_")
            scores.metrics[key] = again.scores()["top1"]
            scores.outcomes[key] = again.ranks
        if plan.calibrate:
            self._calibrate(scores, class_CD, labels, np.arange(len(class_CD)))

    def _pair(self, scores: _Scores, other: Dataset) -> None:
        """Classify among the classes that both have, as for ImageNet-R and -A (Taori et al. 2020)."""
        dataset = scores.embedded.dataset
        there = _classes_of(dataset)
        both = [
            row
            for row, item in enumerate(other.items)
            if item.label is not None and other.class_names[item.label].casefold() in there
        ]
        if len(both) < len(other.items):
            only = len(_classes_of(other) - there)
            scores.remarks.append(
                f"{other.name}: left out {len(other.items) - len(both):,} images of "
                f"{only:,} class{'es' if only > 1 else ''} that {dataset.name} does not have."
            )
        shared = matching_classes(other.keep(both), dataset.class_names)
        embedded = self.features.images(shared, purpose="(shifted)")
        common = np.unique(embedded.dataset.labels)
        class_CD = self.features.classes(dataset.class_names, self.plan.templates)[common]
        place = np.full(len(dataset.class_names), -1)
        place[common] = np.arange(len(common))
        labels = place[dataset.labels]
        known = labels >= 0
        before = classify(scores.embedded.original[known], class_CD, labels[known])
        after = classify(embedded.original, class_CD, place[embedded.dataset.labels])
        scores.metrics[ORIGINAL + other.name] = before.scores()["top1"]
        scores.metrics[SHIFTED + other.name] = after.scores()["top1"]
        scores.remarks += _left_out(embedded)

    def _probe(self, scores: _Scores) -> None:
        dataset = scores.embedded.dataset
        train = next((train for train in self.plan.probe_on if _covers(train, dataset)), None)
        if train is None:
            return
        embedded = self.features.images(train, purpose="for the probe")
        scores.remarks += _left_out(embedded)
        if not _covers(embedded.dataset, dataset):  # the only image of a class could not be read
            matching_classes(dataset, sorted(_classes_of(embedded.dataset)))
        test = matching_classes(dataset, train.class_names)
        # Seven strengths, then two more at each of four halvings.
        most = 15
        found = linear_probe(
            embedded.original,
            embedded.dataset.labels,
            scores.embedded.original,
            test.labels,
            seed=self.plan.seed,
            progress=lambda done: self.features.report(f"probing {dataset.name}", done, max(most, done)),
        )
        scores.probe = found
        scores.outcomes["probe"] = np.where(found.hits, 0, 1)
        scores.metrics |= {
            "probe_top1": found.top1,
            "probe_mean_per_class": found.mean_per_class,
            "probe_strength": found.strength,
            "probe_train_images": found.train_images,
        }

    def _calibrate(
        self, scores: _Scores, text_MD: npt.NDArray[np.float32], group_N: Rows, group_M: Rows
    ) -> None:
        if len(np.unique(np.concatenate([group_N, group_M]))) < 2:
            scores.remarks.append(
                f"{scores.embedded.dataset.name}: everything matches everything, so there is nothing to hold "
                "the cosines of matches against."
            )
            return
        found = calibrate(scores.embedded.original, text_MD, group_N, group_M, seed=self.plan.seed)
        at = found.at(found.suggested())
        scores.calibration = found
        scores.metrics |= {
            "auc": found.auc(),
            "matching_median": found.quantiles(found.matching)[0.5],
            "others_median": found.quantiles(found.others)[0.5],
            "cutoff": at["cutoff"],
            "cutoff_precision": at["precision"] * 100,
            "cutoff_recall": at["recall"] * 100,
        }
        if found.search is not None:
            scores.metrics |= {
                "search_recall": found.search.recall * 100,
                "search_shown": found.search.shown,
            }
            if found.search.precision is not None:
                scores.metrics["search_precision"] = found.search.precision * 100

    def _trends(self, scores: _Scores) -> None:
        name, metrics = scores.embedded.dataset.name, scores.metrics
        others = [report.results[name] for report in self.plan.baselines if name in report.results]
        for key, original in list(shift_pairs(metrics)):
            there = [other for other in others if key in other and original in other]
            try:
                trend = Trend.fit([other[original] for other in there], [other[key] for other in there])
            except ValueError:
                scores.remarks.append(
                    f"{name}: the baselines hold no two models of different accuracy with {key}, "
                    "so there is no trend to hold this one against."
                )
                continue
            scores.trends[key] = trend
            metrics[EFFECTIVE + key] = trend.effective(metrics[original], metrics[key])

    def _bias(self) -> tuple[tuple[LabelRate, ...], tuple[str, ...]]:
        """The rates, and what was left out of the groups."""
        if self.plan.bias is None:
            return (), ()
        question = self.plan.bias
        embedded = {group.name: self.features.images(group) for group in question.groups}
        groups = {name: found.original for name, found in embedded.items()}
        labels = {label: self.features.texts(prompts) for label, prompts in question.labels.items()}
        remarks = [remark for found in embedded.values() for remark in _left_out(found)]
        alone = [name for name, rows in groups.items() if len(rows) == 1]
        if alone:
            remarks.append(f"One image is no group to tell chance from ({named(alone)}).")
        return tuple(bias_rates(groups, labels, seed=self.plan.seed)), tuple(remarks)
