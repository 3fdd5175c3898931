"""What towers are made of, as parts of a graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clipsearch.graphs.onnx_file import FLOAT, MICROSOFT, Floats, Graph
from clipsearch.preprocess import Preprocess

EPS = 1e-5
"""Of layer norms and batch norms: torch's default and timm's."""


class Parts:
    """Adds parts to a graph, with the weights of one model; `tensors` are under OpenAI's names.

    Values are named: a method takes the name of what goes in and gives that of what comes out.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, Floats]) -> None:
        self.graph = graph
        self._tensors = tensors

    def tensor(self, name: str) -> Floats:
        """A tensor of the model."""
        return self._tensors[name]

    def pixels(self, preprocess: Preprocess) -> str:
        """`input`, uint8 (N, Y, X, 3) -> normalised (N, 3, Y, X), as `Preprocess.normalise` gives it."""
        std = np.array(preprocess.std, np.float64)
        scale = self.graph.weight("pixels.scale", (1 / (255 * std)).reshape(3, 1, 1))
        shift = self.graph.weight("pixels.shift", (-np.array(preprocess.mean) / std).reshape(3, 1, 1))
        x = self.graph.node("Transpose", "input", perm=(0, 3, 1, 2))
        x = self.graph.node("Mul", self.graph.node("Cast", x, to=FLOAT), scale)
        return self.graph.node("Add", x, shift)

    def linear(self, x: str, weight: str, bias: str | None = None) -> str:
        """(n, D) -> (n, D'), with a weight (D', D)."""
        inputs = [x, self.graph.weight(weight, self.tensor(weight))]
        if bias is not None:
            inputs.append(self.graph.weight(bias, self.tensor(bias)))
        return self.graph.node("Gemm", *inputs, transB=1)

    def rows_of_linear(self, x: str, name: str, rows: slice) -> str:
        """`linear` with some of the rows of `{name}weight` and `{name}bias`, as of packed projections."""
        weight, bias = (
            self.graph.weight(f"{name}{kind}[{rows.start}:{rows.stop}]", self.tensor(f"{name}{kind}")[rows])
            for kind in ("weight", "bias")
        )
        return self.graph.node("Gemm", x, weight, bias, transB=1)

    def layer_norm(self, x: str, name: str) -> str:
        """Over the last axis, with `{name}.weight` and `{name}.bias`."""
        gain, bias = (
            self.graph.weight(f"{name}.{kind}", self.tensor(f"{name}.{kind}")) for kind in ("weight", "bias")
        )
        return self.graph.node("LayerNormalization", x, gain, bias, axis=-1, epsilon=EPS)

    def conv(
        self,
        x: str,
        conv: str,
        norm: str,
        *,
        stride: int = 1,
        relu: bool = True,
        ceiling: float | None = None,
    ) -> str:
        """A convolution that keeps the size but for its stride, its batch norm, and a ReLU up to `ceiling`.

        A weight of one channel in makes it a depthwise convolution. The norm is folded into the weights.
        """
        kernel = self.tensor(f"{conv}.weight")
        gain, bias, mean, variance = (
            self.tensor(f"{norm}.{kind}") for kind in ("weight", "bias", "running_mean", "running_var")
        )
        with np.errstate(all="ignore"):  # damaged weights show later
            factor = gain / np.sqrt(variance + np.float32(EPS))
            folded = kernel * factor.reshape(-1, 1, 1, 1), bias - mean * factor
        size = kernel.shape[-1]
        x = self.graph.node(
            "Conv",
            x,
            self.graph.weight(f"{conv}.folded", folded[0]),
            self.graph.weight(f"{conv}.bias", folded[1]),
            kernel_shape=(size, size),
            strides=(stride, stride),
            pads=(size // 2,) * 4,
            group=kernel.shape[0] if kernel.shape[1] == 1 else 1,
        )
        if not relu:
            return x
        if ceiling is None:
            return self.graph.node("Relu", x)
        bounds = (self.graph.weight(f"clip.{bound}", np.array(bound)) for bound in (0.0, ceiling))
        return self.graph.node("Clip", x, *bounds)

    def attention(self, q: str, k: str, v: str, heads: int) -> str:
        """Queries (N, L, D), keys and values (N, M, D) -> (N, L, D)."""
        return self.graph.node("MultiHeadAttention", q, k, v, domain=MICROSOFT, num_heads=heads)

    def causal_attention(
        self, q: str, k: str, v: str, past: tuple[str, str], heads: int
    ) -> tuple[str, str, str]:
        """Queries, keys and values (1, L, D) behind `past` keys and values (1, H, p, d).

        -> (1, L, D), where none sees a later token, and the keys and values of all, (1, H, p + L, d).
        """
        out, keys, values = self.graph.nodes(
            "MultiHeadAttention", q, k, v, "", "", "", *past, outputs=3, domain=MICROSOFT, num_heads=heads,
            unidirectional=1,
        )  # fmt: skip
        return out, keys, values

    def mlp(self, x: str, name: str, *, quick_gelu: bool) -> str:
        """(n, D) -> (n, D): a block's second half, with its layer norm."""
        inside = self.layer_norm(x, f"{name}.ln_2")
        inside = self.linear(inside, f"{name}.mlp.c_fc.weight", f"{name}.mlp.c_fc.bias")
        inside = self._quick_gelu(inside) if quick_gelu else self.graph.node("Gelu", inside)
        return self.linear(inside, f"{name}.mlp.c_proj.weight", f"{name}.mlp.c_proj.bias")

    def _quick_gelu(self, x: str) -> str:
        """x sigmoid(1.702 x)."""
        return self.graph.node("QuickGelu", x, domain=MICROSOFT, alpha=1.702)

    def first_tokens(self, x: str, length: int, width: int) -> str:
        """(N × length, width) -> the first of each `length` rows, (N, width)."""
        x = self.reshape(x, -1, length, width)
        g = self.graph
        return self.reshape(g.node("Slice", x, g.ints(0), g.ints(1), g.ints(1)), -1, width)

    def last_row(self, x: str) -> str:
        """(n, D) -> (1, D)."""
        g = self.graph
        return g.node("Slice", x, g.ints(-1), g.ints(1 << 62), g.ints(0))

    def reshape(self, x: str, *shape: int) -> str:
        """The same numbers in another shape; one size may be -1."""
        return self.graph.node("Reshape", x, self.graph.ints(*shape))

    def grid_to_tokens(self, x: str, width: int, tokens: int) -> str:
        """(N, width, Y, X) -> (N, Y × X, width)."""
        return self.graph.node("Transpose", self.reshape(x, -1, width, tokens), perm=(0, 2, 1))
