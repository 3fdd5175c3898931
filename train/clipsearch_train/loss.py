"""The symmetric contrastive objective (paper figure 3), with several positives where captions repeat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def caption_groups(texts: Sequence[str]) -> Tensor:
    """A number for each text, the same for equal ones: (N,)."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])


def contrastive_loss(image_NE: Tensor, text_NE: Tensor, group_N: Tensor, scale: Tensor | float) -> Tensor:
    """Cross-entropy over images and over texts, averaged; unit rows in, a scalar out.

    Rows of equal `group_N` are positives of each other: labelled data repeats captions, and a repeated
    caption is no negative. With all groups distinct this is InfoNCE.
    """
    logits_NN = scale * image_NE @ text_NE.T
    positive_NN = (group_N[:, None] == group_N[None, :]).to(logits_NN.dtype)
    target_NN = positive_NN / positive_NN.sum(dim=1, keepdim=True)
    over_texts = -(target_NN * F.log_softmax(logits_NN, dim=1)).sum(dim=1).mean()
    over_images = -(target_NN * F.log_softmax(logits_NN, dim=0)).sum(dim=0).mean()
    return (over_texts + over_images) / 2


def bank_loss(query_NE: Tensor, key_NE: Tensor, bank_ME: Tensor, scale: Tensor | float) -> Tensor:
    """InfoNCE of each row with its own key against a bank of M constant negatives."""
    own_N1 = (query_NE * key_NE).sum(dim=-1, keepdim=True)
    logits = scale * F.pad(query_NE @ bank_ME.T, (1, 0))
    logits[:, :1] = scale * own_N1
    return -F.log_softmax(logits, dim=1)[:, 0].mean()


def cosine_distance(student_NE: Tensor, teacher_NE: Tensor) -> Tensor:
    """Mean of one minus the cosine, unit rows in."""
    return 1 - (student_NE * teacher_NE).sum(dim=-1).mean()
