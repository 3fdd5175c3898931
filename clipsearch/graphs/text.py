"""The text tower as a graph: `clipsearch.model.TextTransformer`, token by token where that is wanted."""

from __future__ import annotations

from clipsearch.graphs.parts import Parts
from clipsearch.sizes import TextConfig


def causal_transformer(
    parts: Parts, x: str, past: str, config: TextConfig, *, quick_gelu: bool
) -> tuple[str, str]:
    """Embedded tokens (L, D) of a text behind `past` (2 × blocks, H, p, d) -> (1, E), and the `past` of all.

    The embedding is read at the last token, so the last block goes on with no other.
    """
    graph, seen = parts.graph, []
    before = graph.nodes("Split", past, outputs=2 * config.layers, axis=0, num_outputs=2 * config.layers)
    for index in range(config.layers):
        name = f"transformer.resblocks.{index}"
        qkv = parts.linear(
            parts.layer_norm(x, f"{name}.ln_1"), f"{name}.attn.in_proj_weight", f"{name}.attn.in_proj_bias"
        )
        qkv = parts.reshape(qkv, 1, -1, 3 * config.width)
        q, k, v = graph.nodes("Split", qkv, outputs=3, axis=-1, num_outputs=3)
        known = before[2 * index], before[2 * index + 1]
        attended, keys, values = parts.causal_attention(q, k, v, known, config.heads)
        seen += [keys, values]
        attended = parts.reshape(attended, -1, config.width)
        if index == config.layers - 1:
            attended, x = parts.last_row(attended), parts.last_row(x)
        out = parts.linear(attended, f"{name}.attn.out_proj.weight", f"{name}.attn.out_proj.bias")
        x = graph.node("Add", x, out)
        x = graph.node("Add", x, parts.mlp(x, name, quick_gelu=quick_gelu))
    x = parts.layer_norm(x, "ln_final")
    projection = graph.weight("text_projection", parts.tensor("text_projection"))
    return graph.node("MatMul", x, projection), graph.node("Concat", *seen, axis=0)
