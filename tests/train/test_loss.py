import math

import pytest
import torch
import torch.nn.functional as F

from clipsearch_train.loss import (
    Pairs,
    bank_loss,
    caption_groups,
    contrastive_loss,
    cosine_distance,
    sigmoid_loss,
    softmax_loss,
)


def unit(*rows: list[float]) -> torch.Tensor:
    return F.normalize(torch.tensor(rows), dim=-1)


def test_equal_texts_share_a_group() -> None:
    a, b, a_again, c, b_again = caption_groups(["a", "b", "a", "c", "b"]).tolist()
    assert (a, b) == (a_again, b_again)
    assert len({a, b, c}) == 3
    assert caption_groups(["ä \udcff"]).shape == (1,), "any text has a number"


def test_two_pairs_by_hand() -> None:
    images, texts = unit([1.0, 0.0], [0.0, 1.0]), unit([1.0, 0.0], [0.0, 1.0])
    # Logits [[2, 0], [0, 2]]: each row and column loses log(1 + e^-2).
    loss = contrastive_loss(images, texts, torch.tensor([0, 1]), 2.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)


def test_repeated_captions_by_hand() -> None:
    images, texts = unit([1.0, 0.0], [0.0, 1.0]), unit([1.0, 0.0], [1.0, 0.0])
    # Both are positives of each other: targets 1/2, 1/2. Image rows: logits (1, 1) and (0, 0), each log 2.
    # Text columns: logits (1, 0) twice: -(log p + log (1 - p)) / 2 with p = e / (1 + e).
    p = math.e / (1 + math.e)
    wanted = (math.log(2) - (math.log(p) + math.log(1 - p)) / 2) / 2
    assert contrastive_loss(images, texts, torch.tensor([0, 0]), 1.0).item() == pytest.approx(
        wanted, rel=1e-6
    )


def test_distinct_groups_are_plain_infonce() -> None:
    torch.manual_seed(0)
    images, texts = F.normalize(torch.randn(9, 5), dim=-1), F.normalize(torch.randn(9, 5), dim=-1)
    logits, own = 7.0 * images @ texts.T, torch.arange(9)
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert torch.allclose(contrastive_loss(images, texts, own, 7.0), wanted, atol=1e-6)


def test_a_repeated_caption_is_no_negative() -> None:
    """Identical texts must not be pushed apart: the loss falls when both images come to them."""
    texts = unit([1.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    right = unit([1.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    wrong = unit([1.0, 0.0], [0.0, 1.0], [0.0, 1.0])
    groups = torch.tensor([0, 0, 1])
    assert contrastive_loss(right, texts, groups, 10.0) < contrastive_loss(wrong, texts, groups, 10.0)
    floor = contrastive_loss(right, texts, groups, 100.0)
    assert floor.item() == pytest.approx(math.log(2) * 2 / 3, rel=1e-5)  # the entropy of the targets


def test_bank_loss_is_infonce_against_the_bank() -> None:
    torch.manual_seed(0)
    query, key = F.normalize(torch.randn(4, 6), dim=-1), F.normalize(torch.randn(4, 6), dim=-1)
    bank = F.normalize(torch.randn(11, 6), dim=-1)
    rows = []
    for row in range(4):
        logits = torch.cat([(query[row] @ key[row])[None], bank @ query[row]]) * 3.0
        rows.append(-F.log_softmax(logits, dim=0)[0])
    assert torch.allclose(bank_loss(query, key, bank, 3.0), torch.stack(rows).mean(), atol=1e-6)


def test_bank_loss_has_gradients_for_both_sides() -> None:
    query = torch.randn(3, 4, requires_grad=True)
    key = torch.randn(3, 4, requires_grad=True)
    bank_loss(query, key, torch.randn(5, 4), 2.0).backward()
    assert query.grad is not None
    assert key.grad is not None
    assert bool((query.grad != 0).any())
    assert bool((key.grad != 0).any())


def test_cosine_distance() -> None:
    same, opposite = unit([3.0, 4.0]), unit([-3.0, -4.0])
    assert cosine_distance(same, same).item() == pytest.approx(0.0, abs=1e-6)
    assert cosine_distance(same, opposite).item() == pytest.approx(2.0, rel=1e-6)


def random_pairs(groups: list[int]) -> Pairs:
    torch.manual_seed(0)
    rows = [F.normalize(torch.randn(len(groups), 5), dim=-1) for _ in range(2)]
    return Pairs.whole(rows[0], rows[1], torch.tensor(groups))


def test_label_smoothing_is_torch_s() -> None:
    pairs, own = random_pairs(list(range(9))), torch.arange(9)
    logits = 7.0 * pairs.image_NE @ pairs.text_NE.T
    wanted = [F.cross_entropy(x, own, label_smoothing=0.1) for x in (logits, logits.T)]
    assert torch.allclose(softmax_loss(pairs, 7.0, 0.1), (wanted[0] + wanted[1]) / 2, atol=1e-6)


def test_sigmoid_loss_is_siglip_s() -> None:
    """Algorithm 1 of arXiv 2303.15343."""
    pairs = random_pairs(list(range(9)))
    logits = 10.0 * pairs.image_NE @ pairs.text_NE.T - 10.0
    labels = 2 * torch.eye(9) - torch.ones(9, 9)
    wanted = -F.logsigmoid(labels * logits).sum() / 9
    assert torch.allclose(sigmoid_loss(pairs, 10.0, -10.0), wanted, atol=1e-6)


def test_sigmoid_loss_with_repeated_captions_by_hand() -> None:
    pairs = Pairs.whole(unit([1.0, 0.0], [0.0, 1.0]), unit([1.0, 0.0], [1.0, 0.0]), torch.tensor([5, 5]))
    # Logits [[2, 2], [0, 0]] - 1, all of them yes.
    wanted = (2 * math.log(1 + math.exp(-1)) + 2 * math.log(1 + math.exp(1))) / 2
    assert sigmoid_loss(pairs, 2.0, -1.0).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("loss", [lambda p: softmax_loss(p, 7.0, 0.1), lambda p: sigmoid_loss(p, 7.0, -3.0)])
def test_shares_of_a_batch_add_up(loss: object) -> None:
    whole = random_pairs([0, 1, 1, 2, 3, 0, 4])
    shares = [
        Pairs(
            whole.image_NE[rows],
            whole.text_NE[rows],
            whole.group_N[rows],
            whole.image_NE,
            whole.text_NE,
            whole.group_N,
        )
        for rows in (slice(0, 2), slice(2, 2), slice(2, 7))
    ]
    assert torch.allclose(sum(map(loss, shares)), loss(whole), atol=1e-6)  # type: ignore[arg-type, operator]
