"""`clipsearch train`: a recipe and data in, a model folder out."""

from __future__ import annotations

import copy
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from clipsearch.durable import make_directory
from clipsearch.errors import StorageError, TrainingError, UsageError
from clipsearch.model import Clip
from clipsearch.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.weights import save_folder
from clipsearch_train import recipe as recipes
from clipsearch_train.batches import BatchSource
from clipsearch_train.card import Results, write_card
from clipsearch_train.checkpoint import load_checkpoint, save_checkpoint
from clipsearch_train.data import Sample, ShardReport, find_shards, read_shards
from clipsearch_train.optimiser import WeightAverage, make_optimiser, set_rates
from clipsearch_train.record import Record
from clipsearch_train.step import Objective
from clipsearch_train.targets import Targets, prepare_targets
from clipsearch_train.validation import Validation

CHECKPOINT = "checkpoint.pt"


class Report(Protocol):
    """Hears how far a stage of a run is: its name, steps done, steps in all, and a word more."""

    def __call__(self, stage: str, done: int, total: int, detail: str = "", /) -> None:
        """Take note of it."""


class Trainer:
    """One run in one folder.

    It holds `checkpoint.pt`, `recipe.json`, `log.csv`, `eval.jsonl`, `tokenizer.json`, `model/`, and
    `cache/` of teacher features. `data_report` tells what was skipped, `results` the last scores.
    """

    def __init__(self, recipe: recipes.Recipe, data: Path, out: Path, report: Report) -> None:
        """Read the data, run the teachers if there are any, build the model.

        Raises TrainingError for data that cannot be used, UsageError, StorageError, MissingExtra.
        """
        self.recipe, self.out, self.report = recipe, out, report
        make_directory(out)
        torch.manual_seed(recipe.seed)
        self.samples, self.data_report = _samples(recipe, data)
        self.validation = Validation.read(find_shards(data, recipe.data.val), recipe.data.limit)
        self.targets: Targets | None = None
        corpus: list[str] = []
        if recipe.teacher is not None:
            self.targets = prepare_targets(recipe, data, self.samples, self.validation, out / "cache", report)
            corpus = self.targets.corpus
        self.tokenizer = self._tokenizer(corpus)
        self.preprocess = Preprocess(recipe.model.vision.image_size, *_pixel_statistics(recipe))
        self.model = self._model()
        self.optimiser = make_optimiser(self.model, recipe.optim)
        self.average = WeightAverage(self.model, recipe.optim.ema) if recipe.optim.ema else None
        self.objective = Objective(recipe, self.preprocess, self.tokenizer, self.samples, self.targets)
        self.batches = BatchSource(self.samples, corpus, recipe)
        self.record = Record(out)
        self.results: Results = {}
        self.step = 0

    def _tokenizer(self, corpus: list[str]) -> ClipTokenizer:
        text = self.recipe.model.text
        path = self.out / "tokenizer.json"
        if path.is_file():
            return ClipTokenizer.load(path, text.context_length)
        captions = [caption for sample in self.samples for caption in (*sample.captions, *sample.labels)]
        tokenizer = ClipTokenizer.train([*corpus, *captions], text.vocab_size, text.context_length)
        tokenizer.save(path)
        return tokenizer

    def _model(self) -> Clip:
        config = self.recipe.model
        text = recipes.TextConfig(
            config.text.context_length,
            self.tokenizer.vocab_size,
            config.text.width,
            config.text.heads,
            config.text.layers,
        )
        model = Clip(recipes.ClipConfig(config.embed_dim, config.vision, text, config.quick_gelu))
        if self.targets is not None:
            self.targets.start(model)
        model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

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
        if self.recipe.freeze_batch_norm:
            _freeze_batch_norm(self.model)
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
        save_folder(folder, self.averaged(), self.preprocess, self.tokenizer)
        write_card(folder, self.recipe, self.samples, self.results)
        return folder


def _samples(recipe: recipes.Recipe, data: Path) -> tuple[list[Sample], ShardReport]:
    samples, report = read_shards(find_shards(data, recipe.data.train), recipe.data.limit)
    sources = {sample.source for sample in samples}
    unknown = sorted(set(recipe.data.weights) - sources)
    if unknown:
        raise UsageError(
            f"The recipe's data.weights names the source {unknown[0]!r}; the shards hold "
            f"{', '.join(repr(source) for source in sorted(sources))}."
        )
    if recipe.teacher is None:
        # Without a teacher an image that nothing is said about teaches nothing.
        for sample in samples:
            if not sample.captions and not sample.labels:
                report.skip("without a caption or label", sample.key)
        samples = [sample for sample in samples if sample.captions or sample.labels]
        report.samples = len(samples)
    return samples, report


def _pixel_statistics(
    recipe: recipes.Recipe,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if recipe.teacher is not None:
        from clipsearch_train.teachers import TEACHER_MEAN, TEACHER_STD

        return TEACHER_MEAN, TEACHER_STD
    return OPENAI_MEAN, OPENAI_STD


def _freeze_batch_norm(model: nn.Module) -> None:
    """Use the running statistics in training too; gains and biases go on learning."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
