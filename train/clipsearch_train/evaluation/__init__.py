"""Evaluation of CLIP models: retrieval, classification, probes, robustness, bias, calibration.

::

    from clipsearch import load_model
    from clipsearch_train.evaluation import Plan, evaluate, from_shards, shifts_named

    report = evaluate(load_model("mini"), from_shards(paths), Plan(shifts=shifts_named(["all"], [3])))
    print(report.markdown())
    report.save(folder)

docs/evaluation.md tells what each number means and where it comes from.
"""

from clipsearch_train.evaluation.bias import BiasQuestion, LabelRate, bias_rates, load_bias
from clipsearch_train.evaluation.bootstrap import Interval, paired_difference
from clipsearch_train.evaluation.calibration import Calibration, calibrate
from clipsearch_train.evaluation.captions import from_captions
from clipsearch_train.evaluation.compare import Comparison, compare
from clipsearch_train.evaluation.datasets import Dataset, Item, from_class_folders, from_shards
from clipsearch_train.evaluation.features import Embedded, Features
from clipsearch_train.evaluation.probe import Probe, linear_probe
from clipsearch_train.evaluation.report import DatasetReport, Report, load_report
from clipsearch_train.evaluation.retrieval import Retrieval, retrieve
from clipsearch_train.evaluation.robustness import Trend
from clipsearch_train.evaluation.runner import Plan, evaluate
from clipsearch_train.evaluation.shifts import Shift, shifts_named
from clipsearch_train.evaluation.tables import results_table
from clipsearch_train.evaluation.templates import IMAGENET_7, IMAGENET_80, load_templates
from clipsearch_train.evaluation.zeroshot import Classification, class_embeddings, classify

__all__ = [
    "IMAGENET_7",
    "IMAGENET_80",
    "BiasQuestion",
    "Calibration",
    "Classification",
    "Comparison",
    "Dataset",
    "DatasetReport",
    "Embedded",
    "Features",
    "Interval",
    "Item",
    "LabelRate",
    "Plan",
    "Probe",
    "Report",
    "Retrieval",
    "Shift",
    "Trend",
    "bias_rates",
    "calibrate",
    "class_embeddings",
    "classify",
    "compare",
    "evaluate",
    "from_captions",
    "from_class_folders",
    "from_shards",
    "linear_probe",
    "load_bias",
    "load_report",
    "load_templates",
    "paired_difference",
    "results_table",
    "retrieve",
    "shifts_named",
]
