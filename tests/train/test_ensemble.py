"""Several image halves of a bridge, and the one that takes their place."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clipsearch.errors import UsageError
from clipsearch_train.bridge import TeacherSpace, fit
from clipsearch_train.data import Sample
from clipsearch_train.ensemble import imitate, mean_embedding
from clipsearch_train.recipe import Bridge, Recipe, Teacher, load_recipe

WORDS = [f"thing {number}" for number in range(8)]


@pytest.fixture
def space() -> TeacherSpace:
    """Eight things, each seen sixteen times, in features that are theirs but for noise."""
    torch.manual_seed(3)
    texts = F.normalize(torch.randn(len(WORDS), 12), dim=-1)
    of = torch.arange(len(WORDS)).repeat(16)
    features = texts[of] @ torch.randn(12, 20) + 0.3 * torch.randn(len(of), 20)
    samples = [Sample(str(row), b"", "made", (WORDS[thing],), ()) for row, thing in enumerate(of.tolist())]
    return TeacherSpace(
        samples, features, torch.zeros(len(of), 4), texts, {word: row for row, word in enumerate(WORDS)}, []
    )


def recipe(**bridge: float) -> Recipe:
    settings = Bridge(hidden=16, dropout=0.1, epochs=200, lr=0.01, label_weight=0, class_weight=0, **bridge)  # type: ignore[arg-type]
    made = load_recipe(Path("train/recipes/mini-refit.toml"))
    return dataclasses.replace(
        made,
        bridge=settings,
        model=dataclasses.replace(made.model, embed_dim=12),
        teacher=Teacher("", "start"),
        data=dataclasses.replace(made.data, weights={}, templates=("{}",)),
    )


def quiet(*_: object) -> None:
    pass


def test_the_mean_is_a_direction() -> None:
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    mean = mean_embedding([lambda _: one, lambda _: other], torch.zeros(1, 3))
    torch.testing.assert_close(mean, torch.tensor([[0.5**0.5, 0.5**0.5]]))


def test_an_imitator_comes_near_the_mean_and_nothing_else_moves() -> None:
    torch.manual_seed(0)
    halves = [nn.Linear(6, 4, bias=False) for _ in range(3)]
    student = nn.Linear(6, 4, bias=False)
    before = [half.weight.clone() for half in halves]

    def embed(layer: nn.Linear) -> object:
        return lambda features: F.normalize(layer(features), dim=-1)

    images, steps = torch.randn(64, 6), []
    imitate(
        embed(student),  # type: ignore[arg-type]
        list(student.parameters()),
        [embed(half) for half in halves],  # type: ignore[misc]
        lambda count, rng: images[rng.integers(64, size=count)],
        steps=300,
        lr=0.02,
        rng=np.random.default_rng(0),
        report=lambda done, total: steps.append((done, total)),
    )
    unseen = torch.randn(64, 6)
    with torch.no_grad():
        wanted = mean_embedding([embed(half) for half in halves], unseen)  # type: ignore[misc]
        near = (embed(student)(unseen) * wanted).sum(dim=1)  # type: ignore[operator]
    assert near.mean() > 0.95
    assert all(torch.equal(half.weight, weight) for half, weight in zip(halves, before, strict=True))
    assert steps[-1] == (300, 300)


def test_members_share_the_texts_of_the_first_and_one_half_gives_their_mean(space: TeacherSpace) -> None:
    alone = fit(space, recipe(), quiet)
    stages: list[str] = []
    merged = fit(
        space,
        recipe(members=3, merge_steps=200, merge_dropout=0.0),
        lambda stage, done, total: stages.append(stage),
    )
    assert list(dict.fromkeys(stages)) == ["bridge", "bridge 2 of 3", "bridge 3 of 3", "bridge, merged"]
    for name, weight in alone.text.state_dict().items():
        assert torch.equal(weight, merged.text.state_dict()[name])
    assert not torch.equal(alone.image[0].weight, merged.image[0].weight)  # type: ignore[arg-type]
    assert not merged.training
    assert not any(weight.requires_grad for weight in merged.parameters())
    found = merged.embed_images(space.image_features) @ merged.embed_texts(space.text_features).T
    right = torch.tensor([space.row_of[sample.captions[0]] for sample in space.samples])
    assert (found.argmax(dim=1) == right).float().mean() > 0.9


@pytest.mark.parametrize("line", ["members = 0", "merge_steps = 0", "merge_dropout = 1.0"])
def test_what_makes_no_sense_is_refused(tmp_path: Path, line: str) -> None:
    key = line.split()[0]
    text = Path("train/recipes/mini-refit.toml").read_text()
    (tmp_path / "recipe.toml").write_text(re.sub(rf"^{key} = .*", line, text, flags=re.MULTILINE))
    with pytest.raises(UsageError, match=f"bridge: {key} must be"):
        load_recipe(tmp_path / "recipe.toml")
