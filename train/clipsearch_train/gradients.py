"""The gradient of a step: the same whether a batch passes the towers whole, in pieces or on many processes.

The loss compares everything in a batch with everything else, so the towers and the loss are differentiated
apart: features first, then the loss of all features, whose gradient goes back through the towers. With
`accumulate` pieces the features are first computed without keeping activations and each piece is computed
again for its backward pass (GradCache: Gao et al. 2021, arXiv 2101.06983). With several processes each has
its part of the batch, and features are gathered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from clipsearch.model import Clip
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch_train import recipe as recipes
from clipsearch_train.batches import Batch
from clipsearch_train.distributed import World
from clipsearch_train.objective import Features, Objective, spoken
from clipsearch_train.towers import Towers, statistics_kept

# Parameters that only the loss uses, in no tower.
OF_THE_LOSS = ("logit_scale", "logit_bias", "distillation.")
Piece = tuple[slice, Tensor]


class Gradients:
    """Fills the gradients of a model's parameters for a batch.

    `scaler` multiplies the loss, as fp16 needs. Gradients are those of the loss of the whole batch, on every
    process; only a tower with batch norms sees its own piece's statistics.
    """

    def __init__(
        self,
        model: Clip,
        objective: Objective,
        preprocess: Preprocess,
        tokenizer: ClipTokenizer,
        recipe: recipes.Recipe,
        world: World,
        dtype: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.model, self.objective, self.world = model, objective, world
        self._preprocess, self._tokenizer = preprocess, tokenizer
        self._accumulate, self._seed = recipe.compute.accumulate, recipe.seed
        self._scaler = scaler or torch.amp.GradScaler(world.device.type, enabled=False)
        by_length = world.device.type == "cpu" and not recipe.compute.compile
        self._towers = Towers(model, world.device, dtype, by_length=by_length)
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        apart = [name for name in names if name.startswith(OF_THE_LOSS)]
        self._apart = [model.get_parameter(name) for name in apart]
        self._synced = world.wrap(self._towers, {f"model.{name}" for name in apart})

    def fill(self, batch: Batch, step: int) -> dict[str, float]:
        """Set every `.grad` and return the weighted terms of the loss of the whole batch.

        Where a term is not finite, gradients stay unset.
        """
        told, texts = spoken(batch)
        tokens_ML = torch.from_numpy(self._tokenizer([*texts, *batch.extra] or [""])).to(self.world.device)
        pieces = self._pieces(len(batch.pixels), tokens_ML)
        image_NE, text_ME = self._features(batch, pieces, step)
        image_leaf, text_leaf = (x.detach().requires_grad_() for x in (image_NE, text_ME))
        terms = self.objective.terms(self.model, Features(image_leaf, text_leaf, told, texts), batch, step)
        values = self.world.total(torch.stack([term.detach() for term in terms.values()]))
        reported: dict[str, float] = dict(zip(terms, values.tolist(), strict=True))
        if not all(map(math.isfinite, reported.values())):
            return reported
        for parameter in self.model.parameters():
            parameter.grad = None
        loss = torch.stack(list(terms.values())).sum()
        if loss.requires_grad:
            # The processes' gradients are averaged; the loss is their sum.
            self._scaler.scale(loss * self.world.size).backward()  # type: ignore[no-untyped-call]
        gradients = [
            torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in (image_leaf, text_leaf)
        ]
        self._sync_apart()
        if len(pieces) == 1:
            _backward((image_NE, text_ME), gradients)
        else:
            self._backward_again(batch, pieces, gradients, step)
        return reported

    def _pieces(self, images: int, tokens_ML: Tensor) -> list[Piece]:
        """The images and texts of each piece, as equal as can be; a piece has one of each at least."""
        count = min(self._accumulate, images, len(tokens_ML))
        bounds = [images * number // count for number in range(count + 1)]
        parts = torch.tensor_split(tokens_ML, count)
        return [(slice(bounds[number], bounds[number + 1]), parts[number]) for number in range(count)]

    def _features(self, batch: Batch, pieces: Sequence[Piece], step: int) -> tuple[Tensor, Tensor]:
        if len(pieces) == 1:
            return self._run(self._synced, batch, pieces, 0, step)
        with torch.no_grad(), statistics_kept(self.model):
            parts = [self._run(self._towers, batch, pieces, number, step) for number in range(len(pieces))]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _backward_again(
        self, batch: Batch, pieces: Sequence[Piece], gradients: Sequence[Tensor], step: int
    ) -> None:
        """Each piece's forward pass again, this time with its backward pass."""
        first_text = 0
        for number, (images, tokens) in enumerate(pieces):
            texts = slice(first_text, first_text + len(tokens))
            first_text = texts.stop
            last = number == len(pieces) - 1
            with self._unsynced(not last):
                features = self._run(self._synced, batch, pieces, number, step)
                _backward(features, (gradients[0][images], gradients[1][texts]))

    def _run(
        self, towers: torch.nn.Module, batch: Batch, pieces: Sequence[Piece], number: int, step: int
    ) -> tuple[Tensor, Tensor]:
        """The features of a piece; whatever is random in a tower is so alike each time."""
        images, tokens = pieces[number]
        seed = np.random.SeedSequence([self._seed, step, self.world.rank, number])
        torch.manual_seed(int(seed.generate_state(1)[0]))
        seen = batch.pixels[images]
        if seen.ndim == 4:
            looked = self._preprocess.normalise(seen, self.world.device)
        else:  # a locked trunk has looked already
            looked = torch.from_numpy(seen).to(self.world.device)
        features: tuple[Tensor, Tensor] = towers(looked, tokens)
        return features

    def _unsynced(self, wanted: bool) -> AbstractContextManager[None]:
        if wanted and isinstance(self._synced, DistributedDataParallel):
            held: AbstractContextManager[None] = self._synced.no_sync()
            return held
        return nullcontext()

    def _sync_apart(self) -> None:
        if self.world.size == 1:
            return
        for parameter in self._apart:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.world.total(own) / self.world.size


def _backward(features: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Push gradients of features into the towers; a locked tower has nothing to learn."""
    learning = [(x, grad) for x, grad in zip(features, gradients, strict=True) if x.requires_grad]
    if learning:
        torch.autograd.backward([x for x, _ in learning], [grad for _, grad in learning])
