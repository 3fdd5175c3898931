"""Two reports side by side, with differences known in advance."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import UsageError
from clipsearch_train.evaluation.compare import compare
from clipsearch_train.evaluation.report import DatasetReport, Report, SavedReport, load_report


def saved(model: str, hits: np.ndarray, **more: float) -> SavedReport:
    """A report of images that are classified rightly where `hits`."""
    results = {"photos": {"images": float(len(hits)), "top1": float(hits.mean() * 100), **more}}
    return SavedReport(model, results, {"photos": "same"}, {"photos": {"zero_shot": np.where(hits, 0, 7)}})


def test_a_difference_has_the_interval_of_its_images() -> None:
    """Of 400 images b is right about 40 more, and never wrong where a is right."""
    a, b = np.arange(400) < 200, np.arange(400) < 240
    found = compare(saved("a", a), saved("b", b)).differences
    (top1,) = found  # how many images there are is no score
    assert (top1.metric, top1.a, top1.b) == ("top1", 50.0, 60.0)
    assert top1.interval is not None
    assert top1.interval.value == pytest.approx(10.0)
    # The standard error of a share of 10% among 400 images is 1.5 points.
    assert top1.interval.low == pytest.approx(10 - 1.96 * 1.5, abs=0.6)
    assert top1.interval.high == pytest.approx(10 + 1.96 * 1.5, abs=0.6)
    (same,) = compare(saved("a", a), saved("b", a)).differences
    assert same.interval is not None
    assert not same.interval.is_clear


def test_other_templates_are_told() -> None:
    a = saved("a", np.arange(9) < 5)
    assert compare(a, a).remark == ""
    assert "other prompt templates" in compare(a, replace(a, templates=("a {}",))).remark


def test_captions_of_one_image_are_drawn_together() -> None:
    """A hundred captions of one image are one observation: whether b is better may be chance."""
    owner = np.repeat(np.arange(4), 100)
    reports = []
    for model, ranks in (("a", np.full(400, 9)), ("b", np.where(owner == 0, 0, 9))):
        results = {"photos": {"text_to_image_r1": float((ranks < 1).mean() * 100)}}
        outcomes = {"photos": {"text_to_image": ranks, "image_of_caption": owner}}
        reports.append(SavedReport(model, results, {"photos": "same"}, outcomes))
    (found,) = compare(*reports).differences
    assert found.interval is not None
    assert (found.interval.value, found.interval.low) == (25.0, 0.0)


def test_the_table_says_each_score_as_it_is_measured() -> None:
    a, b = np.arange(100) < 50, np.arange(100) < 80
    table = compare(saved("x", a, auc=0.9412), saved("y", b, auc=0.9575)).markdown().splitlines()
    assert table[0] == "| data | score | x | y | difference | 95% interval |"
    assert table[2].startswith("| photos | top1 | 50.0 | 80.0 | **+30.0** | +")
    assert table[3] == "| photos | auc | 0.941 | 0.958 | +0.016 | – |"


def test_models_of_one_name_are_told_apart() -> None:
    """Every run's result is a folder called `model`."""
    a = saved("model", np.ones(4, dtype=bool))
    first, second = replace(a, place="report-a"), replace(a, place="report-b")
    assert compare(first, second).models == ("model (report-a)", "model (report-b)")
    assert compare(first, first).models == ("model (a)", "model (b)")
    assert compare(first, replace(second, model="other")).models == ("model", "other")


def test_reports_of_different_questions_are_not_compared() -> None:
    a = saved("a", np.ones(4, dtype=bool))
    with pytest.raises(UsageError, match="other images, captions or classes under the name photos"):
        compare(a, replace(a, digests={"photos": "another"}))
    with pytest.raises(UsageError, match="no data set in common: one scores photos, the other none"):
        compare(a, SavedReport("b", {"none": {}}, {"none": ""}, {"none": {}}))


def test_reports_go_to_the_disk_and_back(tmp_path: Path) -> None:
    ranks = np.array([0, 3, 0])
    dataset = DatasetReport("photos", "abc", {"top1": 66.7}, outcomes={"zero_shot": ranks})
    report = Report("m", "f00d", {"templates": ["{}"]}, (dataset,))
    report.save(tmp_path / "report")
    again = load_report(tmp_path / "report")
    assert (again.model, again.results, again.digests) == ("m", {"photos": {"top1": 66.7}}, {"photos": "abc"})
    assert again.outcomes["photos"]["zero_shot"].tolist() == [0, 3, 0]
    assert again.place == "report"
    found = compare(again, again)
    written = {path.name for path in found.save(tmp_path / "both")}
    assert written == {"comparison.png", "comparison.md", "comparison.json"}
    told = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert told["differences"][0]["interval"] == {"value": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize("spoilt", ["report.json", "outcomes.npz"])
def test_what_is_no_whole_report_is_a_sentence(tmp_path: Path, spoilt: str) -> None:
    dataset = DatasetReport("photos", "abc", {"top1": 50.0}, outcomes={"zero_shot": np.array([0, 1])})
    Report("m", "f00d", {}, (dataset,)).save(tmp_path)
    path = tmp_path / spoilt
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UsageError, match="holds no evaluation report"):
        load_report(tmp_path)
    path.unlink()
    with pytest.raises(UsageError, match="holds no evaluation report"):
        load_report(tmp_path)
