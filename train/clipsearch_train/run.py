"""`clipsearch train`: a recipe and data in, a model folder out."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from clipsearch.durable import make_directory
from clipsearch.errors import StorageError, TrainingError
from clipsearch.model import Clip
from clipsearch.weights import save_folder
from clipsearch_train import recipe as recipes
from clipsearch_train.assembly import make_model, make_preprocess, make_tokenizer, make_views
from clipsearch_train.batches import BatchSource
from clipsearch_train.card import Results, write_card
from clipsearch_train.checkpoint import load_checkpoint, save_checkpoint
from clipsearch_train.clip_teacher import ClipTeacher
from clipsearch_train.data import Sample, ShardReport, find_shards
from clipsearch_train.lora import plain
from clipsearch_train.optimiser import WeightAverage, make_optimiser, set_rates
from clipsearch_train.record import Record
from clipsearch_train.sources import MemorySource, open_source
from clipsearch_train.start import load_start, settle_batch_norms
from clipsearch_train.step import Objective
from clipsearch_train.targets import Targets, prepare_targets
from clipsearch_train.validation import Validation

CHECKPOINT = "checkpoint.pt"


class Report(Protocol):
    """Hears how far a stage of a run is: its name, steps done, steps in all, and a word more."""

    def __call__(self, stage: str, done: int, total: int, detail: str = "", /) -> None: ...


class Trainer:
    """One run in one folder.

    It holds `checkpoint.pt`, `recipe.json`, `log.csv`, `eval.jsonl`, `tokenizer.json`, `model/`, and
    `cache/` of teacher features. `data_report` tells what was skipped, `results` the last scores.
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
        make_directory(out)
        torch.manual_seed(recipe.seed)
        source, held = open_source(recipe, data, out / "cache", report, extra)
        self.samples = source.samples if isinstance(source, MemorySource) else []
        self.data_report, self.sources = source.report, source.counts
        self.validation = Validation.read(find_shards(data, recipe.data.val), recipe.data.limit)
        self.validation.add(held)
        self.targets: Targets | None = None
        corpus: list[str] = []
        if recipe.teacher is not None:
            self.targets = prepare_targets(recipe, data, self.samples, self.validation, out / "cache", report)
            corpus = self.targets.corpus
        loaded = None if recipe.start is None else load_start(recipe.start)
        teacher = None if recipe.distill is None else ClipTeacher(recipe.distill)
        texts = itertools.chain(corpus, source.texts())
        self.tokenizer = make_tokenizer(recipe, loaded, texts, out / "tokenizer.json")
        self.preprocess = make_preprocess(recipe, loaded)
        self.model = make_model(recipe, self.tokenizer, loaded, self.targets, teacher)
        self.optimiser = make_optimiser(self.model, recipe.optim)
        self.average = WeightAverage(self.model, recipe.optim.ema) if recipe.optim.ema else None
        self.objective = Objective(
            recipe, self.preprocess, self.tokenizer, self.samples, self.targets, teacher
        )
        self.batches = BatchSource(source, corpus, recipe, make_views(self.preprocess, teacher))
        self.record = Record(out)
        self.results: Results = {}
        self.step = 0

    def train(self) -> Path:
        """Run to the last step, from the checkpoint if there is one; returns the model folder.

        Raises TrainingError for a loss that is not a number, StorageError when the disk fails. However it
        ends, also by KeyboardInterrupt, the checkpoint is of the last step whose weights were good.
        """
        self._resume()
        self.record.begin(self.recipe, self.step)
        try:
            self._run()
        except BaseException:
            if self._is_finite():
                with suppress(StorageError):
                    self.save()
            raise
        finally:
            self.batches.close()
        self.save()
        return self._finish()

    def _run(self) -> None:
        steps, begun_at = self.recipe.optim.steps, self.step
        started = saved = time.monotonic()
        while self.step < steps:
            losses = self._train_step()
            self.step += 1
            scale = float(self.model.logit_scale.detach().exp())
            rate = (self.step - begun_at) / (time.monotonic() - started)
            self.record.log({"step": self.step, **losses, "logit_scale": scale, "steps_per_s": rate})
            self.report("training", self.step, steps)
            if self.step % self.recipe.eval_every == 0 and self.step < steps:
                self._evaluate()
            if time.monotonic() - saved > self.recipe.checkpoint_minutes * 60:
                self.save()
                saved = time.monotonic()

    def _train_step(self) -> dict[str, float]:
        self.model.train()
        settle_batch_norms(self.model, everywhere=self.recipe.freeze_batch_norm)
        set_rates(self.optimiser, self.step, self.recipe.optim)
        terms = self.objective.terms(self.model, self.batches.get(self.step), self.step)
        loss = torch.stack(list(terms.values())).sum()
        self._require_finite(loss, "loss")
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip_norm)
        self._require_finite(norm, "norm of the gradient")
        self.optimiser.step()
        self.model.clamp_logit_scale()
        if self.average is not None:
            self.average.update(self.model, self.step)
        return {name: float(term.detach()) for name, term in terms.items()}

    def _require_finite(self, value: Tensor, what: str) -> None:
        if not torch.isfinite(value):
            raise TrainingError(
                f"The {what} is {value.item()} at step {self.step}; the last good weights are kept in "
                f"{self.out / CHECKPOINT}. A lower learning rate usually helps: change the recipe and run "
                "the same command again."
            )

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.model.state_dict().values())

    def averaged(self) -> Clip:
        """A copy of the model with the averaged weights, in evaluation mode."""
        model = copy.deepcopy(self.model)
        if self.average is not None:
            model.load_state_dict(self.average.state())
        return model.eval().requires_grad_(False)

    def _evaluate(self) -> None:
        self.results = self.validation.evaluate(self.averaged(), self.preprocess, self.tokenizer)
        self.record.score(self.step, self.results)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all. Raises StorageError."""
        save_checkpoint(self.out / CHECKPOINT, self.step, self.model, self.optimiser, self.average)

    def _resume(self) -> None:
        if (self.out / CHECKPOINT).is_file():
            self.step = load_checkpoint(self.out / CHECKPOINT, self.model, self.optimiser, self.average)

    def _finish(self) -> Path:
        self._evaluate()
        folder = self.out / "model"
        save_folder(folder, plain(self.averaged()), self.preprocess, self.tokenizer)
        write_card(folder, self.recipe, self.sources, self.results)
        return folder
