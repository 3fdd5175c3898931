"""A text tower that begins as a bag of words.

What a text means to the teachers is, to a good first guess, the mean of what its tokens mean. That guess is a
linear model, which a minute fits to all texts; a transformer that is set up to compute it begins where many
thousand steps from random weights would lead, and learns the rest: order, attributes, context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clipsearch.errors import UsageError
from clipsearch.model import Block, Clip, ClipConfig

Report = Callable[[str, int, int], None]

# Two directions of the width are set apart from the meaning, to give all tokens the same length.
APART = 2
# Token vectors are this long before the first layer norm (in standard deviations), so that a token's own
# vector is small beside the mean over the text, and the mean is this many times as long.
OWN, MEAN = 0.1, 4.0
# Of the usual scale of what random layers add to the residual stream.
QUIET = 0.1
# The learning rate rises for one step in so many.
FEWEST = 20
# Of vectors to be shortened to the length that all others are padded to.
LONGEST = 0.999


@dataclass(frozen=True)
class Bag:
    """How the linear model is fitted: Adam over `epochs` of the texts, `batch` of them a step."""

    epochs: int = 6
    batch: int = 2048
    lr: float = 1e-2


def check_bag(bag: Bag, model: ClipConfig, where: str) -> None:
    """Raise UsageError for a value that makes no sense or a text tower that cannot begin so."""
    if bag.epochs < 1 or bag.batch < 1 or not 0 < bag.lr < float("inf"):
        raise UsageError(f"{where}: bag: epochs and batch must be 1 at least and lr above 0.")
    if model.text.width != model.embed_dim:
        raise UsageError(
            f"{where}: bag: a text tower that begins as a bag of words must be as wide as the embedding; "
            f"model: text: width is {model.text.width}, embed_dim {model.embed_dim}."
        )


def fit_bag(
    tokens_ML: Tensor, target_ME: Tensor, vocab_size: int, bag: Bag, seed: int, report: Report
) -> Tensor:
    """A vector of each token, (vocab_size, E), such that their mean over a text is near the text's target.

    `tokens_ML` are token ids, each row with an end of text, the highest id.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths_M = tokens_ML.argmax(dim=1) + 1
    vectors = nn.Embedding(vocab_size, target_ME.shape[1])
    nn.init.normal_(vectors.weight, std=0.02, generator=generator)
    optimiser = torch.optim.Adam(vectors.parameters(), lr=bag.lr)
    steps = max(1, bag.epochs * len(tokens_ML) // bag.batch)
    # A rise of less than a step would divide by zero.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, bag.lr, total_steps=max(steps, 2 * FEWEST), pct_start=1 / FEWEST
    )
    for step in range(steps):
        rows = torch.randint(len(tokens_ML), (min(bag.batch, len(tokens_ML)),), generator=generator)
        mean = _mean(vectors, tokens_ML[rows], lengths_M[rows])
        loss = (mean - target_ME[rows]).square().sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        report("bag of words", step + 1, steps)
    return vectors.weight.detach()


def _mean(vectors: nn.Embedding, tokens_ML: Tensor, lengths_M: Tensor) -> Tensor:
    longest = int(lengths_M.max())
    within_ML = torch.arange(longest) < lengths_M[:, None]
    summed: Tensor = (vectors(tokens_ML[:, :longest]) * within_ML[..., None]).sum(dim=1)
    return summed / lengths_M[:, None]


@torch.no_grad()
def begin_as_bag(model: Clip, vectors_VE: Tensor, target_ME: Tensor, seed: int) -> None:
    """Set the text tower up to compute about the mean of the vectors of a text's tokens.

    The first block attends to all tokens alike and adds the mean of their vectors; the projection turns it
    back. Layer norm would give every token the same say, so each vector is padded, along two directions of
    opposite sign whose mean is zero, to the same length; the attention leaves these directions out. The
    vectors lose the two principal directions of the targets that say least.
    """
    generator = torch.Generator().manual_seed(seed)
    width = vectors_VE.shape[1]
    kept = width - APART
    basis_ER = _principal(target_ME, kept)
    vectors_VR = vectors_VE @ basis_ER
    lengths_V = vectors_VR.norm(dim=1)
    longest = lengths_V.quantile(LONGEST)
    vectors_VR = vectors_VR * (longest / lengths_V.clamp(min=float(longest)))[:, None]
    padding_V = ((longest**2 - vectors_VR.square().sum(dim=1)).clamp(min=0) / APART).sqrt()
    padded_VD = torch.cat([vectors_VR, padding_V[:, None], -padding_V[:, None]], dim=1)
    model.token_embedding.weight.copy_(padded_VD * (OWN * width**0.5 / longest))
    model.positional_embedding.normal_(std=0.1 * OWN, generator=generator)
    for number, block in enumerate(model.transformer.resblocks):
        assert isinstance(block, Block)
        attention = block.attn
        attention.in_proj_weight[: 2 * width].normal_(std=0.3 * width**-0.5, generator=generator)
        attention.out_proj.weight.mul_(QUIET)
        block.mlp.c_proj.weight.mul_(QUIET)
        if number == 0:
            attention.in_proj_weight[2 * width :].copy_(torch.eye(width))
            attention.out_proj.weight.copy_(MEAN * torch.diag((torch.arange(width) < kept).float()))
    model.text_projection.zero_()
    model.text_projection[:kept].copy_(basis_ER.T)


def _principal(target_ME: Tensor, count: int) -> Tensor:
    """The `count` principal directions of unit rows, the strongest first: (E, count)."""
    some = target_ME[:: max(1, len(target_ME) // 20_000)]
    _, directions = torch.linalg.eigh(some.T @ some)
    strongest: Tensor = directions[:, -count:].flip(1)
    return strongest
