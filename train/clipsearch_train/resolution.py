"""A model that looks at more, or fewer, pixels than it was trained on.

The paper trains ViT-L/14 for one more epoch at 336 pixels (Radford et al. 2021, §2.5, after FixRes, Touvron
et al. 2019, arXiv 1906.06423). Convolutions take any size; the positions of patches are interpolated.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsearch.errors import UsageError
from clipsearch.model import Clip, ModifiedResNet
from clipsearch.trunk import TrunkTower
from clipsearch.weights import LoadedModel

# Of the last feature map of a ResNet, and of a convolutional trunk.
STRIDE = 32


def at_resolution(loaded: LoadedModel, image_size: int) -> LoadedModel:
    """The same model for images of `image_size` pixels a side, its position embeddings interpolated.

    The weights are shared but for those. Raises UsageError for a size that the image tower cannot take.
    """
    config = loaded.model.config
    if image_size == config.vision.image_size:
        return loaded
    tower = loaded.model.visual
    cell = STRIDE if isinstance(tower, ModifiedResNet) else config.vision.patch_size
    if isinstance(tower, TrunkTower):
        cell = 1
    assert cell
    if image_size < STRIDE or image_size % cell:
        raise UsageError(
            f"start: image_size = {image_size} does not fit the image tower, which needs a multiple of "
            f"{cell} that is not below {STRIDE}."
        )
    vision = dataclasses.replace(config.vision, image_size=image_size)
    with torch.device("meta"):
        model = Clip(dataclasses.replace(config, vision=vision))
    tensors = loaded.model.state_dict()
    for name in ("visual.positional_embedding", "visual.attnpool.positional_embedding"):
        if name in tensors:
            tensors[name] = interpolated(tensors[name], image_size // cell)
    model.load_state_dict(tensors, assign=True)
    preprocess = dataclasses.replace(loaded.preprocess, size=image_size)
    return dataclasses.replace(
        loaded,
        model=model.eval().requires_grad_(False),
        preprocess=preprocess,
        fingerprint=f"{loaded.fingerprint}-{image_size}",  # it is no longer the model of that folder
    )


def interpolated(positions_PD: Tensor, grid: int) -> Tensor:
    """Embeddings of one class token (or mean) and g x g cells -> of one and `grid` x `grid`: bicubic."""
    first_1D, cells_GD = positions_PD[:1], positions_PD[1:]
    before = round(len(cells_GD) ** 0.5)
    image_1DYX = cells_GD.T.reshape(1, -1, before, before)
    resized = F.interpolate(image_1DYX, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first_1D, resized[0].flatten(1).T])
