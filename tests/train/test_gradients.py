"""The gradient of a step does not depend on how its batch is dealt out."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipsearch.model import Block, Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch_train.batches import Batch
from clipsearch_train.compute import Compute
from clipsearch_train.data import Sample
from clipsearch_train.distributed import World
from clipsearch_train.gradients import Gradients
from clipsearch_train.objective import Objective, prepare
from clipsearch_train.recipe import Loss, Optim, Recipe

BATCH = 64
WORDS = ("red", "green", "blue", "small", "large", "old", "new", "wet", "dry", "round", "flat", "soft")


def tokenizer() -> ClipTokenizer:
    return ClipTokenizer.train([f"a {word} thing" for word in WORDS], 600, 12)


def whole_batch() -> Batch:
    """64 pairs: every text stands five or six times, all over the batch, and three images have none."""
    rng = np.random.default_rng(0)
    texts: list[str | None] = [f"a {WORDS[place % len(WORDS)]} thing" for place in range(BATCH)]
    for place in (0, 3, 40):
        texts[place] = None
    pixels = rng.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
    return Batch(np.arange(BATCH), pixels, texts, [f"the {word} one" for word in WORDS])


def share(batch: Batch, world: World) -> Batch:
    places, extra = world.part(BATCH), world.part(len(batch.extra))
    return Batch(batch.rows[places], batch.pixels[places], batch.texts[places], batch.extra[extra])


class Teachers:
    """Targets of a distillation: random, and not for every text."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self._rows = torch.nn.functional.normalize(torch.randn(BATCH + 600, 16), dim=-1)

    def image(self, rows: Any) -> torch.Tensor:
        return self._rows[rows]

    def text(self, texts: Any) -> tuple[list[int], torch.Tensor]:
        known = [row for row, text in enumerate(texts) if "red" not in text]
        return known, self._rows[[BATCH + len(texts[row]) for row in known]]

    def bank(self, size: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return self._rows[rng.integers(600, size=size)], self._rows[rng.integers(600, size=size)]


def samples() -> list[Sample]:
    """What the batch was drawn from; what is said of reds are labels, and unknown to the teachers."""
    texts = whole_batch().texts
    return [
        Sample(str(place), b"", "", () if text is None or "red" in text else (text,), ())
        for place, text in enumerate(texts)
    ]


def gradients(
    kind: str, accumulate: int, world: World, *, checkpointing: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    torch.manual_seed(0)
    words = tokenizer()
    model = Clip(
        ClipConfig(16, VisionConfig(32, 2, 32, 16, 16), TextConfig(12, words.vocab_size, 32, 2, 2))
    ).train()
    loss = Loss(
        kind=kind,
        label_smoothing=0.1 if kind == "softmax" else 0.0,
        image_distill=0.5,
        text_distill=0.7,
        bank=20,
    )
    recipe = Recipe(
        "test", model.config, loss=loss, optim=Optim(batch=BATCH), compute=Compute(accumulate=accumulate)
    )
    prepare(model, loss)
    model.set_checkpointing(checkpointing)
    objective = Objective(recipe, samples(), Teachers(), world)  # type: ignore[arg-type]
    filled = Gradients(model, objective, Preprocess(32), words, recipe, world)
    terms = filled.fill(share(whole_batch(), world), step=0)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == dict(model.named_parameters()).keys()
    return found, terms


def expect_equal(
    ours: tuple[dict[str, torch.Tensor], dict[str, float]],
    wanted: tuple[dict[str, torch.Tensor], dict[str, float]],
) -> None:
    assert ours[1] == pytest.approx(wanted[1], rel=1e-5)
    assert set(ours[1]) == {"contrastive", "image", "text", "bank"}
    for name, gradient in wanted[0].items():
        size = gradient.abs().max()
        assert size > 0, f"{name} learns"
        assert (ours[0][name] - gradient).abs().max() < 1e-4 * size + 1e-7, name


ALONE = World(torch.device("cpu"))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("pieces", [4, 64])
def test_accumulation_keeps_the_negatives_of_the_whole_batch(kind: str, pieces: int) -> None:
    expect_equal(gradients(kind, pieces, ALONE), gradients(kind, 1, ALONE))


def test_checkpointing_computes_activations_again_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[int] = []
    forward = Block.forward

    def counted(block: Block, *arguments: Any) -> torch.Tensor:
        runs.append(1)
        return forward(block, *arguments)

    monkeypatch.setattr(Block, "forward", counted)
    wanted = gradients("softmax", 1, ALONE)
    once = len(runs)
    expect_equal(gradients("softmax", 1, ALONE, checkpointing=True), wanted)
    assert len(runs) - once == 2 * once


def test_pieces_alone_would_not_do() -> None:
    """The test above can fail: the mean of the gradients of four small batches is another one."""
    wanted, _ = gradients("softmax", 1, ALONE)
    quarters = [
        share(whole_batch(), replace(ALONE, rank=rank, size=4)) for rank in range(4)
    ]  # not asked of any process
    assert sum(len(quarter.texts) for quarter in quarters) == BATCH
    torch.manual_seed(0)
    words = tokenizer()
    model = Clip(ClipConfig(16, VisionConfig(32, 2, 32, 16, 16), TextConfig(12, words.vocab_size, 32, 2, 2)))
    recipe = Recipe("test", model.config, loss=Loss(label_smoothing=0.1))
    parts = []
    for quarter in quarters:
        Gradients(model, Objective(recipe, [], None, ALONE), Preprocess(32), words, recipe, ALONE).fill(
            quarter, 0
        )
        parts.append(model.visual.conv1.weight.grad)
    mean = torch.stack(parts).mean(dim=0)  # type: ignore[arg-type]
    gradient = wanted["visual.conv1.weight"]
    assert (mean - gradient).abs().max() > 0.05 * gradient.abs().max()


def worker(folder: Path) -> None:
    """What each process does in the test below."""
    torch.set_num_threads(1)
    world = World.join("cpu")
    assert world.size == 2
    for kind in ("softmax", "sigmoid"):
        for accumulate in (1, 2):
            found = gradients(kind, accumulate, world)
            torch.save(found, folder / f"{kind}-{accumulate}-{world.rank}.pt")
    world.leave()


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    """2 gloo processes × 32, also in two pieces each; captions repeat across the processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.train.test_gradients", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for kind in ("softmax", "sigmoid"):
        wanted = gradients(kind, 1, ALONE)
        for name in (f"{kind}-{pieces}-{rank}" for pieces in (1, 2) for rank in range(2)):
            expect_equal(torch.load(tmp_path / f"{name}.pt", weights_only=True), wanted)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
