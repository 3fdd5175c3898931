"""The contrastive objectives, with several positives where captions repeat, and the terms of distillation.

Each process of a run compares its own N rows with all M rows of the batch ("local loss"); what the processes
find adds up to the loss of the whole batch. Shape suffixes: N rows here, M rows of all, E embedding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# SigLIP (Zhai et al. 2023, arXiv 2303.15343, §3.2): t' = log 10 and b = -10, so that the many negatives of
# the first steps lose next to nothing.
INITIAL_SIGMOID_SCALE = math.log(10.0)
INITIAL_SIGMOID_BIAS = -10.0


def caption_groups(texts: Sequence[str]) -> Tensor:
    """A number for each text, the same for equal ones in every process: int64 (N,)."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8) for text in texts)
    numbers = [int.from_bytes(digest.digest(), "big", signed=True) for digest in digests]
    return torch.tensor(numbers, dtype=torch.int64)


@dataclass(frozen=True)
class Pairs:
    """Unit rows of N images and their texts, and of all M pairs that they are compared with.

    Pairs of equal group are positives of each other: labelled data repeats captions, and a repeated caption
    is no negative.
    """

    image_NE: Tensor
    text_NE: Tensor
    group_N: Tensor
    all_image_ME: Tensor
    all_text_ME: Tensor
    all_group_M: Tensor

    @classmethod
    def whole(cls, image_NE: Tensor, text_NE: Tensor, group_N: Tensor) -> Pairs:
        """A batch that lies in one process."""
        return cls(image_NE, text_NE, group_N, image_NE, text_NE, group_N)

    def positive(self) -> Tensor:
        """Which of all pairs are positives of each of ours: bool (N, M)."""
        return self.group_N[:, None] == self.all_group_M[None, :]


def softmax_loss(pairs: Pairs, scale: Tensor | float, smoothing: float = 0.0) -> Tensor:
    """InfoNCE over texts and over images, averaged (paper figure 3); the N rows' share of the mean over M.

    Each row's target is spread evenly over its positives, and a part of `smoothing` over all M (Szegedy et
    al. 2016, arXiv 1512.00567, §7). With all groups distinct and no smoothing this is the paper's loss.
    """
    positive_NM = pairs.positive().to(pairs.image_NE.dtype)
    target_NM = (1 - smoothing) * positive_NM / positive_NM.sum(dim=1, keepdim=True)
    target_NM = target_NM + smoothing / len(pairs.all_group_M)
    total = pairs.image_NE.new_zeros(())
    for ours_NE, all_ME in ((pairs.image_NE, pairs.all_text_ME), (pairs.text_NE, pairs.all_image_ME)):
        logits_NM = scale * ours_NE @ all_ME.T
        # Cross-entropy with targets that sum to one: log-sum-exp minus the expected logit.
        total = total + (logits_NM.logsumexp(dim=1) - (target_NM * logits_NM).sum(dim=1)).sum()
    return total / (2 * len(pairs.all_group_M))


def sigmoid_loss(pairs: Pairs, scale: Tensor | float, bias: Tensor | float) -> Tensor:
    """SigLIP's loss: every image with every text is a yes or a no of its own; summed over N·M, divided by M.

    Zhai et al. 2023, arXiv 2303.15343, eq. 1; here every pair of equal group is a yes.
    """
    logits_NM = scale * pairs.image_NE @ pairs.all_text_ME.T + bias
    sign_NM = pairs.positive().to(logits_NM.dtype) * 2 - 1
    return -F.logsigmoid(sign_NM * logits_NM).sum() / len(pairs.all_group_M)


def contrastive_loss(image_NE: Tensor, text_NE: Tensor, group_N: Tensor, scale: Tensor | float) -> Tensor:
    """`softmax_loss` of a batch in one process; unit rows in, a scalar out."""
    return softmax_loss(Pairs.whole(image_NE, text_NE, group_N), scale)


def bank_loss(query_NE: Tensor, key_NE: Tensor, bank_ME: Tensor, scale: Tensor | float) -> Tensor:
    """InfoNCE of each row with its own key against a bank of M constant negatives."""
    own_N1 = (query_NE * key_NE).sum(dim=-1, keepdim=True)
    logits = scale * F.pad(query_NE @ bank_ME.T, (1, 0))
    logits[:, :1] = scale * own_N1
    return -F.log_softmax(logits, dim=1)[:, 0].mean()


def cosine_distance(student_NE: Tensor, teacher_NE: Tensor) -> Tensor:
    """Mean of one minus the cosine, unit rows in."""
    return 1 - (student_NE * teacher_NE).sum(dim=-1).mean()
