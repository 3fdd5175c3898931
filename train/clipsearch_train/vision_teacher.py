"""Distillation from a network that knows images alone: its pooled features.

What a supervised network has pooled is not made for cosines: all of it is positive, and a few features are
much larger than the rest. So the features are normalised over each image before they are compared, as Wei et
al. 2022 (arXiv 2205.14141, §3.2) do, and the student reaches them through a learnt projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.model import Clip
from clipsearch_train.clip_teacher import Distill
from clipsearch_train.distributed import ALONE, World
from clipsearch_train.image_teacher import ImageTeacher
from clipsearch_train.lora import TRAINING_ONLY
from clipsearch_train.loss import cosine_distance


class VisionTeacher:
    """A frozen image network that a student's image tower is compared with."""

    def __init__(self, settings: Distill, data: Path) -> None:
        """`settings.image` is what `ImageTeacher` takes. Raises TrainingError, MissingExtra."""
        teacher = ImageTeacher(settings.image, data, settings.image_size)
        self.settings, self.preprocess = settings, teacher.preprocess
        self._trunk = teacher.inference_trunk()

    def attach(self, student: Clip) -> None:
        """Give the student the projection to this teacher's features; it is not part of the model saved."""
        student.add_module(TRAINING_ONLY, nn.Linear(student.config.embed_dim, self._trunk.num_features))

    @torch.no_grad()
    def look(
        self, pixels_NYXC: npt.NDArray[np.uint8], _texts: Sequence[str], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """The teacher's normalised features of uint8 pixels (N, Y, X, 3): (N, F); nothing of texts."""
        features_NF = self._trunk.to(device)(self.preprocess.normalise(pixels_NYXC, device)).float()
        return F.layer_norm(features_NF, features_NF.shape[1:]), features_NF.new_zeros((0, 0))

    def terms(
        self,
        student: Clip,
        seen: tuple[Tensor, Tensor],
        image_NE: Tensor,
        _text_ME: Tensor,
        _told: Sequence[int],
        _scale: Tensor,
        world: World = ALONE,
    ) -> dict[str, Tensor]:
        """The weighted term of the loss; of several processes each gives its share. See `ClipTeacher`."""
        counts = world.counts(len(image_NE))
        share = float(counts[world.rank, 0] / counts[:, 0].sum().clamp(min=1))
        projected_NF = student.get_submodule(TRAINING_ONLY)(image_NE)
        wanted_NF = F.normalize(seen[0], dim=-1)
        distance = cosine_distance(F.normalize(projected_NF, dim=-1), wanted_NF)
        return {"features": self.settings.features * share * distance}
