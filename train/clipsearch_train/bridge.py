"""A common space for two teachers that never met.

The image teacher was trained on class labels, the text teacher on sentences. Two small projections,
trained on the captioned and labelled images over frozen features, put both into one space; seconds an
epoch, since no tower runs. What they give is the target that the student's towers are distilled to.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.errors import TrainingError
from clipsearch.model import INITIAL_LOGIT_SCALE
from clipsearch_train import recipe as recipes
from clipsearch_train.corpus import say
from clipsearch_train.data import Sample
from clipsearch_train.ensemble import WARM_UP, imitate
from clipsearch_train.frozen import TrunkViews
from clipsearch_train.kinds import kinds, members
from clipsearch_train.loss import contrastive_loss

Report = Callable[[str, int, int], None]


class Projections(nn.Module):
    """Two-layer perceptrons, or for texts a matrix, from each teacher's features into the common space."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        embed_dim: int,
        config: recipes.Bridge,
        *,
        linear_text: bool = False,
    ) -> None:
        """With `linear_text` the text half is one matrix, which a tower's own projection can take in."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(image_dim))
        self.register_buffer("std", torch.ones(image_dim))
        self.text_scale = math.sqrt(text_dim)  # unit rows to unit variance
        self.input_dropout = config.input_dropout
        self.image = _perceptron(image_dim, embed_dim, config)
        self.text = _matrix(text_dim, embed_dim) if linear_text else _perceptron(text_dim, embed_dim, config)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.class_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.kind_scale = nn.Parameter(torch.tensor(math.log(20.0)))

    def take_texts(self, other: Projections) -> None:
        """Take over the text half of another bridge, which learns no more here, and how sure it is."""
        self.text.load_state_dict(other.text.state_dict())
        self.text.requires_grad_(False)
        for ours, theirs in zip(self._scales(), other._scales(), strict=True):
            ours.data.copy_(theirs.data)

    def _scales(self) -> tuple[nn.Parameter, ...]:
        return self.logit_scale, self.class_scale, self.kind_scale

    def embed_images(self, features: Tensor) -> Tensor:
        """(N, image_dim) -> (N, E) unit rows."""
        standard = (features - self.mean) / self.std
        return F.normalize(self.image(F.dropout(standard, self.input_dropout, self.training)), dim=-1)

    def embed_texts(self, features: Tensor) -> Tensor:
        """(N, text_dim) -> (N, E) unit rows."""
        return F.normalize(self.text(features * self.text_scale), dim=-1)


def _matrix(features: int, embed_dim: int) -> nn.Linear:
    """A projection that begins by changing nothing."""
    matrix = nn.Linear(features, embed_dim, bias=False)
    nn.init.eye_(matrix.weight)
    return matrix


def _perceptron(features: int, embed_dim: int, config: recipes.Bridge) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, config.hidden),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, embed_dim, bias=False),
    )


@dataclass(frozen=True)
class TeacherSpace:
    """Teacher features of every sample and every text, and who says what.

    `row_of` finds a text's row; `class_rows` lists the rows of each class's names and prompts, `kind_rows`
    those of each kind of each group of `clipsearch_train.kinds`;
    `class_logits` are the image teacher's opinions of each sample, `views` more looks at some of them.
    """

    samples: Sequence[Sample]
    image_features: Tensor
    class_logits: Tensor
    text_features: Tensor
    row_of: dict[str, int]
    class_rows: Sequence[Sequence[int]]
    kind_rows: Sequence[Sequence[Sequence[int]]] = ()
    views: TrunkViews | None = None

    def look(self, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Image features of samples, of a random view of each where there are several: (n, image_dim)."""
        if self.views is None:
            return self.image_features[rows]
        return torch.from_numpy(self.views.some(rows, rng))


def fit(space: TeacherSpace, config: recipes.Recipe, report: Report) -> Projections:
    """Train the projections: captions and labels contrastively, opinions by their KL divergence.

    Of several `members` the first brings the text half, the others learn an image half each beside it, and
    one image half learns what they say in the mean (`clipsearch_train.ensemble`). Raises TrainingError where
    no sample has a caption.
    """
    settings = config.bridge
    first = _new(space, config, config.seed)
    _fit(first, space, config, config.seed, partial(report, "bridge"))
    members = [first]
    for number in range(2, settings.members + 1):
        seed, stage = config.seed + number - 1, f"bridge {number} of {settings.members}"
        member = _new(space, config, seed)
        member.take_texts(first)
        _fit(member, space, config, seed, partial(report, stage))
        members.append(member)
    return first if settings.members == 1 else _merged(members, space, config, report)


def _new(space: TeacherSpace, config: recipes.Recipe, seed: int) -> Projections:
    torch.manual_seed(seed)
    bridge = Projections(
        space.image_features.shape[1],
        space.text_features.shape[1],
        config.model.embed_dim,
        config.bridge,
        linear_text=config.teacher is not None and config.teacher.text == recipes.START,
    )
    bridge.mean.copy_(space.image_features.mean(0))
    bridge.std.copy_(space.image_features.std(0) + 1e-3)
    return bridge


