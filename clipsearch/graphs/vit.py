"""The ViT image tower as a graph: `clipsearch.model.VisionTransformer`."""

from __future__ import annotations

from clipsearch.graphs.parts import Parts
from clipsearch.sizes import VisionConfig


def vision_transformer(parts: Parts, x: str, config: VisionConfig, *, quick_gelu: bool) -> str:
    """(N, 3, Y, X) -> (N, E).

    Tokens of all images lie one behind the other, (N × L, D), but where they attend to each other. The
    embedding is read at the class token, so the last block computes no other.
    """
    assert isinstance(config.layers, int)
    assert config.patch_size is not None
    width, grid = config.width, config.image_size // config.patch_size
    length = grid * grid + 1
    x = _embedded(parts, x, width, config.patch_size, grid)
    x = parts.layer_norm(parts.reshape(x, -1, width), "visual.ln_pre")
    for index in range(config.layers):
        name = f"visual.transformer.resblocks.{index}"
        heads = width // config.head_width
        inside = parts.layer_norm(x, f"{name}.ln_1")
        if index < config.layers - 1:
            attended = _all_attend(parts, inside, f"{name}.attn.in_proj_", length, width, heads)
        else:
            attended = _class_attends(parts, inside, f"{name}.attn.in_proj_", length, width, heads)
            x = parts.first_tokens(x, length, width)
        out = parts.linear(attended, f"{name}.attn.out_proj.weight", f"{name}.attn.out_proj.bias")
        x = parts.graph.node("Add", x, out)
        x = parts.graph.node("Add", x, parts.mlp(x, name, quick_gelu=quick_gelu))
    x = parts.layer_norm(x, "visual.ln_post")
    proj = parts.graph.weight("visual.proj", parts.tensor("visual.proj"))
    return parts.graph.node("MatMul", x, proj)


def _embedded(parts: Parts, x: str, width: int, patch: int, grid: int) -> str:
    """(N, 3, Y, X) -> (N, L, D): the class token and the patches, with their positions.

    The convolution has its own size for a stride, so it is a product of matrices, which is faster.
    """
    x = parts.reshape(x, -1, 3, grid, patch, grid, patch)
    x = parts.graph.node("Transpose", x, perm=(0, 2, 4, 1, 3, 5))
    x = parts.reshape(x, -1, 3 * patch * patch)
    kernel = parts.tensor("visual.conv1.weight").reshape(width, -1)
    x = parts.graph.node("Gemm", x, parts.graph.weight("visual.conv1", kernel), transB=1)
    x = parts.reshape(x, -1, grid * grid, width)
    x = parts.graph.node("Pad", x, parts.graph.ints(0, 1, 0, 0, 0, 0))  # room for the class token
    places = parts.tensor("visual.positional_embedding").copy()
    places[0] += parts.tensor("visual.class_embedding")
    return parts.graph.node("Add", x, parts.graph.weight("visual.places", places))


def _all_attend(parts: Parts, x: str, name: str, length: int, width: int, heads: int) -> str:
    """(N × L, D) -> (N × L, D): every token looks at every one of its image."""
    qkv = parts.linear(x, f"{name}weight", f"{name}bias")
    qkv = parts.reshape(qkv, -1, length, 3 * width)
    q, k, v = parts.graph.nodes("Split", qkv, outputs=3, axis=-1, num_outputs=3)
    return parts.reshape(parts.attention(q, k, v, heads), -1, width)


def _class_attends(parts: Parts, x: str, name: str, length: int, width: int, heads: int) -> str:
    """(N × L, D) -> (N, D): the class token looks at every one of its image."""
    q = parts.rows_of_linear(parts.first_tokens(x, length, width), name, slice(0, width))
    kv = parts.reshape(parts.rows_of_linear(x, name, slice(width, 3 * width)), -1, length, 2 * width)
    k, v = parts.graph.nodes("Split", kv, outputs=2, axis=-1, num_outputs=2)
    return parts.reshape(parts.attention(parts.reshape(q, -1, 1, width), k, v, heads), -1, width)
