"""CLIP: two towers that embed images and texts into one space.

References:
  Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision,
  arXiv 2103.00020 ("the paper"), and the conventions of the released weights (OpenAI, OpenCLIP):
  parameter names here are theirs, so their tensors load without renaming.

Shape suffixes: N batch, L sequence, D width, H heads, C channels, Y X rows and columns,
G grid cells, E embedding, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from clipsearch.sizes import ClipConfig as ClipConfig
from clipsearch.sizes import TextConfig as TextConfig
from clipsearch.sizes import VisionConfig as VisionConfig

# Paper §2.5: the temperature starts at 0.07 and the logit scale is clipped at 100.
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100.0)


def _normal_(tensor: Tensor, std: float) -> None:
    """Fill with normal noise, unless the tensor has no memory.

    Models are built on the meta device to be loaded; there, `normal_` would import PyTorch's compiler, two
    seconds of a query's time.
    """
    if not tensor.is_meta:
        nn.init.normal_(tensor, std=std)


def _normal(std: float, *shape: int) -> nn.Parameter:
    parameter = nn.Parameter(torch.empty(shape))
    _normal_(parameter, std)
    return parameter


class TokenEmbedding(nn.Embedding):
    """An embedding that starts as CLIP's."""

    def reset_parameters(self) -> None:
        """Normal noise of 0.02."""
        _normal_(self.weight, 0.02)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation of GELU in OpenAI's weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise."""
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention with `nn.MultiheadAttention`'s parameter names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_NLD: Tensor, causal: bool, first: bool = False) -> Tensor:
        """(N, L, D) -> (N, L, D), or what the `first` token gets of it alone, (N, 1, D)."""
        D, weight, bias = x_NLD.shape[2], self.in_proj_weight, self.in_proj_bias
        if first:
            (q,) = self._split(F.linear(x_NLD[:, :1], weight[:D], bias[:D]), 1)
            k, v = self._split(F.linear(x_NLD, weight[D:], bias[D:]), 2)
        else:
            q, k, v = self._split(F.linear(x_NLD, weight, bias), 3)
        out_NHLd = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        out: Tensor = self.out_proj(out_NHLd.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor, parts: int) -> Tensor:
        """(N, L, parts * D) -> (parts, N, H, L, D / H)."""
        N, L, D = x.shape
        return x.view(N, L, parts, self.heads, D // parts // self.heads).permute(2, 0, 3, 1, 4)


class Mlp(nn.Module):
    """The two-layer perceptron of a transformer block, four times as wide inside."""

    def __init__(self, width: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = act()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) -> (…, D)."""
        out: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return out


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, act)

    def forward(self, x_NLD: Tensor, causal: bool, first: bool = False) -> Tensor:
        """(N, L, D) -> (N, L, D), or its `first` token alone, (N, 1, D)."""
        attended = self.attn(self.ln_1(x_NLD), causal, first)
        x = (x_NLD[:, :1] if first else x_NLD) + attended
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """A stack of blocks; `checkpointing` trades compute for memory in training."""

    def __init__(self, width: int, layers: int, heads: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.checkpointing = False
        self.resblocks = nn.ModuleList(Block(width, heads, act) for _ in range(layers))

    def forward(self, x_NLD: Tensor, causal: bool = False, first: bool = False) -> Tensor:
        """(N, L, D) -> (N, L, D); with `first` the last block computes that token alone, (N, 1, D)."""
        for number, block in enumerate(self.resblocks, 1):
            given = x_NLD, causal, first and number == len(self.resblocks)
            if self.checkpointing and torch.is_grad_enabled():
                x_NLD = checkpoint(block, *given, use_reentrant=False)
            else:
                x_NLD = block(*given)
        return x_NLD

    def init_weights(self) -> None:
        """Initialise as the released code does: residual projections shrink with depth."""
        for block in self.resblocks:
            assert isinstance(block, Block)
            width = block.attn.out_proj.in_features
            proj_std = width**-0.5 * (2 * len(self.resblocks)) ** -0.5
            _normal_(block.attn.in_proj_weight, std=width**-0.5)
            _normal_(block.attn.out_proj.weight, std=proj_std)
            _normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            _normal_(block.mlp.c_proj.weight, std=proj_std)
            for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(linear.bias)


class VisionTransformer(nn.Module):
    """The ViT image tower: an extra layer norm before the blocks, read at the class token."""

    def __init__(self, config: VisionConfig, embed_dim: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        assert isinstance(config.layers, int)
        assert config.patch_size is not None
        width, grid = config.width, config.image_size // config.patch_size
        self.conv1 = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_embedding = _normal(width**-0.5, width)
        self.positional_embedding = _normal(width**-0.5, grid * grid + 1, width)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.layers, width // config.head_width, act)
        self.transformer.init_weights()
        self.ln_post = nn.LayerNorm(width)
        self.proj = _normal(width**-0.5, width, embed_dim)

    def forward(self, image_NCYX: Tensor) -> Tensor:
        """(N, 3, Y, X) -> (N, E)."""
        x_NDYX = self.conv1(image_NCYX)
        x_NGD = x_NDYX.flatten(2).transpose(1, 2)
        cls_N1D = self.class_embedding.to(x_NGD.dtype).expand(x_NGD.shape[0], 1, -1)
        x_NLD = torch.cat([cls_N1D, x_NGD], dim=1) + self.positional_embedding.to(x_NGD.dtype)
        x_ND = self.transformer(self.ln_pre(x_NLD), first=True)[:, 0]
        out: Tensor = self.ln_post(x_ND) @ self.proj
        return out


class Downsample(nn.Sequential):
    """The shortcut of a bottleneck that changes its shape; children carry the released names."""

    conv_bn: ClassVar = (("0", "1"),)

    def __init__(self, inplanes: int, outplanes: int, stride: int) -> None:
        super().__init__()
        self.add_module("-1", nn.AvgPool2d(stride))
        self.add_module("0", nn.Conv2d(inplanes, outplanes, 1, bias=False))
        self.add_module("1", nn.BatchNorm2d(outplanes))


class Bottleneck(nn.Module):
    """A ResNet bottleneck whose stride is an average pooling (anti-aliased, paper §2.4)."""

    expansion = 4
    conv_bn: ClassVar = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        outplanes = planes * self.expansion
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, outplanes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outplanes)
        changes = stride > 1 or inplanes != outplanes
        self.downsample = Downsample(inplanes, outplanes, stride) if changes else None

    def forward(self, x_NCYX: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, C', Y / stride, X / stride)."""
        out = F.relu(self.bn1(self.conv1(x_NCYX)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        shortcut = x_NCYX if self.downsample is None else self.downsample(x_NCYX)
        return F.relu(out + shortcut)


class AttentionPool2d(nn.Module):
    """One attention layer whose query is the mean over the grid (paper §2.4)."""

    def __init__(self, grid: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = _normal(width**-0.5, grid * grid + 1, width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)

    def forward(self, x_NDYX: Tensor) -> Tensor:
        """(N, D, Y, X) -> (N, E)."""
        x_NGD = x_NDYX.flatten(2).transpose(1, 2)
        x_NLD = torch.cat([x_NGD.mean(1, keepdim=True), x_NGD], dim=1)
        x_NLD = x_NLD + self.positional_embedding.to(x_NLD.dtype)

        def split(y_NLD: Tensor) -> Tensor:
            return y_NLD.view(*y_NLD.shape[:2], self.heads, -1).transpose(1, 2)

        q = split(self.q_proj(x_NLD[:, :1]))
        out_NH1d = F.scaled_dot_product_attention(q, split(self.k_proj(x_NLD)), split(self.v_proj(x_NLD)))
        out: Tensor = self.c_proj(out_NH1d.transpose(1, 2).flatten(1))
        return out


class ModifiedResNet(nn.Module):
    """The paper's ResNet-D: three-convolution stem, anti-aliased strides, attention pooling."""

    conv_bn: ClassVar = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        assert isinstance(config.layers, tuple)
        width = config.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        inplanes = width
        for stage, blocks in enumerate(config.layers):
            planes = width * 2**stage
            layers = [Bottleneck(inplanes, planes, 1 if stage == 0 else 2)]
            inplanes = planes * Bottleneck.expansion
            layers += [Bottleneck(inplanes, planes, 1) for _ in range(1, blocks)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        heads = width * 32 // config.head_width
        self.attnpool = AttentionPool2d(config.image_size // 32, inplanes, heads, embed_dim)
        self._init_weights(inplanes)

    def _init_weights(self, width: int) -> None:
        for linear in (
            self.attnpool.q_proj,
            self.attnpool.k_proj,
            self.attnpool.v_proj,
            self.attnpool.c_proj,
        ):
            _normal_(linear.weight, std=width**-0.5)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, image_NCYX: Tensor) -> Tensor:
        """(N, 3, Y, X) -> (N, E)."""
        x = F.relu(self.bn1(self.conv1(image_NCYX)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.avgpool(F.relu(self.bn3(self.conv3(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        out: Tensor = self.attnpool(x)
        return out


class Clip(nn.Module):
    """The whole model. `encode_image` and `encode_text` give unnormalised features.

    The text tower is causal, so what follows the end-of-text token cannot change the embedding:
    only the columns up to the last end of text in the batch are computed, which is exact.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        text = config.text
        act: Callable[[], nn.Module] = QuickGELU if config.quick_gelu else nn.GELU
        self.visual = _image_tower(config, act)
        self.transformer = Transformer(text.width, text.layers, text.heads, act)
        self.token_embedding = TokenEmbedding(text.vocab_size, text.width)
        self.positional_embedding = _normal(0.01, text.context_length, text.width)
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = _normal(text.width**-0.5, text.width, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.transformer.init_weights()

    def encode_image(self, image_NCYX: Tensor) -> Tensor:
        """(N, 3, Y, X) normalised pixels -> (N, E) features."""
        out: Tensor = self.visual(image_NCYX)
        return out

    def encode_text(self, tokens_NL: Tensor) -> Tensor:
        """(N, L) token ids, each row with an end of text (the highest id) -> (N, E) features; N ≥ 1."""
        end_N = tokens_NL.argmax(dim=-1)
        tokens_NL = tokens_NL[:, : int(end_N.max()) + 1]
        x_NLD = self.token_embedding(tokens_NL)
        x_NLD = x_NLD + self.positional_embedding[: x_NLD.shape[1]].to(x_NLD.dtype)
        x_NLD = self.transformer(x_NLD, causal=True)
        x_ND = self.ln_final(x_NLD[torch.arange(len(x_NLD), device=x_NLD.device), end_N])
        out: Tensor = x_ND @ self.text_projection
        return out

    def forward(self, image_NCYX: Tensor, tokens_ML: Tensor) -> Tensor:
        """Scaled cosine of every image with every text: (N, 3, Y, X), (M, L) -> (N, M) logits."""
        image_NE = F.normalize(self.encode_image(image_NCYX), dim=-1)
        text_ME = F.normalize(self.encode_text(tokens_ML), dim=-1)
        return self.logit_scale.exp() * image_NE @ text_ME.T

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the logit scale at or under 100 (paper §2.5)."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute transformer activations in the backward pass instead of keeping them."""
        for module in self.modules():
            if isinstance(module, Transformer):
                module.checkpointing = enabled


def _image_tower(config: ClipConfig, act: Callable[[], nn.Module]) -> nn.Module:
    vision = config.vision
    if vision.trunk is not None:
        from clipsearch.trunk import TrunkTower

        return TrunkTower(vision, config.embed_dim)
    if isinstance(vision.layers, tuple):
        return ModifiedResNet(vision, config.embed_dim)
    return VisionTransformer(vision, config.embed_dim, act)


@torch.no_grad()
def fold_batch_norms(tower: nn.Module) -> None:
    """Fold every batch norm into the convolution before it, for inference: the same function, less work.

    Modules name their pairs in `conv_bn`. What was folded cannot be trained or saved any more.
    """
    for module in list(tower.modules()):
        for conv, norm in getattr(module, "conv_bn", ()):
            before, after = module.get_submodule(conv), module.get_submodule(norm)
            assert isinstance(before, nn.Conv2d)
            assert isinstance(after, nn.BatchNorm2d)
            setattr(module, conv, fuse_conv_bn_eval(before, after))
            setattr(module, norm, nn.Identity())
