import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipsearch import bf16_tower
from clipsearch.bf16_tower import Bf16ImageTower, multiplies_bf16
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess

TEXT = TextConfig(context_length=12, vocab_size=40, width=32, heads=2, layers=2)
VISION = {
    "vit": VisionConfig(32, 3, 64, 8, head_width=16),
    "of one block": VisionConfig(32, 1, 64, 16, head_width=32),
    "of many tokens": VisionConfig(96, 2, 64, 8, head_width=64),
    "whose patches leave a margin": VisionConfig(36, 2, 64, 8, head_width=32),
}


class PlainLinear:
    """`_Linear` on CPUs that oneDNN will not multiply bfloat16 on."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, activation: str = "none"
    ) -> None:
        self.weight, self.bias = weight.bfloat16(), None if bias is None else bias.bfloat16()
        self.act = {"none": lambda x: x, "gelu": F.gelu, "swish": F.silu}[activation]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(F.linear(x.bfloat16(), self.weight, self.bias))


@pytest.fixture(params=[True, False], ids=["onednn", "plain"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(bf16_tower, "_Linear", PlainLinear)
    elif not multiplies_bf16():
        pytest.skip("no bfloat16 in this CPU")


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("name", list(VISION))
def test_features_are_near_those_of_the_tower_in_single_precision(name: str, quick_gelu: bool) -> None:
    torch.manual_seed(0)
    model = Clip(ClipConfig(16, VISION[name], TEXT, quick_gelu)).eval().requires_grad_(False)
    for parameter in model.visual.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    size = VISION[name].image_size
    preprocess = Preprocess(size)
    images = np.random.default_rng(0).integers(0, 256, (9, size, size, 3), dtype=np.uint8)
    tensors = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    ours = Bf16ImageTower(model.config, tensors, preprocess).features(images)
    assert ours.dtype == np.float32
    wanted = model.encode_image(preprocess.normalise(images)).numpy()
    assert F.cosine_similarity(torch.from_numpy(ours), torch.from_numpy(wanted)).min() >= 0.9998
    assert np.abs(ours - wanted).max() <= 0.03 * np.abs(wanted).max()


@pytest.mark.usefixtures("products")
def test_weights_that_are_not_numbers_are_refused() -> None:
    model = Clip(ClipConfig(16, VISION["vit"], TEXT)).requires_grad_(False)
    tensors = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    tensors["visual.transformer.resblocks.1.attn.in_proj_bias"][3] = np.nan
    with pytest.raises(ValueError, match="in_proj_bias holds values that are not numbers"):
        Bf16ImageTower(model.config, tensors, Preprocess(32))
