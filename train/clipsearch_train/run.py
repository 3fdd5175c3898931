"""`clipsearch train`: a recipe and data in, a model folder out."""

from __future__ import annotations

import copy
import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.errors import StorageError, TrainingError
from clipsearch.model import Clip
from clipsearch.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.weights import save_folder
from clipsearch_train import recipe as recipes
from clipsearch_train.batches import Batch, BatchSource
from clipsearch_train.card import write_card
from clipsearch_train.data import Sample, read_shards
from clipsearch_train.loss import bank_loss, contrastive_loss, cosine_distance
from clipsearch_train.optimiser import WeightAverage, make_optimiser, set_rates
from clipsearch_train.targets import Targets, prepare_targets
from clipsearch_train.validation import Validation

Report = Callable[[str, int, int], None]
CHECKPOINT = "checkpoint.pt"


class Trainer:
    """One run in one folder: `checkpoint.pt`, `log.csv`, `model/`, and `cache/` of teacher features."""

    def __init__(self, recipe: recipes.Recipe, data: Path, out: Path, report: Report) -> None:
        self.recipe, self.out, self.report = recipe, out, report
        _make_folder(out)
        torch.manual_seed(recipe.seed)
        self.samples, self.data_report = read_shards(_glob(data, recipe.data.train), recipe.data.limit)
        self.validation = Validation.read(_glob(data, recipe.data.val), recipe.data.limit)
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
        self.batches = BatchSource(self.samples, corpus, recipe)
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

        Raises TrainingError for a loss that is not a number, StorageError when a checkpoint cannot be
        written. KeyboardInterrupt leaves a checkpoint behind.
        """
        self._resume()
        started, begun_at, saved = time.monotonic(), self.step, time.monotonic()
        try:
            while self.step < self.recipe.optim.steps:
                losses = self._train_step()
                self.step += 1
                self._log(losses, (self.step - begun_at) / (time.monotonic() - started))
                self.report("training", self.step, self.recipe.optim.steps)
                if self.step % self.recipe.eval_every == 0 and self.step < self.recipe.optim.steps:
                    self._evaluate()
                if time.monotonic() - saved > self.recipe.checkpoint_minutes * 60:
                    self.save()
                    saved = time.monotonic()
        finally:
            self.batches.close()
            self.save()
        return self._finish()

    def _train_step(self) -> dict[str, float]:
        self.model.train()
        if self.recipe.freeze_batch_norm:
            _freeze_batch_norm(self.model)
        set_rates(self.optimiser, self.step, self.recipe.optim)
        terms = self._loss_terms(self.batches.get(self.step))
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss.item()} at step {self.step}; the last good weights are in {self.out / CHECKPOINT}. "
                "A lower learning rate usually helps."
            )
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip_norm)
        self.optimiser.step()
        self.model.clamp_logit_scale()
        if self.average is not None:
            self.average.update(self.model, self.step)
        return {name: float(term.detach()) for name, term in terms.items()}

    def _loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        weights, scale = self.recipe.loss, self.model.logit_scale.exp()
        told = [row for row, text in enumerate(batch.texts) if text is not None]
        texts = [str(batch.texts[row]) for row in told]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.optim.bf16):
            images = self.model.encode_image(self.preprocess.normalise(batch.pixels))
            spoken = self.model.encode_text(torch.from_numpy(self.tokenizer([*texts, *batch.extra])))
        image_NE, text_ME = F.normalize(images.float(), dim=-1), F.normalize(spoken.float(), dim=-1)
        own_NE = text_ME[: len(texts)]
        groups = torch.tensor([texts.index(text) for text in texts])
        terms = {"contrastive": weights.contrastive * contrastive_loss(image_NE[told], own_NE, groups, scale)}
        if self.targets is None:
            return terms
        rows = batch.rows
        if weights.image_distill:
            terms["image"] = weights.image_distill * cosine_distance(image_NE, self.targets.image(rows))
        if weights.text_distill:
            known, target = self.targets.text([*texts, *batch.extra])
            terms["text"] = weights.text_distill * cosine_distance(text_ME[known], target)
        captioned = [k for k, row in enumerate(told) if self.samples[rows[row]].captions]
        if weights.bank and captioned:
            chosen = [told[k] for k in captioned]
            rng = np.random.default_rng([self.recipe.seed, self.step, 1])
            images_bank, texts_bank = self.targets.bank(weights.bank, rng)
            forth = bank_loss(image_NE[chosen], own_NE[captioned], texts_bank, scale)
            back = bank_loss(own_NE[captioned], image_NE[chosen], images_bank, scale)
            terms["bank"] = weights.contrastive * (forth + back) / 2
        return terms

    def _log(self, losses: dict[str, float], rate: float) -> None:
        path = self.out / "log.csv"
        row = {"step": self.step, **losses, "logit_scale": float(self.model.logit_scale.detach().exp()), "steps_per_s": rate}
        fresh = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", "contrastive", "image", "text", "bank", "logit_scale", "steps_per_s"])
            if fresh:
                writer.writeheader()
            writer.writerow({key: round(value, 5) for key, value in row.items()})

    def averaged(self) -> Clip:
        """A copy of the model with the averaged weights, in evaluation mode."""
        model = copy.deepcopy(self.model)
        if self.average is not None:
            model.load_state_dict(self.average.state())
        return model.eval().requires_grad_(False)

    def _evaluate(self) -> dict[str, dict[str, float]]:
        results = self.validation.evaluate(self.averaged(), self.preprocess, self.tokenizer)
        with (self.out / "eval.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, **results}) + "\n")
        return results

    def save(self) -> None:
        """Write the checkpoint: to a temporary name, then renamed."""
        state: dict[str, Any] = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else self.average.state(),
        }
        temporary = self.out / f"{CHECKPOINT}.partial"
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.out / CHECKPOINT)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StorageError(f"The checkpoint cannot be written to {self.out}: {error.strerror}.") from error

    def _resume(self) -> None:
        path = self.out / CHECKPOINT
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        try:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(f"{path} is of another recipe; give a new --out folder.") from error
        if self.average is not None and state["average"] is not None:
            self.average.tensors = state["average"]
        self.step = int(state["step"])

    def _finish(self) -> Path:
        results = self._evaluate()
        folder = self.out / "model"
        save_folder(folder, self.averaged(), self.preprocess, self.tokenizer)
        write_card(folder, self.recipe, self.samples, results)
        return folder


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The run folder {out} cannot be made: {error.strerror}.") from error


def _glob(data: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(data.glob(pattern))]


def _pixel_statistics(recipe: recipes.Recipe) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if recipe.teacher is not None:
        from clipsearch_train.teachers import TEACHER_MEAN, TEACHER_STD

        return TEACHER_MEAN, TEACHER_STD
    return OPENAI_MEAN, OPENAI_STD


def _freeze_batch_norm(model: nn.Module) -> None:
    """Use the running statistics in training too; gains and biases go on learning."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


__all__ = ["Report", "Sample", "Trainer"]
