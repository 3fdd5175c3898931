"""One evaluation of a model whose answers can be computed by hand: what is scored, and from which images."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clipsearch.errors import TrainingError
from clipsearch_train.evaluation import (
    Dataset,
    Item,
    Plan,
    Report,
    Trend,
    evaluate,
    from_class_folders,
    load_bias,
    load_report,
    shifts_named,
)
from tests.train.evaluation.conftest import ColourModel

ORANGE = (255, 200, 0)
ORIGINAL = {f"original/{name}/{number}.png": name for name in ("red", "green", "blue") for number in (0, 1)}
# A green is orange, which is nearer to red; a blue is red.
SHIFTED = ORIGINAL | {"original/green/1.png": ORANGE, "original/blue/1.png": "red"}


def classes(folder: Path) -> Dataset:
    return from_class_folders(folder / "original")


def metrics(report: Report) -> dict[str, float]:
    (dataset,) = report.datasets
    return dict(dataset.metrics)


def test_what_ensembling_gains_over_one_template(model: ColourModel, paint: Callable[..., Path]) -> None:
    dataset = classes(paint(SHIFTED))
    # "the red green" is yellow and "the red blue" violet: so green, as a mean, comes nearest to orange.
    found = metrics(evaluate(model, [dataset], Plan(templates=("the red {}", "a {}"))))
    assert found["one_template_top1"] == pytest.approx(400 / 6)
    assert found["top1"] == pytest.approx(500 / 6)
    assert found["ensemble_gain"] == pytest.approx(100 / 6)
    assert found["mean_per_class"] == pytest.approx(250 / 3)
    alone = metrics(evaluate(model, [dataset], Plan(templates=("a {}",))))
    assert "ensemble_gain" not in alone, "there is nothing to compare one template with"


def test_a_folder_pair_is_scored_on_the_classes_that_both_have(
    model: ColourModel, paint: Callable[..., Path]
) -> None:
    folder = paint(SHIFTED | {"dark/red/0.png": (90, 0, 0), "dark/blue/0.png": (0, 90, 90)})
    other = from_class_folders(folder / "dark")
    found = metrics(evaluate(model, [classes(folder)], Plan(shifted=(other,))))
    assert found["top1"] == pytest.approx(400 / 6)
    # Without green: of the four reds and blues one is red and should be blue; turquoise is near to blue.
    assert (found["original_dark"], found["shifted_dark"]) == (75.0, 100.0)
    strange = from_class_folders(paint({"odd/mauve/0.png": "red"}) / "odd")
    with pytest.raises(TrainingError, match="mauve"):
        evaluate(model, [classes(folder)], Plan(shifted=(strange,)))
    more = from_class_folders(paint({"dark/mauve/0.png": "red", "dark/mauve/1.png": "red"}) / "dark")
    [told] = (report := evaluate(model, [classes(folder)], Plan(shifted=(more,)))).told()
    assert told == "dark: left out 2 images of 1 class that original does not have."
    assert metrics(report)["shifted_dark"] == 100.0
    with pytest.raises(TrainingError, match="Two shifted sets are called 'dark'"):
        evaluate(model, [classes(folder)], Plan(shifted=(more, other)))


def test_what_is_left_out_of_groups_is_told(model: ColourModel, paint: Callable[..., Path]) -> None:
    folder = paint({"g/one/0.png": "red", "g/two/0.png": "blue", "g/two/1.png": "green"})
    (folder / "g" / "one" / "bad.png").write_bytes(b"no image")
    path = folder / "bias.toml"
    path.write_text('[labels]\na = ["red"]\nb = ["blue"]\n[groups]\none = "g/one"\ntwo = "g/two"\n')
    told = evaluate(model, [], Plan(bias=load_bias(path))).told()
    assert len(told) == 2
    assert "one: 1 image could not be read" in told[0]
    assert told[1] == "One image is no group to tell chance from (one)."


def test_one_class_is_no_calibration(model: ColourModel, paint: Callable[..., Path]) -> None:
    folder = paint({"single/red/0.png": "red", "single/red/1.png": "blue"}) / "single"
    report = evaluate(model, [from_class_folders(folder)], Plan(calibrate=True))
    assert report.told() == [
        "single: everything matches everything, so there is nothing to hold the cosines of matches against."
    ]
    assert "auc" not in metrics(report)


def test_effective_robustness_is_what_lies_above_the_trend_of_other_models(
    model: ColourModel, paint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = paint(SHIFTED)
    plan = Plan(shifts=shifts_named(["grayscale"], [3]))
    report = evaluate(model, [classes(folder)], plan)
    report.save(tmp_path / "other")
    other = load_report(tmp_path / "other")
    pairs = [(50.0, 20.0), (90.0, 60.0)]
    baselines = tuple(
        replace(other, results={"original": {"top1": top1, "shift_grayscale": shifted}})
        for top1, shifted in pairs
    )
    held = evaluate(model, [classes(folder)], replace(plan, baselines=baselines))
    found = metrics(held)
    trend = Trend.fit([50.0, 90.0], [20.0, 60.0])
    assert held.datasets[0].trends["shift_grayscale"] == trend
    assert trend.models == tuple(pairs)
    wanted = found["shift_grayscale"] - float(trend.expected(found["top1"]))
    assert found["effective_shift_grayscale"] == pytest.approx(wanted)
    written = {path.name for path in held.save(tmp_path / "held")}
    assert "effective-robustness.png" in written
    alone = evaluate(model, [classes(folder)], replace(plan, baselines=baselines[:1]))
    assert "effective_shift_grayscale" not in metrics(alone)
    assert any("no two models of different accuracy" in told for told in alone.datasets[0].remarks)


def test_a_probe_embeds_its_images_once(model: ColourModel, paint: Callable[..., Path]) -> None:
    colours = ("red", "green", "blue")
    train = {
        f"train/{name}/{number}.png": tuple(200 * (name == one) + number for one in colours)
        for name in colours
        for number in range(5)
    }
    folder = paint(SHIFTED | train)
    stages: set[str] = set()
    plan = Plan(probe_on=(from_class_folders(folder / "train"),))
    report = evaluate(model, [classes(folder)], plan, lambda stage, *_: stages.add(stage))
    found = metrics(report)
    assert model.images == 6 + 15
    assert found["probe_train_images"] == 15
    assert found["probe_top1"] == pytest.approx(400 / 6)
    assert {"embedding original", "embedding train for the probe", "probing original"} <= stages


def test_images_that_cannot_be_read_are_named(
    model: ColourModel, paint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = paint(ORIGINAL)
    (folder / "original" / "red" / "2.png").write_bytes(b"no picture")
    report = evaluate(model, [classes(folder)])
    assert metrics(report)["images"] == 6
    assert report.datasets[0].remarks == ("original: 1 image could not be read (red/2.png).",)
    report.save(tmp_path / "report")
    assert "red/2.png" in (tmp_path / "report" / "report.md").read_text()
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert told["datasets"]["original"]["skipped"] == ["red/2.png"]


def test_what_cannot_be_scored_is_told_before_anything_is_embedded(
    model: ColourModel, paint: Callable[..., Path]
) -> None:
    folder = paint(ORIGINAL)
    dataset = classes(folder)
    untold = Dataset("untold", (Item("a", folder / "original" / "red" / "0.png"),))
    captioned = replace(untold, items=(replace(untold.items[0], captions=("red",)),))
    for datasets, plan, message in (
        ([dataset, dataset], Plan(), "Two data sets are called 'original'"),
        ([untold], Plan(), "nothing to score"),
        ([captioned], Plan(shifts=shifts_named(["blur"], [1])), "need images of classes"),
    ):
        with pytest.raises(TrainingError, match=message):
            evaluate(model, datasets, plan)
    assert model.images == 0


def test_names_that_look_like_formulas_are_drawn(
    model: ColourModel, paint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = paint({r"$\bad$/US$5 and US$10/0.png": "red", r"$\bad$/$\frac$/0.png": "blue"}) / r"$\bad$"
    dataset = from_class_folders(folder)
    report = evaluate(model, [dataset], Plan(calibrate=True, shifts=shifts_named(["blur"], [1])))
    assert "classes-__bad_.png" in {path.name for path in report.save(tmp_path / "out")}
