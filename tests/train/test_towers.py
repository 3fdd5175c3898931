"""Both towers as one module."""

import torch

from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch_train.towers import LEAST_IN_GROUP, Towers
from tests.train.conftest import VISIONS


def tokens(count: int) -> torch.Tensor:
    """Texts of all lengths, in no order."""
    rows = torch.randint(1, 90, (count, 20), generator=torch.Generator().manual_seed(0))
    for row in range(count):
        rows[row, 1 + (row * 7) % 19] = 99  # the end
    return rows


def clip(vision: VisionConfig) -> Clip:
    torch.manual_seed(0)
    return Clip(ClipConfig(16, vision, TextConfig(20, 100, 32, 2, 2))).eval()


def test_texts_encoded_by_length_are_the_same_in_the_same_order() -> None:
    model, pixels = clip(VISIONS["vit"]), torch.randn(2, 3, 32, 32)
    calls: list[int] = []
    encode = model.encode_text

    def counted(rows: torch.Tensor) -> torch.Tensor:
        calls.append(int(rows.argmax(dim=1).max()))
        return encode(rows)

    model.encode_text = counted  # type: ignore[method-assign]
    cpu = torch.device("cpu")
    for count in (1, LEAST_IN_GROUP, 5 * LEAST_IN_GROUP + 1):
        calls.clear()
        apart = Towers(model, cpu, None, by_length=True)(pixels, tokens(count))[1]
        groups = calls.copy()
        together = Towers(model, cpu, None)(pixels, tokens(count))[1]
        torch.testing.assert_close(apart, together, atol=1e-6, rtol=1e-5)
    assert len(groups) == 5
    assert groups == sorted(groups)
    assert groups[0] < groups[-1], "short texts beside short ones"


def test_what_a_trunk_saw_goes_through_the_head() -> None:
    model, pixels = clip(VISIONS["mobilenet"]), torch.randn(2, 3, 65, 65)
    towers = Towers(model, torch.device("cpu"), None)
    with torch.inference_mode():
        seen = model.visual.get_submodule("trunk")(pixels)
        torch.testing.assert_close(towers(seen, tokens(2))[0], towers(pixels, tokens(2))[0])
