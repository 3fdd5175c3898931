"""What the features of a batch are scored by: the contrastive loss, and distillation from teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clipsearch.model import Clip
from clipsearch_train import recipe as recipes
from clipsearch_train.batches import Batch
from clipsearch_train.clip_teacher import ClipTeacher
from clipsearch_train.compute import autocast
from clipsearch_train.data import Sample
from clipsearch_train.distributed import World
from clipsearch_train.lora import BIAS
from clipsearch_train.loss import (
    INITIAL_SIGMOID_BIAS,
    INITIAL_SIGMOID_SCALE,
    Pairs,
    bank_loss,
    caption_groups,
    cosine_distance,
    sigmoid_loss,
    softmax_loss,
)
from clipsearch_train.targets import Targets
from clipsearch_train.vision_teacher import VisionTeacher


@dataclass(frozen=True)
class Features:
    """Unit rows of this process's part of a batch: `image_NE` of its images, `text_ME` of its texts.

    The texts are first `texts`, which are said of the rows `told` of the batch, then the batch's `extra`.
    """

    image_NE: Tensor
    text_ME: Tensor
    told: list[int]
    texts: list[str]


def spoken(batch: Batch) -> tuple[list[int], list[str]]:
    """The rows of a batch of which something is said, and what."""
    told = [row for row, text in enumerate(batch.texts) if text is not None]
    return told, [str(batch.texts[row]) for row in told]


def prepare(model: Clip, loss: recipes.Loss) -> None:
    """Give a model the parameters of the sigmoid loss, at SigLIP's initial values, where that is the loss.

    The bias is of no use to search, which compares cosines: it is trained and checkpointed with the model and
    left out of the model folder.
    """
    if loss.kind == "sigmoid":
        with torch.no_grad():
            model.logit_scale.fill_(INITIAL_SIGMOID_SCALE)
        model.register_parameter(BIAS, nn.Parameter(torch.tensor(INITIAL_SIGMOID_BIAS)))


class Objective:
    """The terms of the loss. Each process gives its share; the shares of all add up to the batch's loss."""

    def __init__(
        self,
        recipe: recipes.Recipe,
        samples: Sequence[Sample],
        targets: Targets | None,
        world: World,
        teacher: ClipTeacher | VisionTeacher | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.recipe, self.world, self._dtype = recipe, world, dtype
        self.samples, self.targets, self.teacher = samples, targets, teacher

    def terms(self, model: Clip, features: Features, batch: Batch, step: int) -> dict[str, Tensor]:
        """This process's share of the weighted terms of the loss by name; the loss is their sum.

        The names are the same on all processes and at every step.
        """
        terms = {"contrastive": self._contrastive(model, features)}
        if self.targets is not None:
            terms |= self._distillation(model, features, batch, self.targets, step)
        if self.teacher is not None:
            pixels = batch.pixels if batch.teacher_pixels is None else batch.teacher_pixels
            seen = self._looked(self.teacher, pixels, [*features.texts, *batch.extra])
            scale = model.logit_scale.exp()
            terms |= self.teacher.terms(
                model, seen, features.image_NE, features.text_ME, features.told, scale, self.world
            )
        return terms

    def _looked(
        self, teacher: ClipTeacher | VisionTeacher, pixels_NYXC: npt.NDArray[np.uint8], texts: list[str]
    ) -> tuple[Tensor, Tensor]:
        """What a teacher sees, in the precision of the run."""
        with autocast(self.world.device, self._dtype):
            return teacher.look(pixels_NYXC, texts or [""], self.world.device)

    def _contrastive(self, model: Clip, features: Features) -> Tensor:
        counts = self.world.counts(len(features.told))[:, 0].tolist()
        if not sum(counts):
            return features.image_NE.new_zeros(())
        image_NE, text_NE = features.image_NE[features.told], features.text_ME[: len(features.texts)]
        group_N = caption_groups(features.texts).to(image_NE.device)
        all_image_ME, all_text_ME, all_group_M = (
            self.world.gather(rows, counts) for rows in (image_NE, text_NE, group_N)
        )
        pairs = Pairs(image_NE, text_NE, group_N, all_image_ME, all_text_ME, all_group_M)
        settings, scale = self.recipe.loss, model.logit_scale.exp()
        if settings.kind == "sigmoid":
            return settings.contrastive * sigmoid_loss(pairs, scale, model.get_parameter(BIAS))
        return settings.contrastive * softmax_loss(pairs, scale, settings.label_smoothing)

    def _distillation(
        self, model: Clip, features: Features, batch: Batch, targets: Targets, step: int
    ) -> dict[str, Tensor]:
        weights, rows, texts = self.recipe.loss, batch.rows, features.texts
        known, text_target = targets.text([*texts, *batch.extra])
        captioned = [k for k, row in enumerate(features.told) if self.samples[rows[row]].captions]
        # A mean over this process's rows counts by how many of all rows it has.
        counts = self.world.counts(len(rows), len(known), len(captioned))
        images, spoken_of, banked = (counts[self.world.rank] / counts.sum(dim=0).clamp(min=1)).tolist()
        terms: dict[str, Tensor] = {}
        if weights.image_distill:
            distance = cosine_distance(features.image_NE, _on(features, targets.image(rows)))
            terms["image"] = weights.image_distill * images * distance
        if weights.text_distill:
            terms["text"] = features.image_NE.new_zeros(())
            if known:
                distance = cosine_distance(features.text_ME[known], _on(features, text_target))
                terms["text"] = weights.text_distill * spoken_of * distance
        if weights.bank:
            terms["bank"] = features.image_NE.new_zeros(())
            if captioned:
                terms["bank"] = (
                    weights.contrastive
                    * banked
                    * self._bank(model, features, batch, targets, captioned, step)
                )
        return terms

    def _bank(
        self,
        model: Clip,
        features: Features,
        batch: Batch,
        targets: Targets,
        captioned: Sequence[int],
        step: int,
    ) -> Tensor:
        """Images and texts of captioned samples against the teachers' features of many others."""
        chosen = [features.told[k] for k in captioned]
        rng = np.random.default_rng([self.recipe.seed, step, 1])
        images_bank, texts_bank = targets.bank(self.recipe.loss.bank, rng)
        # Both sides of a comparison with the bank must be constant: a student that could move its own
        # key would leave the teachers' space, where nothing of the bank is near, and win for nothing.
        spoken_of = targets.text([features.texts[k] for k in captioned])[1]
        images_of = targets.image(batch.rows[chosen])
        scale = model.logit_scale.exp()
        forth = bank_loss(
            features.image_NE[chosen], _on(features, spoken_of), _on(features, texts_bank), scale
        )
        back = bank_loss(
            features.text_ME[list(captioned)], _on(features, images_of), _on(features, images_bank), scale
        )
        return (forth + back) / 2


def _on(features: Features, target: Tensor) -> Tensor:
    """Targets where the features are."""
    return target.to(features.image_NE.device)