def _merged(
    members: Sequence[Projections], space: TeacherSpace, config: recipes.Recipe, report: Report
) -> Projections:
    """The first member with an image half that gives the mean of all."""
    settings, seed = config.bridge, config.seed + len(members)
    merged = copy.deepcopy(members[0])
    for dropout in (module for module in merged.image if isinstance(module, nn.Dropout)):
        dropout.p = settings.merge_dropout
    merged.input_dropout = settings.merge_dropout
    merged.image.requires_grad_(True)
    merged.train()
    torch.manual_seed(seed)
    imitate(
        merged.embed_images,
        list(merged.image.parameters()),
        [member.embed_images for member in members],
        lambda count, rng: space.look(rng.integers(len(space.samples), size=count), rng),
        steps=settings.merge_steps,
        lr=settings.lr,
        rng=np.random.default_rng(seed),
        report=partial(report, "bridge, merged"),
    )
    return merged.eval().requires_grad_(False)


def _fit(
    bridge: Projections,
    space: TeacherSpace,
    config: recipes.Recipe,
    seed: int,
    report: Callable[[int, int], None],
) -> None:
    settings, rng = config.bridge, np.random.default_rng(seed)
    captioned = _rows(space.samples, lambda sample: bool(sample.captions))
    labelled = _rows(space.samples, lambda sample: bool(sample.labels))
    how_often = np.array([config.data.weights.get(sample.source, 1.0) for sample in space.samples])
    if not len(captioned):
        raise TrainingError("No sample has a caption, which joining two teachers needs.")
    size = min(512, len(captioned))
    steps = settings.epochs * max(1, len(captioned) // size)
    learning = [weight for weight in bridge.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.lr, total_steps=steps, pct_start=WARM_UP
    )
    for step in range(steps):
        loss = _caption_loss(bridge, space, _some(captioned, size, how_often, rng), config, rng)
        if settings.label_weight and len(labelled):
            chosen = _some(labelled, min(size, len(labelled)), how_often, rng)
            loss = loss + settings.label_weight * _caption_loss(bridge, space, chosen, config, rng)
        loss = loss + _opinion_loss(bridge, space, size, settings, rng)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        report(step + 1, steps)
    bridge.eval().requires_grad_(False)


def _rows(samples: Sequence[Sample], wanted: Callable[[Sample], bool]) -> npt.NDArray[np.int64]:
    return np.array([row for row, sample in enumerate(samples) if wanted(sample)], dtype=np.int64)


def _some(
    rows: npt.NDArray[np.int64], size: int, how_often: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Different ones of these rows, drawn as often as their sources' weights say."""
    shares = how_often[rows]
    size = min(size, int((shares > 0).sum()))
    return rng.choice(rows, size, replace=False, p=shares / shares.sum())


def _caption_loss(
    bridge: Projections,
    space: TeacherSpace,
    rows: npt.NDArray[np.int64],
    config: recipes.Recipe,
    rng: np.random.Generator,
) -> Tensor:
    texts = [say(space.samples[row], config.data.templates, rng) for row in rows]
    known = [k for k, text in enumerate(texts) if text in space.row_of]
    if not known:
        return torch.zeros(())
    text_rows = torch.tensor([space.row_of[str(texts[k])] for k in known])
    images = bridge.embed_images(space.look(rows[known], rng))
    return contrastive_loss(
        images,
        bridge.embed_texts(space.text_features[text_rows]),
        text_rows,
        bridge.logit_scale.exp().clamp(max=100),
    )


def _opinion_loss(
    bridge: Projections, space: TeacherSpace, size: int, settings: recipes.Bridge, rng: np.random.Generator
) -> Tensor:
    """What the image teacher thinks of any samples, in the words of classes and of kinds."""
    rows = rng.integers(len(space.samples), size=size)
    images, logits = bridge.embed_images(space.look(rows, rng)), space.class_logits[rows]
    loss = torch.zeros(())
    if settings.class_weight and space.class_rows:
        wanted = logits[:, : len(space.class_rows)].softmax(dim=1)
        guessed = _log_shares(bridge, space, images, space.class_rows, bridge.class_scale, rng)
        loss = loss + settings.class_weight * F.kl_div(guessed, wanted, reduction="batchmean")
    for group, kind_rows in zip(kinds(), space.kind_rows, strict=False):  # none where they are not wanted
        shares = logits.softmax(dim=1) @ members(group)
        # What belongs to no kind of the group counts for nothing.
        mass = shares.sum(dim=1, keepdim=True)
        guessed = _log_shares(bridge, space, images, kind_rows, bridge.kind_scale, rng)
        distance = F.kl_div(guessed, shares / mass.clamp(min=1e-6), reduction="none").sum(dim=1)
        loss = loss + settings.kind_weight * (mass[:, 0] * distance).mean()
    return loss


def _log_shares(
    bridge: Projections,
    space: TeacherSpace,
    images: Tensor,
    named: Sequence[Sequence[int]],
    scale: Tensor,
    rng: np.random.Generator,
) -> Tensor:
    """How the images (N, E) fall to K things, each under a random one of its names: log shares (N, K)."""
    prompts = torch.tensor([rows[int(rng.integers(len(rows)))] for rows in named])
    texts = bridge.embed_texts(space.text_features[prompts])
    logits: Tensor = scale.exp().clamp(max=100) * images @ texts.T
    return logits.log_softmax(dim=1)
