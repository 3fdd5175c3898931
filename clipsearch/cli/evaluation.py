"""`clipsearch eval`: score a model, or compare two reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.console import DeviceOption, JsonOption, results, say, shown, stages, write_json
from clipsearch.durable import make_directory
from clipsearch.errors import UsageError

if TYPE_CHECKING:
    from typer.models import OptionInfo

    from clipsearch_train.evaluation import Dataset, Plan, Report


def _data(flag: str, told: str) -> OptionInfo:
    found: OptionInfo = typer.Option(flag, help=told, rich_help_panel="Data to score on")
    return found


def _more(flag: str, told: str) -> OptionInfo:
    panel = "What to score beside retrieval and zero-shot accuracy"
    found: OptionInfo = typer.Option(flag, help=told, rich_help_panel=panel)
    return found


Paths = list[Path] | None
_CAPTIONS = "Images and captions (csv, tsv, jsonl, Karpathy json); may be given again."
_CLASSES = "Folder with a folder of images for each class; may be given again."
_NAMES = "Names of the class folders in their alphabetical order: one a line, or a JSON list."
_SHIFTS = (
    "Classify shifted copies: blur, noise, jpeg, resolution, grayscale, sketch, all; may be given again."
)
_TEMPLATES = "Prompt templates: imagenet-7, imagenet-80, one, or a file with one a line."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval")(evaluate)


def evaluate(
    model: Annotated[str | None, typer.Argument(help="A model name or folder.", show_default=False)] = None,
    data: Annotated[Paths, _data("--data", "Shard (tar) to score on; may be given again.")] = None,
    captions: Annotated[Paths, _data("--captions", _CAPTIONS)] = None,
    images: Annotated[Path | None, _data("--images", "The captions' images (default: beside them).")] = None,
    split: Annotated[str, _data("--split", "Part of a Karpathy json; '' for all.")] = "test",
    classes: Annotated[Paths, _data("--classes", _CLASSES)] = None,
    class_names: Annotated[Path | None, _data("--class-names", _NAMES)] = None,
    templates: Annotated[str, _more("--templates", _TEMPLATES)] = "imagenet-7",
    probe: Annotated[
        Paths, _more("--probe", "Linear probe, trained on this shard or --classes folder.")
    ] = None,
    shift: Annotated[list[str] | None, _more("--shift", _SHIFTS)] = None,
    severity: Annotated[
        list[int] | None, _more("--severity", "1 to 5 (default: 3); may be given again.")
    ] = None,
    shifted: Annotated[Paths, _more("--shifted", "Shifted set of the same classes: shard or folder.")] = None,
    baseline: Annotated[Paths, _more("--baseline", "Report of another model: its trend under shift.")] = None,
    bias: Annotated[Path | None, _more("--bias", "Labels by group of images, as this TOML asks.")] = None,
    calibrate: Annotated[bool, _more("--calibrate", "What cosine means a match.")] = False,
    word_order: Annotated[
        bool, _more("--word-order", "Captions against ones with two nouns exchanged.")
    ] = False,
    seed: Annotated[int, _more("--seed", "Of noise, splits and bootstraps; 0 or more.")] = 0,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare", metavar="A B", help="No model: compare two --out folders.", show_default=False
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for a report with plots.")] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model: retrieval recall on images with captions, zero-shot accuracy on images of classes.

    `clipsearch eval mini --data shard.tar`; what else there is, and what the numbers mean, is told in
    docs/evaluation.md.
    """
    if compare is not None:
        _compare(compare, model, out, as_json)
        return
    if model is None:
        raise UsageError("Name a model to score, or two reports with --compare A B.")
    if not data and not captions and not classes and bias is None:
        raise UsageError("Say what to score the model on: --data, --captions, --classes or --bias.")
    if seed < 0:
        raise UsageError(f"--seed must be 0 or more, not {seed}.")
    if class_names is not None and len(classes or ()) != 1:
        raise UsageError("--class-names tells the names of one --classes folder.")
    from clipsearch.zoo import resolve
    from clipsearch_train.evaluation import Plan, load_bias, load_report, load_templates, shifts_named
    from clipsearch_train.evaluation.datasets import read_names

    folder = resolve(model).folder  # before the data are read, which may take long
    names = None if class_names is None else read_names(class_names)
    plan = Plan(
        templates=load_templates(templates),
        shifts=shifts_named(shift or [], severity or [3]),
        shifted=_labelled(shifted, names),
        probe_on=_labelled(probe, names),
        calibrate=calibrate,
        word_order=word_order,
        bias=None if bias is None else load_bias(bias),
        baselines=tuple(load_report(path) for path in baseline or ()),
        seed=seed,
    )
    datasets = _datasets(data, captions, images, split, classes, names)
    if out is not None:
        make_directory(out)  # which may fail, and the rest takes minutes
    _show(_run(folder, datasets, plan, device), out, as_json)


def _datasets(
    data: Paths,
    captions: Paths,
    images: Path | None,
    split: str,
    classes: Paths,
    names: Sequence[str] | None,
) -> list[Dataset]:
    from clipsearch_train.evaluation import from_captions, from_class_folders, from_shards

    return [
        *(from_shards(data) if data else ()),
        *(from_captions(path, images, split=split) for path in captions or ()),
        *(from_class_folders(path, names) for path in classes or ()),
    ]


def _labelled(paths: Paths, names: Sequence[str] | None) -> tuple[Dataset, ...]:
    """Images of classes, in class folders (which have these names, where there are any) or shards."""
    from clipsearch_train.evaluation import from_class_folders, from_shards

    found: list[Dataset] = []
    for path in paths or ():
        there = [from_class_folders(path, names)] if path.is_dir() else from_shards([path])
        labelled = [dataset for dataset in there if dataset.labelled]
        if not labelled:
            raise UsageError(f"{path} holds no images of classes.")
        found += labelled
    return tuple(found)


def _run(folder: Path, datasets: list[Dataset], plan: Plan, device: str | None) -> Report:
    from clipsearch import load_model
    from clipsearch_train.evaluation import evaluate as run

    encoder = load_model(folder, device=device)
    with stages() as progress:
        return run(encoder, datasets, plan, progress)


def _show(report: Report, out: Path | None, as_json: bool) -> None:
    for remark in report.told():
        say(remark)
    if as_json:
        write_json(report.summary())
    else:
        with results():
            typer.echo(report.tables())
    if out is not None:  # after it was told: an error must not lose what took minutes to find
        written = report.save(out)
        say(f"The report is in {shown(bytes(out))}: {', '.join(path.name for path in written)}.")


def _compare(reports: tuple[Path, Path], model: str | None, out: Path | None, as_json: bool) -> None:
    from clipsearch_train.evaluation import compare, load_report

    if model is not None:
        raise UsageError("--compare takes two report folders and no model.")
    found = compare(load_report(reports[0]), load_report(reports[1]))
    if found.remark:
        say(found.remark)
    written = found.save(out) if out is not None else []
    if as_json:
        write_json(found.to_json())
    else:
        with results():
            typer.echo(found.markdown())
    if out is not None:
        say(f"The comparison is in {shown(bytes(out))}: {', '.join(path.name for path in written)}.")
