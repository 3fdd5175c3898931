"""Towers as ONNX graphs, built from the tensors of a model without torch.

::

    sizes and tensors ──► vit | resnet | trunk | text ──► parts ──► onnx_file ──► a model of a few
                                                            kilobytes and the arrays it refers to
"""

from __future__ import annotations

from collections.abc import Mapping

from clipsearch.graphs.onnx_file import FLOAT, UINT8, Floats, Graph, Value
from clipsearch.graphs.parts import Parts
from clipsearch.graphs.resnet import modified_resnet
from clipsearch.graphs.text import causal_transformer
from clipsearch.graphs.trunk import trunk_tower
from clipsearch.graphs.vit import vision_transformer
from clipsearch.preprocess import Preprocess
from clipsearch.sizes import ClipConfig

__all__ = ["image_graph", "text_graph"]


def image_graph(
    config: ClipConfig, tensors: Mapping[str, Floats], preprocess: Preprocess | None
) -> tuple[bytes, dict[str, Floats]]:
    """The image tower of a model as an ONNX model, and the weights to hand over with it, by name.

    `tensors` are float32, under OpenAI's names. Its `input` is uint8 (n, size, size, 3), as
    `Preprocess.pixels` makes them, or without a `preprocess` float32 (n, 3, size, size), normalised already;
    it gives float32 (n, embed_dim), not of unit length.
    """
    graph, vision = Graph(), config.vision
    parts = Parts(graph, tensors)
    x = "input" if preprocess is None else parts.pixels(preprocess)
    if vision.trunk is not None:
        features = trunk_tower(parts, x, vision)
    elif isinstance(vision.layers, tuple):
        features = modified_resnet(parts, x, vision)
    else:
        features = vision_transformer(parts, x, vision, quick_gelu=config.quick_gelu)
    size = vision.image_size
    kind, shape = (FLOAT, ("n", 3, size, size)) if preprocess is None else (UINT8, ("n", size, size, 3))
    inputs, outputs = [Value("input", kind, shape)], [Value(features, FLOAT, ("n", config.embed_dim))]
    return graph.model(inputs, outputs), graph.weights


def text_graph(config: ClipConfig, tensors: Mapping[str, Floats]) -> tuple[bytes, dict[str, Floats]]:
    """The text tower of a model for one text, as an ONNX model, and the weights to hand over, by name.

    `tensors` are float32, under OpenAI's names. Its `input` is float32 (n, D), the embedded tokens of a text
    behind those that `past` tells of: float32 (2 × blocks, heads, p, D / heads), each block's keys and values
    of them. It gives float32 (1, embed_dim), not of unit length, of the last token, and the `past` of all.
    """
    graph, text = Graph(), config.text
    features, present = causal_transformer(
        Parts(graph, tensors), "input", "past", text, quick_gelu=config.quick_gelu
    )
    seen = 2 * text.layers, text.heads
    inputs = [
        Value("input", FLOAT, ("n", text.width)),
        Value("past", FLOAT, (*seen, "p", text.width // text.heads)),
    ]
    outputs = [
        Value(features, FLOAT, (1, config.embed_dim)),
        Value(present, FLOAT, (*seen, "t", text.width // text.heads)),
    ]
    return graph.model(inputs, outputs), graph.weights
