"""`clipsearch train`: a recipe and data in, a model folder out."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch import __version__
from clipsearch.durable import make_directory, replace, storage_errors
from clipsearch.errors import StorageError, TrainingError, UsageError
from clipsearch.model import Clip
from clipsearch.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.weights import save_folder
from clipsearch_train import recipe as recipes
from clipsearch_train.batches import Batch, BatchSource
from clipsearch_train.card import Results, write_card
from clipsearch_train.checkpoint import load_checkpoint, save_checkpoint
from clipsearch_train.data import Sample, ShardReport, find_shards, read_shards
from clipsearch_train.loss import bank_loss, caption_groups, contrastive_loss, cosine_distance
from clipsearch_train.optimiser import WeightAverage, make_optimiser, set_rates
from clipsearch_train.targets import Targets, prepare_targets
from clipsearch_train.validation import Validation

Report = Callable[[str, int, int], None]
CHECKPOINT = "checkpoint.pt"
_LOG = ("step", "contrastive", "image", "text", "bank", "logit_scale", "steps_per_s")


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
        self.batches = BatchSource(self.samples, corpus, recipe)
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
        self._record()
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
            self._log(losses, (self.step - begun_at) / (time.monotonic() - started))
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
        terms = self._loss_terms(self.batches.get(self.step))
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

    def _loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        weights, scale = self.recipe.loss, self.model.logit_scale.exp()
        told = [row for row, text in enumerate(batch.texts) if text is not None]
        texts = [str(batch.texts[row]) for row in told]
        terms: dict[str, Tensor] = {}
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.optim.bf16):
            images = self.model.encode_image(self.preprocess.normalise(batch.pixels))
            # A batch of images alone still runs the text tower, for the shape of what follows.
            spoken = self.model.encode_text(torch.from_numpy(self.tokenizer([*texts, *batch.extra] or [""])))
        image_NE, text_ME = F.normalize(images.float(), dim=-1), F.normalize(spoken.float(), dim=-1)
        own_NE = text_ME[: len(texts)]
        if told:
            loss = contrastive_loss(image_NE[told], own_NE, caption_groups(texts), scale)
            terms["contrastive"] = weights.contrastive * loss
        if self.targets is None:
            return terms
        rows = batch.rows
        if weights.image_distill:
            terms["image"] = weights.image_distill * cosine_distance(image_NE, self.targets.image(rows))
        known, target = self.targets.text([*texts, *batch.extra])
        if weights.text_distill and known:
            terms["text"] = weights.text_distill * cosine_distance(text_ME[known], target)
        captioned = [k for k, row in enumerate(told) if self.samples[rows[row]].captions]
        if weights.bank and captioned:
            chosen = [told[k] for k in captioned]
            rng = np.random.default_rng([self.recipe.seed, self.step, 1])
            images_bank, texts_bank = self.targets.bank(weights.bank, rng)
            # Both sides of a comparison with the bank must be constant: a student that could move its own
            # key would leave the teachers' space, where nothing of the bank is near, and win for nothing.
            spoken_of, images_of = (
                self.targets.text([texts[k] for k in captioned])[1],
                self.targets.image(rows[chosen]),
            )
            forth = bank_loss(image_NE[chosen], spoken_of, texts_bank, scale)
            back = bank_loss(own_NE[captioned], images_of, images_bank, scale)
            terms["bank"] = weights.contrastive * (forth + back) / 2
        return terms

    def _log(self, losses: dict[str, float], rate: float) -> None:
        row = {
            "step": self.step,
            **losses,
            "logit_scale": float(self.model.logit_scale.detach().exp()),
            "steps_per_s": rate,
        }
        path = self.out / "log.csv"
        with storage_errors(path), path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, _LOG).writerow({key: round(value, 5) for key, value in row.items()})

    def _record(self) -> None:
        """Write down what runs here, and cut from the log the steps that the checkpoint has not seen."""
        told = {
            "clipsearch": __version__,
            "torch": torch.__version__,
            "resumed_at": self.step,
            "recipe": dataclasses.asdict(self.recipe),
        }
        replace(self.out / "recipe.json", (json.dumps(told, indent=2) + "\n").encode(), name="recipe")
        path = self.out / "log.csv"
        kept = []
        if path.is_file():
            with storage_errors(path), path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= self.step]
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, _LOG)
        writer.writeheader()
        writer.writerows(kept)
        replace(path, buffer.getvalue().encode(), name="log")

    def averaged(self) -> Clip:
        """A copy of the model with the averaged weights, in evaluation mode."""
        model = copy.deepcopy(self.model)
        if self.average is not None:
            model.load_state_dict(self.average.state())
        return model.eval().requires_grad_(False)

    def _evaluate(self) -> None:
        self.results = self.validation.evaluate(self.averaged(), self.preprocess, self.tokenizer)
        path = self.out / "eval.jsonl"
        with storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, **self.results}) + "\n")

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
