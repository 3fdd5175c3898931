"""A text tower that begins as a bag of words."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipsearch.errors import UsageError
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch_train.bag import Bag, begin_as_bag, check_bag, fit_bag

VOCAB, WIDTH, START, END = 50, 32, 48, 49
VISION = VisionConfig(image_size=32, layers=1, width=32, patch_size=16, head_width=16)


def config(width: int = WIDTH) -> ClipConfig:
    return ClipConfig(WIDTH, VISION, TextConfig(12, VOCAB, width, 2, 3))


def quiet(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of 3 to 8 tokens whose targets are means of secret vectors: some tokens say much, some little."""
    rng = np.random.default_rng(0)
    secret = rng.standard_normal((VOCAB, WIDTH)) * np.where(np.arange(VOCAB) < 10, 0.05, 1)[:, None]
    tokens, targets = np.zeros((600, 12), np.int64), np.zeros((600, WIDTH))
    for row in range(600):
        said = rng.integers(0, 40, int(rng.integers(3, 9)))
        tokens[row, : len(said) + 2] = [START, *said, END]
        targets[row] = secret[said].mean(axis=0)
    return torch.from_numpy(tokens), F.normalize(torch.from_numpy(targets).float(), dim=-1)


def test_the_tower_begins_where_the_bag_is(texts: tuple[torch.Tensor, torch.Tensor]) -> None:
    tokens, targets = texts
    stages: set[str] = set()
    vectors = fit_bag(tokens, targets, VOCAB, Bag(60, 128), 0, lambda stage, *_: stages.add(stage))
    assert stages == {"bag of words"}
    ends = tokens.argmax(dim=1)
    bag = torch.stack([vectors[row[: end + 1]].mean(dim=0) for row, end in zip(tokens, ends, strict=True)])
    torch.manual_seed(0)
    model = Clip(config()).eval()
    with torch.inference_mode():
        before = F.cosine_similarity(model.encode_text(tokens), targets).mean()
        begin_as_bag(model, vectors, targets, 0)
        after = F.cosine_similarity(model.encode_text(tokens), targets).mean()
    fitted = F.cosine_similarity(bag, targets).mean()
    assert abs(before) < 0.2
    assert fitted > 0.9
    assert after > fitted - 0.06, "the transformer computes the bag"


def test_the_same_seed_gives_the_same_bag(texts: tuple[torch.Tensor, torch.Tensor]) -> None:
    one, other = (fit_bag(*texts, VOCAB, Bag(1, 64), 3, quiet) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, fit_bag(*texts, VOCAB, Bag(1, 64), 4, quiet))


@pytest.mark.parametrize("bag", [Bag(epochs=0), Bag(batch=0), Bag(lr=0.0), Bag(lr=float("nan"))])
def test_numbers_that_make_no_sense(bag: Bag) -> None:
    with pytest.raises(UsageError, match="epochs and batch must be 1 at least and lr above 0"):
        check_bag(bag, config(), "r.toml")


def test_a_tower_of_another_width_is_refused() -> None:
    with pytest.raises(UsageError, match="width is 64, embed_dim 32"):
        check_bag(Bag(), config(64), "r.toml")
