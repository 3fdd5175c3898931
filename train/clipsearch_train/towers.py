"""Both towers as one module: pixels and tokens in, unit rows out, in the precision of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.model import Clip
from clipsearch_train.compute import autocast

MOST_GROUPS = 8
LEAST_IN_GROUP = 32


class Towers(nn.Module):
    """A CLIP model as a function of a batch; `dtype` is what matrices are multiplied in, None for fp32.

    Texts are encoded `by_length`, short ones beside short ones, where computing what stands behind the end
    of a text costs more than several small calls.
    """

    def __init__(
        self, model: Clip, device: torch.device, dtype: torch.dtype | None, *, by_length: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self._by_length = by_length
        self._device, self._dtype = device, dtype

    def forward(self, image_NCYX: Tensor, tokens_ML: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, Y, X) normalised pixels, (M, L) tokens -> unit rows (N, E), (M, E) in single precision.

        In place of pixels there may be what the image tower's trunk made of them, (N, F).
        """
        with autocast(self._device, self._dtype):
            if image_NCYX.ndim == 2:
                image_NE = self.model.visual.get_submodule("head")(image_NCYX)
            else:
                image_NE = self.model.encode_image(image_NCYX)
            text_ME = self._texts(tokens_ML)
        return F.normalize(image_NE.float(), dim=-1), F.normalize(text_ME.float(), dim=-1)

    def _texts(self, tokens_ML: Tensor) -> Tensor:
        if not self._by_length or len(tokens_ML) < 2 * LEAST_IN_GROUP:
            return self.model.encode_text(tokens_ML)
        order_M = tokens_ML.argmax(dim=-1).argsort(stable=True)
        groups = order_M.chunk(min(MOST_GROUPS, len(order_M) // LEAST_IN_GROUP))
        rows = torch.cat([self.model.encode_text(tokens_ML[group]) for group in groups])
        return rows[order_M.argsort()]


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
