import csv
import functools
import json
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipsearch.encoder import load_model
from clipsearch.errors import StorageError, TrainingError, UsageError
from clipsearch.weights import load_folder
from clipsearch_train.batches import BatchSource
from clipsearch_train.best import Best
from clipsearch_train.data import read_shards
from clipsearch_train.recipe import load_recipe
from clipsearch_train.run import CHECKPOINT, Trainer
from clipsearch_train.run_lock import run_lock
from clipsearch_train.sources import open_source
from tests.train.conftest import COLOURS, colour_members, write_tar


def losses(out: Path) -> list[tuple[int, str]]:
    with (out / "log.csv").open(newline="") as file:
        return [(int(row["step"]), row["contrastive"]) for row in csv.DictReader(file)]


def quiet(*_: object) -> None:
    pass


def run(recipe: Any, data: Path, out: Path, stop_after: int | None = None) -> Trainer:
    def report(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "training" and done == stop_after:
            raise KeyboardInterrupt

    trainer = Trainer(recipe, data, out, report)
    if stop_after is None:
        trainer.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    return trainer


def resnet(folder: Path) -> Any:
    """The tiny recipe with a ResNet for an image tower."""
    path = folder / "tiny.toml"
    old, new = "layers = 1\nwidth = 32\npatch_size = 16", "layers = [1, 1, 1, 1]\nwidth = 8"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return load_recipe(path)


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any], tower: str
) -> None:
    recipe = make_recipe()
    if tower == "resnet":
        recipe = resnet(tmp_path)
    whole = run(recipe, colours, tmp_path / "whole")
    run(recipe, colours, tmp_path / "halves", stop_after=3)
    assert [step for step, _ in losses(tmp_path / "halves")] == [1, 2, 3]
    resumed = run(recipe, colours, tmp_path / "halves")
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 6
    after = resumed.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in whole.model.state_dict().items())


def test_a_run_draws_its_course(colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]) -> None:
    run(make_recipe(), colours, tmp_path / "out")
    with Image.open(tmp_path / "out" / "plots.png") as plots:
        assert plots.format == "PNG"
        assert len(set(plots.convert("L").tobytes())) > 16, "not an empty page"


