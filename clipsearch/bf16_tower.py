"""CLIP's ViT image tower in bfloat16: `clipsearch.model.VisionTransformer` twice as fast.

For CPUs that multiply such numbers (`clipsearch.devices.cpu_has_bf16`), with oneDNN in torch.

Its matrices and what they are multiplied with are rounded to bfloat16; sums, layer norms and what flows
from block to block are of single precision. The mean cosine to single precision is 0.999995 (ViT-B/32,
random weights). Convolutional towers lose more, and gain less. What makes it faster than autocast
(docs/performance.md): oneDNN lays each matrix out once, not at each product; the activation belongs to the
product; few tokens attend to each other by plain products; the last block computes the class token alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsearch.devices import cpu_has_bf16
from clipsearch.mapped import Mapped, single
from clipsearch.preprocess import Preprocess
from clipsearch.runtime import check_finite
from clipsearch.sizes import ClipConfig

Floats = npt.NDArray[np.float32]

_SHORT = 128
"""Tokens up to which plain products are faster than torch's own attention."""


def multiplies_bf16() -> bool:
    """Whether the CPU does in hardware, and torch knows how."""
    return cpu_has_bf16() and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


class _Linear:
    """x W^T + b in bfloat16, and an activation that oneDNN knows."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16())
        self._bias = None if bias is None else bias.bfloat16()
        self._activation = activation, "none" if activation == "gelu" else ""

    def __call__(self, x: Tensor) -> Tensor:
        activation, algorithm = self._activation
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.bfloat16(), self._weight, self._bias, activation, [], algorithm
        )
        return out


class _Norm:
    def __init__(self, weights: _Weights, name: str) -> None:
        self._gain, self._bias = weights(f"{name}.weight"), weights(f"{name}.bias")

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._gain.shape, self._gain, self._bias)


class _Block:
    """See `clipsearch.model.Block`; `last` gives the class token alone, (N, 1, D)."""

    def __init__(self, weights: _Weights, name: str, heads: int, *, quick_gelu: bool, last: bool) -> None:
        self._heads = heads
        self._ln_1, self._ln_2 = _Norm(weights, f"{name}.ln_1"), _Norm(weights, f"{name}.ln_2")
        joined, bias = weights(f"{name}.attn.in_proj_weight"), weights(f"{name}.attn.in_proj_bias")
        self._width = joined.shape[1]
        if last:
            self._q = _Linear(joined[: self._width], bias[: self._width])
            self._kv = _Linear(joined[self._width :], bias[self._width :])
        else:
            self._qkv = _Linear(joined, bias)
        self._last = last
        self._out = _Linear(weights(f"{name}.attn.out_proj.weight"), weights(f"{name}.attn.out_proj.bias"))
        wide, wide_bias = weights(f"{name}.mlp.c_fc.weight"), weights(f"{name}.mlp.c_fc.bias")
        back, back_bias = weights(f"{name}.mlp.c_proj.weight"), weights(f"{name}.mlp.c_proj.bias")
        # x sigmoid(1.702 x) = y sigmoid(y) / 1.702 where y = 1.702 x.
        factor, activation = (1.702, "swish") if quick_gelu else (1.0, "gelu")
        self._fc = _Linear(wide * factor, wide_bias * factor, activation)
        self._proj = _Linear(back / factor, back_bias)

    def __call__(self, x_NLD: Tensor) -> Tensor:
        attended = self._attend(self._ln_1(x_NLD).bfloat16())
        x = x_NLD[:, :1] if self._last else x_NLD
        x = x + self._out(attended)
        x = x + self._proj(self._fc(self._ln_2(x)))
        return x

    def _attend(self, x_NLD: Tensor) -> Tensor:
        if self._last:
            q = self._split(self._q(x_NLD[:, :1].contiguous()), 1)[0]
            k, v = self._split(self._kv(x_NLD), 2)
        else:
            q, k, v = self._split(self._qkv(x_NLD), 3)
        if k.shape[2] <= _SHORT:
            weights = torch.softmax((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5, -1)
            out_NHLd = weights @ v
        else:
            out_NHLd = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = out_NHLd.transpose(1, 2).flatten(2)
        return out

    def _split(self, x: Tensor, parts: int) -> Tensor:
        """(N, L, parts × D) -> (parts, N, H, L, d)."""
        N, L, _ = x.shape
        return x.view(N, L, parts, self._heads, self._width // self._heads).permute(2, 0, 3, 1, 4)


class _Weights:
    """Tensors of the image tower by name, each copied as single precision when it is asked for."""

    def __init__(self, tensors: Mapping[str, Mapped]) -> None:
        self._tensors = tensors

    def __call__(self, name: str) -> Tensor:
        array = single(self._tensors[f"visual.{name}"])
        check_finite(f"visual.{name}", array)
        return torch.tensor(array)


class Bf16ImageTower:
    """The image tower of one model; `tensors` are those of the model, in OpenAI's layout.

    Raises ValueError for weights that are not numbers.
    """

    @torch.inference_mode()
    def __init__(self, config: ClipConfig, tensors: Mapping[str, Mapped], preprocess: Preprocess) -> None:
        vision, weights = config.vision, _Weights(tensors)
        assert isinstance(vision.layers, int)
        assert vision.patch_size is not None
        self._patch, self._preprocess = vision.patch_size, preprocess
        # The convolution has its own size for a stride: a product of matrices over patches, (y, x, channel).
        kernel = weights("conv1.weight").permute(0, 2, 3, 1).flatten(1)
        self._patches = _Linear(kernel)
        self._places = weights("positional_embedding")
        self._places[0] += weights("class_embedding")
        self._ln_pre, self._ln_post = _Norm(weights, "ln_pre"), _Norm(weights, "ln_post")
        heads, last = vision.width // vision.head_width, vision.layers - 1
        self._blocks = [
            _Block(
                weights,
                f"transformer.resblocks.{index}",
                heads,
                quick_gelu=config.quick_gelu,
                last=index == last,
            )
            for index in range(vision.layers)
        ]
        self._proj = weights("proj")

    @torch.inference_mode()
    def features(self, images: npt.NDArray[np.uint8]) -> Floats:
        """uint8 (N, Y, X, 3) -> float32 (N, E)."""
        x = F.pad(self._patches(self._cut(images)).float(), (0, 0, 1, 0))  # room for the class token
        x = self._ln_pre(x.add_(self._places))
        for block in self._blocks:
            x = block(x)
        out: Floats = (self._ln_post(x[:, 0]) @ self._proj).numpy()
        return out

    def _cut(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 (N, Y, X, 3) -> (N, G, patch × patch × 3), normalised."""
        N, size, side = len(images), images.shape[1], self._patch
        grid = size // side
        x_NYXC = self._preprocess.normalise(images).permute(0, 2, 3, 1).bfloat16()
        x_NYXC = x_NYXC[:, : grid * side, : grid * side]
        return x_NYXC.reshape(N, grid, side, grid, side, 3).transpose(2, 3).reshape(N, grid * grid, -1)
