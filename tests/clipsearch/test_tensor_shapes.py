import pytest
import torch

from clipsearch.errors import ModelInvalid
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.tensor_shapes import check_tensors, tensor_shapes

VISION = {
    "ViT-B-32": VisionConfig(),
    "RN50x4": VisionConfig(288, (4, 6, 10, 6), 80, None),
    "mobilenet": VisionConfig(161, 0, 0, None, trunk="mobilenet_edgetpu_100"),
    "mobilenet, mlp": VisionConfig(161, 0, 0, None, trunk="mobilenet_edgetpu_100", trunk_proj="mlp"),
    "lite": VisionConfig(161, 0, 0, None, trunk="efficientnet_lite2"),
}


@pytest.mark.parametrize("name", list(VISION))
def test_they_are_those_of_the_model(name: str) -> None:
    config = ClipConfig(320, VISION[name], TextConfig(20, 300, 64, 1, 3))
    with torch.device("meta"):
        tensors = Clip(config).state_dict()
    assert tensor_shapes(config) == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    found = {name: (tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in tensors.items()}
    check_tensors(found, config)
    check_tensors({name: it for name, it in found.items() if "num_batches" not in name}, config)
    for name in ("logit_scale", "visual.proj" if "visual.proj" in found else "visual.bn1.weight"):
        if name in found:
            with pytest.raises(ModelInvalid, match=rf"1 tensors do not fit \({name}"):
                check_tensors(found | {name: (found[name][0], False)}, config)