def test_what_is_saved_is_the_average_of_the_weights(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    recipe = make_recipe()
    recipe = replace(recipe, optim=replace(recipe.optim, ema=0.5, lr=1e-2))
    passed: list[torch.Tensor] = []

    def report(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "training":
            passed.append(trainer.model.text_projection.detach().clone())

    trainer = Trainer(recipe, colours, tmp_path / "out", report)
    wanted = trainer.model.text_projection.detach().clone()
    trainer.train()
    assert len(passed) == 6
    for step, weights in enumerate(passed):
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * weights
    saved = load_folder(tmp_path / "out" / "model").model.text_projection
    apart = (saved - wanted).abs().max()
    assert apart < 1e-3 * wanted.abs().max(), "to half precision"
    assert (saved - passed[-1]).abs().max() > 3 * apart, "not the last weights"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch asks itself
def test_compiled_towers_learn_the_same(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and run by torch's own back end: compiling C++ would take minutes and test torch."""
    compiled: list[str] = []
    compile_module, compile_function = torch.nn.Module.compile, torch.compile

    def traced(module: torch.nn.Module, **settings: Any) -> None:
        compiled.append(type(module).__name__)
        compile_module(module, backend="aot_eager", **settings)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    monkeypatch.setattr(torch, "compile", functools.partial(compile_function, backend="aot_eager"))
    recipe = make_recipe()
    plain = run(recipe, colours, tmp_path / "plain")
    recipe = replace(recipe, compute=replace(recipe.compute, compile=True))
    towers = run(recipe, colours, tmp_path / "compiled")
    assert compiled == ["VisionTransformer", "Transformer"]
    for (step, ours), (_, wanted) in zip(
        losses(tmp_path / "compiled"), losses(tmp_path / "plain"), strict=True
    ):
        assert float(ours) == pytest.approx(float(wanted), rel=1e-3), step
    after = towers.model.state_dict()
    assert after.keys() == plain.model.state_dict().keys()
    assert load_model(tmp_path / "compiled" / "model").encode_text(["a red square"]).shape == (1, 32)


def test_log_rows_behind_the_checkpoint_are_cut(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    recipe = make_recipe()
    run(recipe, colours, tmp_path / "out", stop_after=4)
    with (tmp_path / "out" / "log.csv").open("a") as file:
        file.write("5,9.9,9.9,,,,1,,1,1,1,0\n6,9.9,9.")  # as a kill between two checkpoints leaves it
    run(recipe, colours, tmp_path / "out")
    assert [step for step, _ in losses(tmp_path / "out")] == [1, 2, 3, 4, 5, 6]
    assert "9.9" not in dict(losses(tmp_path / "out")).values()


def test_learning_gives_a_model_that_loads_and_scores(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    trainer = run(make_recipe(steps="60", warmup="5"), colours, tmp_path / "out")
    course = [float(loss) for _, loss in losses(tmp_path / "out")]
    assert np.mean(course[-10:]) < 0.6 * np.mean(course[:3])
    assert trainer.results["colours"]["image_to_text_r10"] == 100.0
    encoder = load_model(tmp_path / "out" / "model", device="cpu")
    samples, _ = read_shards([colours / "val" / "b.tar"])
    from clipsearch_train.data import decode

    images = encoder.encode_images([decode(sample.image) for sample in samples])
    texts = encoder.encode_text([f"a {name} square" for name in COLOURS])
    right = (images @ texts.T).argmax(1) == np.arange(12) % 6
    assert right.mean() >= 0.75
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "| colours | 24 |" in card
    assert "text→image R@1/5/10" in card
    told = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert told["recipe"]["optim"]["steps"] == 60


def test_a_smoke_run_is_not_gone_on_with(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    """Its tokenizer knows the words of a few samples."""
    recipe = make_recipe()
    run(recipe.smoke(), colours, tmp_path / "out")
    with pytest.raises(UsageError, match=r"--smoke sets to 16, was 16 and is not set now\. Give"):
        Trainer(recipe, colours, tmp_path / "out", quiet)
    run(recipe.smoke(), colours, tmp_path / "out")
    (tmp_path / "out" / "recipe.json").write_text("junk")
    Trainer(recipe, colours, tmp_path / "out", quiet)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_run_whose_loss_is_no_number_goes_on_from_an_earlier_checkpoint(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any], where: str
) -> None:
    """The weights of the step before would fail again, whatever the recipe says then."""
    trainer = Trainer(make_recipe(), colours, tmp_path / "out", quiet)
    plain = trainer.objective.terms

    def broken(model: Any, features: Any, batch: Any, step: int) -> dict[str, torch.Tensor]:
        terms = plain(model, features, batch, step)
        if step == 2:
            trainer.save()  # as after some minutes
        if step == 3 and where == "loss":
            terms["contrastive"] = terms["contrastive"] * torch.nan
        if step == 3 and where == "gradient":
            terms["contrastive"] = terms["contrastive"] + _infinite_slope(model)
        return terms

    trainer.objective.terms = broken  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"at step 3\. Change the recipe .* from the last checkpoint"):
        trainer.train()
    state = torch.load(tmp_path / "out" / CHECKPOINT, weights_only=True)
    assert state["step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())
    assert run(make_recipe(lr="1e-4"), colours, tmp_path / "out").step == 6


def test_a_rate_that_was_far_too_high_can_be_lowered(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    with pytest.raises(TrainingError, match="usually helps"):
        run(make_recipe(lr="1e30"), colours, tmp_path / "out")
    assert run(make_recipe(), colours, tmp_path / "out").step == 6


def test_weights_that_are_no_numbers_are_not_saved(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    trainer = Trainer(make_recipe(), colours, tmp_path / "out", quiet)
    plain = trainer.objective.terms

    def spoilt(model: Any, features: Any, batch: Any, step: int) -> dict[str, torch.Tensor]:
        if step == 3:
            model.logit_scale.data.fill_(torch.nan)
        elif step == 2:
            trainer.save()
        return plain(model, features, batch, step)

    trainer.objective.terms = spoilt  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="at step 3"):
        trainer.train()
    state = torch.load(tmp_path / "out" / CHECKPOINT, weights_only=True)
    assert state["step"] == 2
    assert torch.isfinite(state["model"]["logit_scale"])


def test_an_interrupted_step_leaves_no_trace(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    """Ctrl-C between the forward pass, which moves a batch norm's statistics, and the update."""
    make_recipe()
    recipe = resnet(tmp_path)
    trainer = Trainer(recipe, colours, tmp_path / "out", quiet)
    plain = trainer.objective.terms

    def interrupted(model: Any, features: Any, batch: Any, step: int) -> dict[str, torch.Tensor]:
        if step == 3:
            raise KeyboardInterrupt
        return plain(model, features, batch, step)

    trainer.objective.terms = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed = run(recipe, colours, tmp_path / "out")
    whole = run(recipe, colours, tmp_path / "whole").model.state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.model.state_dict().items())


def _infinite_slope(model: Any) -> torch.Tensor:
    """Zero, with an infinite gradient."""
    out: torch.Tensor = (model.logit_scale - model.logit_scale.detach()).abs().sqrt()
    return out


def test_a_lower_rate_takes_effect_on_a_run_that_goes_on(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    run(make_recipe(), colours, tmp_path / "out", stop_after=2)
    slower = Trainer(make_recipe(lr="1e-5"), colours, tmp_path / "out", quiet)
    slower.train()
    assert {group["peak_lr"] for group in slower.state.optimiser.param_groups} == {1e-5}


def test_a_full_disk_leaves_the_old_checkpoint(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    trainer = run(make_recipe(), colours, out, stop_after=2)
    before = (out / CHECKPOINT).read_bytes()
    monkeypatch.setenv("CLIPSEARCH_FAILPOINT", "checkpoint.write:enospc")
    with pytest.raises(StorageError, match="disk is full"):
        trainer.save()
    monkeypatch.delenv("CLIPSEARCH_FAILPOINT")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # a real write that fails half-way
    try:
        with pytest.raises(StorageError, match="disk"):
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (out / CHECKPOINT).read_bytes() == before
    assert not list(out.glob(".*")), "no temporary file is left"


@pytest.mark.parametrize("name", ["tokenizer", "plots", "weights", "card"])
def test_a_full_disk_is_a_sentence_whatever_is_written(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe = make_recipe(steps="2", warmup="1")
    monkeypatch.setattr("clipsearch.durable._arrivals", {})
    monkeypatch.setenv("CLIPSEARCH_FAILPOINT", f"{name}.write:enospc")
    with pytest.raises(StorageError, match="disk is full"):
        run(recipe, colours, tmp_path / "out")
    monkeypatch.delenv("CLIPSEARCH_FAILPOINT")
    run(recipe, colours, tmp_path / "out")
    assert [step for step, _ in losses(tmp_path / "out")] == [1, 2]
    assert "colours" in (tmp_path / "out" / "model" / "README.md").read_text()
    assert load_folder(tmp_path / "out" / "model").model.config.embed_dim == 32


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"\x80\x04."])
def test_a_damaged_checkpoint_is_a_sentence(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any], content: bytes
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CHECKPOINT).write_bytes(content)
    with pytest.raises(TrainingError, match="is damaged"):
        Trainer(make_recipe(), colours, tmp_path / "out", quiet).train()
    assert (tmp_path / "out" / CHECKPOINT).read_bytes() == content


def test_a_checkpoint_of_another_recipe_is_a_sentence(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    run(make_recipe(), colours, tmp_path / "out", stop_after=1)
    with pytest.raises(TrainingError, match="another recipe"):
        Trainer(make_recipe(embed_dim="16"), colours, tmp_path / "out", quiet).train()


def test_corrupt_images_are_counted_not_fatal(tmp_path: Path, make_recipe: Callable[..., Any]) -> None:
    members = colour_members(24)
    for key in ("0003.png", "0007.jpg"):
        members[key] = members[key][:60]
    for shard in ("train", "val"):
        write_tar(tmp_path / "data" / shard / "a.tar", members)
    trainer = run(make_recipe(batch="24"), tmp_path / "data", tmp_path / "out")
    assert trainer.batches.corrupt == {"0003", "0007"}
    assert sum(map(len, trainer.validation.sources.values())) == 22


def test_images_without_a_text_are_counted(
    tmp_path: Path, make_recipe: Callable[..., Any], colours: Path
) -> None:
    members = {name: content for name, content in colour_members(24).items() if name != "0005.json"}
    write_tar(colours / "train" / "a.tar", members)
    trainer = Trainer(make_recipe(), colours, tmp_path / "out", quiet)
    assert str(trainer.data_report) == "1 without a caption or label (0005)"
    assert len(trainer.samples) == 23


def test_data_that_cannot_be_used_is_a_sentence(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    with pytest.raises(TrainingError, match="24 samples are fewer than a batch of 25"):
        Trainer(make_recipe(batch="25"), colours, tmp_path / "out", quiet)
    recipe = make_recipe(train='["train/*.tar"]\nweights = {colors = 2.0}')
    with pytest.raises(UsageError, match=r"names the source 'colors'; the shards hold 'colours'"):
        Trainer(recipe, colours, tmp_path / "out", quiet)
    with pytest.raises(TrainingError, match=r"No file matches 'val/\*\.zip'"):
        Trainer(make_recipe(val='["val/*.zip"]'), colours, tmp_path / "out", quiet)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Trainer(make_recipe(), colours, tmp_path / "file" / "out", quiet)


def test_batches_depend_on_seed_and_step_alone(colours: Path, make_recipe: Callable[..., Any]) -> None:
    recipe = make_recipe()
    source, _ = open_source(recipe, colours, colours / "cache", quiet)
    forth, back = (BatchSource(source, [], recipe) for _ in range(2))
    first = [forth.get(step) for step in (0, 1, 2)]
    second = {step: back.get(step) for step in (2, 0, 1)}
    for step, batch in enumerate(first):
        assert (batch.rows == second[step].rows).all()
        assert (batch.pixels == second[step].pixels).all()
        assert batch.texts == second[step].texts
    assert not (first[0].rows == first[1].rows).all()
    assert len(set(first[0].rows.tolist())) == 12
    for source in (forth, back):
        source.close()


def test_the_best_model_comes_with_its_own_scores(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    recipe = replace(make_recipe(), eval_every=1, best=Best(result="best"))
    recipe = replace(recipe, optim=replace(recipe.optim, steps=3))
    trainer = Trainer(recipe, colours, tmp_path / "out", quiet)
    found = iter([30.0, 90.0, 10.0])
    trainer.validation.evaluate = lambda *_: {"colours": {"top1": next(found)}}  # type: ignore[method-assign]
    folder = trainer.train()
    assert trainer.results == {"colours": {"top1": 90.0}}
    assert trainer.result_step == 2
    assert "90.0" in (folder / "README.md").read_text()
    shutil.rmtree(tmp_path / "out" / "best")
    again = Trainer(recipe, colours, tmp_path / "out", quiet)
    again.validation.evaluate = lambda *_: {"colours": {"top1": 10.0}}  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="is gone, and with it the best model"):
        again.train()


def test_what_cannot_be_scored_is_told_before_the_first_step(
    colours: Path, tmp_path: Path, make_recipe: Callable[..., Any]
) -> None:
    recipe = replace(make_recipe(), best=Best(by="colours/top1"))
    with pytest.raises(UsageError, match="names 'top1'; 'colours' is scored by images, captions, text_to"):
        Trainer(recipe, colours, tmp_path / "out", quiet)


def test_one_training_in_a_folder(tmp_path: Path) -> None:
    told = pytest.raises(UsageError, match="Another training is at work in")
    with run_lock(tmp_path / "out"), told, run_lock(tmp_path / "out"):
        pass
    with run_lock(tmp_path / "out"):
        pass
