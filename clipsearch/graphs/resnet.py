"""The ModifiedResNet image tower as a graph: `clipsearch.model.ModifiedResNet`."""

from __future__ import annotations

from clipsearch.graphs.parts import Parts
from clipsearch.sizes import VisionConfig


def modified_resnet(parts: Parts, x: str, config: VisionConfig) -> str:
    """(N, 3, Y, X) -> (N, E)."""
    assert isinstance(config.layers, tuple)
    x = parts.conv(x, "visual.conv1", "visual.bn1", stride=2)
    x = parts.conv(x, "visual.conv2", "visual.bn2")
    x = _halved(parts, parts.conv(x, "visual.conv3", "visual.bn3"))
    for stage, blocks in enumerate(config.layers):
        for index in range(blocks):
            halve = index == 0 and stage > 0
            x = _bottleneck(parts, x, f"visual.layer{stage + 1}.{index}", shortcut=index == 0, halve=halve)
    return _attention_pool(parts, x, config)


def _halved(parts: Parts, x: str) -> str:
    return parts.graph.node("AveragePool", x, kernel_shape=(2, 2), strides=(2, 2))


def _bottleneck(parts: Parts, x: str, name: str, *, shortcut: bool, halve: bool) -> str:
    """(N, C, Y, X) -> (N, C', Y, X), or half of Y and X; `shortcut`: what is added changes its shape too."""
    out = parts.conv(x, f"{name}.conv1", f"{name}.bn1")
    out = parts.conv(out, f"{name}.conv2", f"{name}.bn2")
    if halve:
        out, x = _halved(parts, out), _halved(parts, x)
    out = parts.conv(out, f"{name}.conv3", f"{name}.bn3", relu=False)
    if shortcut:
        x = parts.conv(x, f"{name}.downsample.0", f"{name}.downsample.1", relu=False)
    return parts.graph.node("Relu", parts.graph.node("Add", out, x))


def _attention_pool(parts: Parts, x: str, config: VisionConfig) -> str:
    """(N, D, G, G) -> (N, E): the mean over the grid looks at itself and every cell."""
    graph, name = parts.graph, "visual.attnpool"
    width, cells = config.width * 32, (config.image_size // 32) ** 2
    grid = parts.grid_to_tokens(x, width, cells)
    mean = graph.node("ReduceMean", grid, graph.ints(1), keepdims=1)
    places = parts.tensor(f"{name}.positional_embedding")
    tokens = graph.node("Concat", mean, grid, axis=1)
    tokens = graph.node("Add", tokens, graph.weight(f"{name}.places", places))
    rows = parts.reshape(tokens, -1, width)

    def project(of: str, kind: str, length: int) -> str:
        out = parts.linear(of, f"{name}.{kind}_proj.weight", f"{name}.{kind}_proj.bias")
        return parts.reshape(out, -1, length, width)

    q = project(parts.first_tokens(rows, cells + 1, width), "q", 1)
    k, v = project(rows, "k", cells + 1), project(rows, "v", cells + 1)
    out = parts.attention(q, k, v, width // config.head_width)
    return parts.linear(parts.reshape(out, -1, width), f"{name}.c_proj.weight", f"{name}.c_proj.bias")
