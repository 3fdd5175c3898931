"""A convolutional image tower as a graph: `clipsearch.trunk.TrunkTower`."""

from __future__ import annotations

from clipsearch.graphs.parts import Parts
from clipsearch.sizes import VisionConfig
from clipsearch.trunk_blocks import FEATURES, TRUNKS, Block

_TRUNK = "visual.trunk"


def trunk_tower(parts: Parts, x: str, config: VisionConfig) -> str:
    """(N, 3, Y, X) -> (N, E)."""
    assert config.trunk is not None
    trunk = TRUNKS[config.trunk]
    x = parts.conv(x, f"{_TRUNK}.conv_stem", f"{_TRUNK}.bn1", stride=2, ceiling=trunk.ceiling)
    for stage, blocks in enumerate(trunk.stages):
        for index, block in enumerate(blocks):
            x = _block(parts, x, f"{_TRUNK}.blocks.{stage}.{index}", block, trunk.ceiling)
    x = parts.conv(x, f"{_TRUNK}.conv_head", f"{_TRUNK}.bn2", ceiling=trunk.ceiling)
    x = parts.reshape(parts.graph.node("GlobalAveragePool", x), -1, FEATURES)
    if config.trunk_proj != "mlp":
        return parts.linear(x, "visual.head.proj.weight")
    x = parts.linear(x, "visual.head.mlp.fc1.weight", "visual.head.mlp.fc1.bias")
    return parts.linear(parts.graph.node("Gelu", x), "visual.head.mlp.fc2.weight")


def _block(parts: Parts, x: str, name: str, block: Block, ceiling: float | None) -> str:
    """(N, C, Y, X) -> (N, C', Y / stride, X / stride)."""
    if block.kind == "cn":
        return parts.conv(x, f"{name}.conv", f"{name}.bn1", ceiling=ceiling)
    if block.kind == "er":
        out = parts.conv(x, f"{name}.conv_exp", f"{name}.bn1", stride=block.stride, ceiling=ceiling)
        out = parts.conv(out, f"{name}.conv_pwl", f"{name}.bn2", relu=False)
    elif block.kind == "ds":
        out = parts.conv(x, f"{name}.conv_dw", f"{name}.bn1", stride=block.stride, ceiling=ceiling)
        out = parts.conv(out, f"{name}.conv_pw", f"{name}.bn2", relu=False)
    else:
        out = parts.conv(x, f"{name}.conv_pw", f"{name}.bn1", ceiling=ceiling)
        out = parts.conv(out, f"{name}.conv_dw", f"{name}.bn2", stride=block.stride, ceiling=ceiling)
        out = parts.conv(out, f"{name}.conv_pwl", f"{name}.bn3", relu=False)
    return parts.graph.node("Add", out, x) if block.skip else out
