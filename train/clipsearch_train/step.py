"""One step's objective: a batch through both towers, and the terms of the loss of what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsearch.model import Clip
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch_train import recipe as recipes
from clipsearch_train.batches import Batch
from clipsearch_train.clip_teacher import ClipTeacher
from clipsearch_train.data import Sample
from clipsearch_train.loss import bank_loss, caption_groups, contrastive_loss, cosine_distance
from clipsearch_train.targets import Targets


@dataclass(frozen=True)
class Features:
    """Unit rows of a batch: `image_NE` of its images, `text_ME` of the texts `told` of them, then of `extra`.

    `told` are the rows of the batch of which `texts` says something, one text each.
    """

    image_NE: Tensor
    text_ME: Tensor
    told: list[int]
    texts: list[str]


class Objective:
    """What a batch is scored by: the contrastive loss, and distillation where there are teachers."""

    def __init__(
        self,
        recipe: recipes.Recipe,
        preprocess: Preprocess,
        tokenizer: ClipTokenizer,
        samples: Sequence[Sample],
        targets: Targets | None,
        teacher: ClipTeacher | None = None,
    ) -> None:
        self.recipe, self.preprocess, self.tokenizer = recipe, preprocess, tokenizer
        self.samples, self.targets, self.teacher = samples, targets, teacher

    def terms(self, model: Clip, batch: Batch, step: int) -> dict[str, Tensor]:
        """The weighted terms of the loss by name; the loss is their sum."""
        features = self._encode(model, batch)
        terms = self._contrastive(model, features)
        if self.targets is not None:
            terms |= self._distillation(model, features, batch, self.targets, step)
        if self.teacher is not None:
            terms |= self._distilled_from_clip(model, features, batch, self.teacher)
        return terms

    def _encode(self, model: Clip, batch: Batch) -> Features:
        told = [row for row, text in enumerate(batch.texts) if text is not None]
        texts = [str(batch.texts[row]) for row in told]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.optim.bf16):
            images = model.encode_image(self.preprocess.normalise(batch.pixels))
            # A batch of images alone still runs the text tower, for the shape of what follows.
            spoken = model.encode_text(torch.from_numpy(self.tokenizer([*texts, *batch.extra] or [""])))
        return Features(F.normalize(images.float(), dim=-1), F.normalize(spoken.float(), dim=-1), told, texts)

    def _contrastive(self, model: Clip, features: Features) -> dict[str, Tensor]:
        if not features.told:
            return {}
        own_NE = features.text_ME[: len(features.texts)]
        groups, scale = caption_groups(features.texts), model.logit_scale.exp()
        loss = contrastive_loss(features.image_NE[features.told], own_NE, groups, scale)
        return {"contrastive": self.recipe.loss.contrastive * loss}

    def _distillation(
        self, model: Clip, features: Features, batch: Batch, targets: Targets, step: int
    ) -> dict[str, Tensor]:
        weights, rows, texts = self.recipe.loss, batch.rows, features.texts
        terms: dict[str, Tensor] = {}
        if weights.image_distill:
            distance = cosine_distance(features.image_NE, targets.image(rows))
            terms["image"] = weights.image_distill * distance
        known, target = targets.text([*texts, *batch.extra])
        if weights.text_distill and known:
            terms["text"] = weights.text_distill * cosine_distance(features.text_ME[known], target)
        captioned = [k for k, row in enumerate(features.told) if self.samples[rows[row]].captions]
        if weights.bank and captioned:
            chosen = [features.told[k] for k in captioned]
            rng = np.random.default_rng([self.recipe.seed, step, 1])
            images_bank, texts_bank = targets.bank(weights.bank, rng)
            # Both sides of a comparison with the bank must be constant: a student that could move its own
            # key would leave the teachers' space, where nothing of the bank is near, and win for nothing.
            spoken_of = targets.text([texts[k] for k in captioned])[1]
            images_of = targets.image(rows[chosen])
            scale = model.logit_scale.exp()
            forth = bank_loss(features.image_NE[chosen], spoken_of, texts_bank, scale)
            back = bank_loss(features.text_ME[captioned], images_of, images_bank, scale)
            terms["bank"] = weights.contrastive * (forth + back) / 2
        return terms

    def _distilled_from_clip(
        self, model: Clip, features: Features, batch: Batch, teacher: ClipTeacher
    ) -> dict[str, Tensor]:
        pixels = batch.pixels if batch.teacher_pixels is None else batch.teacher_pixels
        texts = [*features.texts, *batch.extra] or [""]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.optim.bf16):
            seen = teacher.look(pixels, texts, features.image_NE.device)
        scale = model.logit_scale.exp()
        return teacher.terms(model, seen, features.image_NE, features.text_ME, features.told, scale)
