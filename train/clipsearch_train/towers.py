"""Both towers as one module: pixels and tokens in, unit rows out, in the precision of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.model import Clip
from clipsearch_train.compute import autocast


class Towers(nn.Module):
    """A CLIP model as a function of a batch; `dtype` is what matrices are multiplied in, None for fp32."""

    def __init__(self, model: Clip, device: torch.device, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.model = model
        self._device, self._dtype = device, dtype

    def forward(self, image_NCYX: Tensor, tokens_ML: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, Y, X) normalised pixels, (M, L) tokens -> unit rows (N, E), (M, E) in single precision."""
        with autocast(self._device, self._dtype):
            image_NE = self.model.encode_image(image_NCYX)
            text_ME = self.model.encode_text(tokens_ML)
        return F.normalize(image_NE.float(), dim=-1), F.normalize(text_ME.float(), dim=-1)


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch norms in training use the batch's statistics, but do not take them into the running ones."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.training
        and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def buffers_restored(model: nn.Module) -> Iterator[None]:
    """Where the body fails, running statistics are again what they were: no half of a step is kept."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
        raise
