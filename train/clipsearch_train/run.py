"""`clipsearch train`: a recipe and data in, a model folder out."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch

from clipsearch.durable import make_directory, replace
from clipsearch.errors import StorageError, TrainingError
from clipsearch.model import Clip
from clipsearch.weights import LoadedModel, save_folder
from clipsearch_train import recipe as recipes
from clipsearch_train.assembly import (
    idle_text_tower,
    make_frozen,
    make_model,
    make_preprocess,
    make_reader,
    make_teacher,
    make_tokenizer,
    make_views,
)
from clipsearch_train.batches import BatchSource
from clipsearch_train.best import check_sources, compared, overall
from clipsearch_train.card import Results, write_card
from clipsearch_train.checkpoint import State, load_checkpoint, save_checkpoint
from clipsearch_train.compute import check_share, compile_towers, pick_precision
from clipsearch_train.data import Sample, ShardReport, find_shards
from clipsearch_train.distributed import World
from clipsearch_train.environment import environment
from clipsearch_train.frozen import FrozenTrunk
from clipsearch_train.gradients import Gradients
from clipsearch_train.lora import plain
from clipsearch_train.meter import Meter, peak_flops, training_flops
from clipsearch_train.objective import Objective, prepare
from clipsearch_train.optimiser import WeightAverage, make_optimiser
from clipsearch_train.plots import draw, require_matplotlib
from clipsearch_train.record import Record
from clipsearch_train.sources import MemorySource, open_source
from clipsearch_train.start import is_whole, load_start, settle_batch_norms
from clipsearch_train.step import Diverged, Step
from clipsearch_train.targets import Targets, prepare_targets
from clipsearch_train.validation import Validation

CHECKPOINT = "checkpoint.pt"
MODEL = "model"
BEST = "best"


class Report(Protocol):
    """Hears how far a stage of a run is: its name, steps done, steps in all, and a word more."""

    def __call__(self, stage: str, done: int, total: int, detail: str = "", /) -> None:
        """Called at every step."""


class Trainer:
    """One run in one folder.

    It holds `checkpoint.pt`, what `Record` writes, `plots.png`, `tokenizer.json`, the models `best/` and at
    the end `model/`, and `cache/` of teacher features. `data_report` tells what was skipped, `warning` what
    the recipe cannot teach with these data, `results` the scores of the model that came of it, beside those
    of the one that a fine-tuning started at, and `result_step` its step where that was chosen. Under torchrun
    each process has a Trainer of its own; the first one writes.
    """

    def __init__(
        self,
        recipe: recipes.Recipe,
        data: Path,
        out: Path,
        report: Report,
        extra: tuple[Sequence[Sample], ShardReport] | None = None,
    ) -> None:
        """Read the data, run the teachers if there are any, build the model.

        `extra` are samples beside those of `data`, such as a library's, and what was left out of them.
        Raises TrainingError for data that cannot be used, UsageError, StorageError, MissingExtra.
        """
        self.recipe, self.out, self.report = recipe, out, report
        self.world = World.join(recipe.compute.device)
        check_share(recipe.compute, recipe.optim.batch, self.world.size)
        dtype = pick_precision(recipe.compute.precision, self.world.device)
        require_matplotlib()
        self.record = Record(out)
        self.record.require_same_data(recipe)
        make_directory(out)
        torch.manual_seed(recipe.seed)
        with self.world.main_first():
            source, held = open_source(recipe, data, out / "cache", report, extra)
            self.samples = source.samples if isinstance(source, MemorySource) else []
            self.data_report, self.sources = source.report, source.counts
            self.validation = self._validation(data, held)
            loaded = None if recipe.start is None else load_start(recipe.start)
            frozen = make_frozen(recipe, loaded, self.samples, out / "cache", report)
            corpus = self._targets(data, frozen, loaded)
            teacher = make_teacher(recipe, data)
            texts = itertools.chain(corpus, source.texts())
            self.tokenizer = make_tokenizer(recipe, loaded, texts, out / "tokenizer.json")
            self.warning = idle_text_tower(recipe, self.tokenizer)
        self.preprocess = make_preprocess(recipe, loaded)
        self.model = make_model(recipe, self.tokenizer, loaded, self.targets, teacher, report)
        self.state = self._first_state(dtype)
        self.objective = Objective(recipe, self.samples, self.targets, self.world, teacher, dtype)
        gradients = Gradients(
            self.model,
            self.objective,
            self.preprocess,
            self.tokenizer,
            recipe,
            self.world,
            dtype,
            self.state.scaler,
        )
        self.stepper = Step(self.model, gradients, self.state, recipe.optim)
        views = make_views(recipe, self.preprocess, teacher)
        looks = None if frozen is None else frozen.views
        self.batches = BatchSource(source, corpus, recipe, views, self.world.part, looks)
        self.meter = self._meter(dtype)
        self.results: Results = {}
        self.result_step: int | None = None

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self.state.step

    def _validation(self, data: Path, held: Sequence[Sample]) -> Validation:
        """The held-out samples; only the first process, which evaluates, reads them."""
        if not self.world.is_main:
            return Validation({})
        validation = Validation.read(find_shards(data, self.recipe.data.val), self.recipe.data.limit)
        validation.add(held)
        validation.settle()
        check_sources(self.recipe.best, validation.metrics())
        return validation

    def _targets(self, data: Path, frozen: FrozenTrunk | None, loaded: LoadedModel | None) -> list[str]:
        """Ask the teachers where there are any; returns the texts that they know."""
        self.targets: Targets | None = None
        if self.recipe.teacher is None:
            return []
        self.targets = prepare_targets(
            self.recipe,
            data,
            self.samples,
            self.validation,
            self.out / "cache",
            self.report,
            make_reader(self.recipe.teacher, loaded),
            frozen,
        )
        return self.targets.corpus

    def _first_state(self, dtype: torch.dtype | None) -> State:
        recipe, device = self.recipe, self.world.device
        prepare(self.model, recipe.loss)
        self.model.to(device)
        self.model.set_checkpointing(recipe.compute.checkpointing)
        if recipe.compute.compile:
            compile_towers(self.model, device)
        averaged = recipe.optim.ema > 0 and self.world.is_main
        return State(
            self.model,
            make_optimiser(self.model, recipe.optim),
            WeightAverage(self.model, recipe.optim.ema) if averaged else None,
            torch.amp.GradScaler(device.type, enabled=dtype is torch.float16),
        )

    def _meter(self, dtype: torch.dtype | None) -> Meter:
        device = self.world.device
        if device.type != "cuda":
            return Meter(self.recipe.optim.batch)
        peak = peak_flops(torch.cuda.get_device_name(device))
        if dtype is None or peak is None:
            peak = None  # what 32 bits could do at most is not what people compare with
        else:
            peak *= self.world.size
        return Meter(
            self.recipe.optim.batch, training_flops(self.model, device, self.recipe.data.crop_size), peak
        )

    def train(self) -> Path:
        """Run to the last step, from the checkpoint if there is one; returns the model folder.

        Raises TrainingError for a loss that is not a number, which leaves the checkpoint as it was, and
        StorageError when the disk fails. However else it ends, also by KeyboardInterrupt, the checkpoint is
        of the last step.
        """
        if (self.out / CHECKPOINT).is_file():
            load_checkpoint(self.out / CHECKPOINT, self.state)
        if self.world.is_main:
            where = environment(self.world.device)
            self.record.begin(self.recipe, self.state.step, {**where, "processes": self.world.size})
        try:
            self._run()
        except Diverged:
            raise  # an earlier checkpoint may lead elsewhere, with another recipe; these weights would not
        except BaseException:
            if self._is_finite():
                with suppress(StorageError):
                    self.save()
            raise
        finally:
            self.batches.close()
        if self.world.is_main:
            self.save()
            self._finish()
        self.world.barrier()
        self.world.leave()
        return self.out / MODEL

    def _run(self) -> None:
        steps, saved = self.recipe.optim.steps, time.monotonic()
        if self.state.step == 0 and self.world.is_main and is_whole(self.recipe.start):
            self._evaluate()
        while self.state.step < steps:
            told = self._advance()
            if not self.world.is_main:
                continue
            self.report("training", self.state.step, steps, told)
            if self.state.step % self.recipe.eval_every == 0 and self.state.step < steps:
                self._evaluate()
                self.save()
                saved = time.monotonic()
            if time.monotonic() - saved > self.recipe.checkpoint_minutes * 60:
                self.save()
                saved = time.monotonic()

    def _advance(self) -> str:
        """One step; returns a word about it."""
        self.model.train()
        settle_batch_norms(self.model, everywhere=self.recipe.freeze_batch_norm)
        self.meter.start()
        with self.meter.waiting():
            batch = self.batches.get(self.state.step)
        row = self.stepper.take(batch, self._note)
        return f"loss {row['loss']:.3f}, {self.meter.told(self.recipe.optim.steps - self.state.step)}"

    def _note(self, row: dict[str, float]) -> None:
        pace = self.meter.stop()
        if self.world.is_main:
            self.record.log({**row, **dataclasses.asdict(pace)})

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.model.state_dict().values())

    def averaged(self) -> Clip:
        """A copy of the model with the averaged weights, in evaluation mode on the CPU."""
        model = copy.deepcopy(self.model).cpu()
        if self.state.average is not None:
            model.load_state_dict(self.state.average.state())
        return plain(model)

    def _evaluate(self) -> None:
        """Score the model on held-out data; keep it where it is the best so far."""
        model = self.averaged()
        scores = self.validation.evaluate(model, self.preprocess, self.tokenizer)
        self.record.score(self.state.step, scores)
        self.results = compared(self.record.scores()[0], scores) if is_whole(self.recipe.start) else scores
        score = overall(scores, self.recipe.best)
        if score is not None and (self.state.best is None or score > self.state.best[1]):
            self._write(self.out / BEST, model)
            self.state.best = (self.state.step, score)
        draw(self.out, self.record.steps(), self.record.scores())

    def _show_best(self, step: int) -> None:
        """Let `results` be those of the best step, whose model is the result."""
        scores = next((dict(line) for line in reversed(self.record.scores()) if line["step"] == step), None)
        if scores is not None:
            self.result_step = scores.pop("step")
            first = self.record.scores()[0]
            self.results = compared(first, scores) if is_whole(self.recipe.start) else scores

    def _write(self, folder: Path, model: Clip) -> None:
        save_folder(folder, model, self.preprocess, self.tokenizer)
        write_card(folder, self.recipe, self.sources, self.results)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all; only the first process does. Raises StorageError."""
        if self.world.is_main:
            save_checkpoint(self.out / CHECKPOINT, self.state)

    def _finish(self) -> None:
        self._evaluate()
        self.save()
        if self.recipe.best.result == "best" and self.state.best is not None:
            self._show_best(self.state.best[0])
            if not (self.out / BEST).is_dir():
                raise TrainingError(
                    f"{self.out / BEST} is gone, and with it the best model of this run. Train into another "
                    'folder, or say result = "last" under [best].'
                )
            make_directory(self.out / MODEL)
            for path in (self.out / BEST).iterdir():
                replace(self.out / MODEL / path.name, path.read_bytes(), name="model")
        else:
            self._write(self.out / MODEL, self.averaged())
