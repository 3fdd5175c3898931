"""One image half of a bridge in the place of several.

Halves that began at other random weights err differently, so the mean of their embeddings is better than
each. One of the same size is trained to give that mean (distillation of an ensemble, Hinton et al. 2015,
arXiv 1503.02531), also for mixtures of two images' features (mixup, Zhang et al. 2018, arXiv 1710.09412),
which keep it from learning the answers by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIXTURE = 0.3  # both parameters of the Beta distribution of the shares: most are near 0 or 1
BATCH = 512
WARM_UP = 0.051  # not 0.05: where the share is a single step, OneCycleLR divides by zero

Draw = Callable[[int, np.random.Generator], Tensor]
Embed = Callable[[Tensor], Tensor]


def mean_embedding(halves: Sequence[Embed], features: Tensor) -> Tensor:
    """The mean direction of what several halves say of features (N, F): unit rows (N, E)."""
    return F.normalize(torch.stack([half(features) for half in halves]).sum(dim=0), dim=-1)


def imitate(
    student: Embed,
    weights: Sequence[nn.Parameter],
    halves: Sequence[Embed],
    draw: Draw,
    *,
    steps: int,
    lr: float,
    rng: np.random.Generator,
    report: Callable[[int, int], None],
) -> None:
    """Train `weights`, through which `student` embeds, to give the mean of `halves`: cosine distance, AdamW.

    `draw` gives features (n, F) of n random images.
    """
    optimiser = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=WARM_UP)
    for step in range(steps):
        shares = torch.from_numpy(rng.beta(MIXTURE, MIXTURE, (BATCH, 1)).astype(np.float32))
        mixed = shares * draw(BATCH, rng) + (1 - shares) * draw(BATCH, rng)
        with torch.no_grad():
            wanted = mean_embedding(halves, mixed)
        loss = 1 - (student(mixed) * wanted).sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        report(step + 1, steps)
