"""Distillation from a CLIP model: its features, and how alike it finds the images and texts of a batch.

The teacher sees the same crops and reads the same texts at every step; nothing of it is stored. The
similarity term is the affinity mimicking of TinyCLIP (Wu et al. 2023, arXiv 2309.12314): the KL divergence
between the softmaxes of the two matrices of similarities, over texts and over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.errors import UsageError
from clipsearch.model import Clip, fold_batch_norms
from clipsearch.weights import load_folder
from clipsearch.zoo import resolve
from clipsearch_train.distributed import ALONE, World
from clipsearch_train.lora import TRAINING_ONLY
from clipsearch_train.loss import cosine_distance


@dataclass(frozen=True)
class Distill:
    """A teacher, and the weights of what is learnt from it.

    It is the CLIP `model`, by name or folder, or the network `image`, which knows images alone (see
    `clipsearch_train.image_teacher`) and looks at `image_size` pixels. `features` weighs one minus the
    cosine between the student's features and the teacher's, through a learnt projection where their sizes
    differ; `similarity` the KL divergence of the batch's similarities, which takes a CLIP model.
    """

    model: str = ""
    image: str = ""
    image_size: int = 224
    features: float = 1.0
    similarity: float = 1.0


def check_distill(distill: Distill, where: str) -> None:
    """Raise UsageError for weights that are no weights, and unless there is exactly one teacher."""
    if bool(distill.model) == bool(distill.image):
        raise UsageError(
            f"{where}: distill: name one teacher: `model`, a CLIP model, or `image`, an image "
            "network: an ONNX file below --data, or a package."
        )
    if distill.image and distill.image_size < 32:
        raise UsageError(f"{where}: distill: image_size must be 32 at least, not {distill.image_size}.")
    for key in ("features", "similarity"):
        if not 0 <= getattr(distill, key) < float("inf"):
            raise UsageError(
                f"{where}: distill: {key} must be a number from 0 on, not {getattr(distill, key)}."
            )


class ClipTeacher:
    """A frozen CLIP model that a student in training is compared with."""

    def __init__(self, settings: Distill) -> None:
        """Raises ModelNotFound, ModelInvalid."""
        loaded = load_folder(resolve(settings.model).folder)
        self.settings = settings
        self.preprocess, self.tokenizer = loaded.preprocess, loaded.tokenizer
        self.clip = loaded.model
        fold_batch_norms(self.clip.visual)
        self.clip.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def attach(self, student: Clip) -> None:
        """Give the student the projection into this teacher's space, where their sizes differ.

        It is trained and checkpointed with the student and left out of the model that is saved.
        """
        ours, theirs = student.config.embed_dim, self.clip.config.embed_dim
        if ours != theirs and self.settings.features:
            student.add_module(TRAINING_ONLY, nn.Linear(ours, theirs, bias=False))

    @torch.no_grad()
    def look(
        self, pixels_NYXC: npt.NDArray[np.uint8], texts: Sequence[str], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """The teacher's unit features of uint8 pixels (N, Y, X, 3) and of texts: (N, T), (M, T)."""
        self.clip.to(device)
        images = self.preprocess.normalise(pixels_NYXC, device)
        tokens = torch.from_numpy(self.tokenizer(texts)).to(device)
        image_NT, text_MT = self.clip.encode_image(images), self.clip.encode_text(tokens)
        return F.normalize(image_NT.float(), dim=-1), F.normalize(text_MT.float(), dim=-1)

    def terms(
        self,
        student: Clip,
        seen: tuple[Tensor, Tensor],
        image_NE: Tensor,
        text_ME: Tensor,
        told: Sequence[int],
        scale: Tensor,
        world: World = ALONE,
    ) -> dict[str, Tensor]:
        """The weighted terms of the loss; of several processes each gives its share.

        `seen` is what `look` gave; `image_NE` and `text_ME` are the student's unit features of the same. The
        first texts are those of the images `told`; others have no image. `scale` multiplies cosines.
        """
        image_NT, text_MT = seen
        counts = world.counts(len(image_NE), len(text_ME), len(told))
        images, texts, _ = (counts[world.rank] / counts.sum(dim=0).clamp(min=1)).tolist()
        terms: dict[str, Tensor] = {}
        if self.settings.features:
            of_images = images * cosine_distance(self._projected(student, image_NE), image_NT)
            of_texts = texts * cosine_distance(self._projected(student, text_ME), text_MT)
            terms["features"] = self.settings.features * (of_images + of_texts) / 2
        if self.settings.similarity:
            rows, each = list(told), counts[:, 2].tolist()
            ours = _logits(image_NE[rows], text_ME[: len(rows)], scale, world, each)
            theirs = _logits(image_NT[rows], text_MT[: len(rows)], self.clip.logit_scale.exp(), world, each)
            parts = [_divergence(student, teacher) for student, teacher in zip(ours, theirs, strict=True)]
            terms["similarity"] = self.settings.similarity * (parts[0] + parts[1]) / (2 * max(1, sum(each)))
        return terms

    @staticmethod
    def _projected(student: Clip, rows_NE: Tensor) -> Tensor:
        projection = getattr(student, TRAINING_ONLY, None)
        return rows_NE if projection is None else F.normalize(projection(rows_NE), dim=-1)


def similarity_divergence(student_NN: Tensor, teacher_NN: Tensor) -> Tensor:
    """KL divergence of the student's softmax from the teacher's, over texts and over images, averaged.

    Logits (images, texts) in, a scalar out: sum of p_t (log p_t - log p_s), mean over rows and columns.
    """
    parts = _divergence(student_NN, teacher_NN) + _divergence(student_NN.T, teacher_NN.T)
    return parts / (2 * len(student_NN))


def _logits(
    image_NE: Tensor, text_NE: Tensor, scale: Tensor, world: World, counts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Our images with the texts of all processes, our texts with all images: (N, M) twice."""
    all_image_ME, all_text_ME = world.gather(image_NE, counts), world.gather(text_NE, counts)
    return scale * image_NE @ all_text_ME.T, scale * text_NE @ all_image_ME.T


def _divergence(student_NM: Tensor, teacher_NM: Tensor) -> Tensor:
    """KL divergence of the student's softmax over a row from the teacher's, summed over rows."""
    return F.kl_div(
        student_NM.log_softmax(dim=1), teacher_NM.log_softmax(dim=1), reduction="sum", log_target=True
    )
