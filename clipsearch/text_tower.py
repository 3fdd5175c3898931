"""CLIP's text tower in NumPy, for queries: `clipsearch.model.Clip.encode_text` without torch.

Importing torch takes longer than everything else that a query does. The tower here computes the same
function, in single precision, over memory-mapped weights: of the token embedding only the rows of the
query's tokens are read, and of the positions only those up to the end of the text are computed, which is
exact because the tower is causal.

Shape suffixes: N texts, L positions of one text, T positions of all texts one behind the other, D width,
H heads, d width of a head, E embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.blas import one_thread
from clipsearch.mapped import Mapped, single
from clipsearch.shares import Share, shared
from clipsearch.sizes import TextConfig

Floats = npt.NDArray[np.float32]

COLUMNS = 8
"""Columns that the matrix products of common processors do at once: 7 take longer than 8."""
MANY = 1024
"""Tokens from which the products are large enough for all threads of OpenBLAS."""
LAYER_NORM_EPS = np.float32(1e-5)
"""torch.nn.LayerNorm's default."""

# Rational approximation of erf in single precision, as Eigen and XLA compute it (Eigen 3.4,
# MathFunctionsImpl.h, `generic_fast_erf_float`): x P(x²) / Q(x²) for |x| ≤ 4, highest power first.
_ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


@dataclass(frozen=True)
class _Blocks:
    """The blocks of one forward pass.

    Activations are columns: a product is quicker with the weights, as they lie in the file, on its left. The
    rows of each are shared between two threads.
    """

    weight: Callable[[str], Floats]
    act: Callable[[Floats], Floats]
    heads: int
    share: Share

    def one(
        self, name: str, x_DT: Floats, stops_N: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]
    ) -> Floats:
        """A pre-norm transformer block: (D, T) -> the columns `wanted` of its (D, T)."""
        qkv = self.linear(f"{name}attn.in_proj_", self.layer_norm(f"{name}ln_1.", x_DT))
        attended_DT = np.zeros_like(x_DT)
        for start, stop in zip([0, *stops_N[:-1]], stops_N, strict=True):  # texts do not see each other
            attended_DT[:, start:stop] = self.attention(qkv[:, start:stop])
        x_DT = x_DT[:, wanted] + self.linear(f"{name}attn.out_proj.", attended_DT[:, wanted])
        hidden = self.linear(f"{name}mlp.c_fc.", self.layer_norm(f"{name}ln_2.", x_DT), self.act)
        out: Floats = x_DT + self.linear(f"{name}mlp.c_proj.", hidden)
        return out

    def attention(self, qkv: Floats) -> Floats:
        """Queries, keys and values (3 D, L) of one text -> (D, L); none sees a later position."""
        length = qkv.shape[1]
        q, k, v = qkv.reshape(3, self.heads, -1, length)  # H d L
        scores_HLL = q.swapaxes(1, 2) @ k * np.float32(1 / math.sqrt(q.shape[1]))
        scores_HLL[:, ~np.tri(length, dtype=bool)] = -np.inf
        weights_HLL = np.exp(scores_HLL - scores_HLL.max(axis=-1, keepdims=True))
        weights_HLL /= weights_HLL.sum(axis=-1, keepdims=True)
        out: Floats = (v @ weights_HLL.swapaxes(1, 2)).reshape(-1, length)
        return out

    def linear(self, name: str, x: Floats, act: Callable[[Floats], Floats] | None = None) -> Floats:
        weight, bias = self.weight(f"{name}weight"), self.weight(f"{name}bias")
        out = np.empty((len(weight), x.shape[1]), np.float32)

        def rows(part: slice) -> None:
            np.matmul(weight[part], x, out=out[part])
            out[part] += bias[part, None]
            if act is not None:
                out[part] = act(out[part])

        self.share(len(weight), rows)
        return out

    def layer_norm(self, name: str, x: Floats) -> Floats:
        centred = x - x.mean(axis=0)
        out: Floats = centred / np.sqrt(np.square(centred).mean(axis=0) + LAYER_NORM_EPS)
        out *= self.weight(f"{name}weight")[:, None]
        out += self.weight(f"{name}bias")[:, None]
        return out


class TextTower:
    """The text tower of one model; `tensors` are those of the model, in OpenAI's layout.

    Weights of single precision stay where they are mapped; others are widened once, at their first use.
    """

    def __init__(self, tensors: Mapping[str, Mapped], config: TextConfig, *, quick_gelu: bool) -> None:
        self.config = config
        self._tensors = tensors
        self._act = sigmoid_gelu if quick_gelu else gelu
        self._widened: dict[str, Floats] = {}

    def encode(self, tokens_NL: npt.NDArray[np.int64]) -> Floats:
        """(N, context length) token ids, each row with an end of text (the highest id) -> (N, E) features."""
        ends_N = tokens_NL.argmax(axis=1)
        texts = [row[: end + 1] for row, end in zip(tokens_NL, ends_N, strict=True)]
        if not texts:
            return np.zeros((0, self._tensors["text_projection"].shape[1]), np.float32)
        stops_N = np.cumsum([len(text) for text in texts])
        many = stops_N[-1] >= MANY
        threads = nullcontext() if many else one_thread()
        # What damaged weights bring about shows in the features.
        with threads, shared(second=not many) as share, np.errstate(all="ignore"):
            blocks = _Blocks(self.weight, self._act, self.config.heads, share)
            x_DT = self._embedded(texts)
            every = np.arange(x_DT.shape[1])
            for block in range(self.config.layers):
                last = block == self.config.layers - 1
                wanted = stops_N - 1 if last else every  # nothing else is looked at behind the last one
                x_DT = blocks.one(f"transformer.resblocks.{block}.", x_DT, stops_N, wanted)
            x_DN = blocks.layer_norm("ln_final.", x_DT)
            out: Floats = x_DN.T @ self.weight("text_projection")
        return out

    def _embedded(self, texts: list[npt.NDArray[np.int64]]) -> Floats:
        """The tokens of the texts one behind the other, and columns of zeros: (D, T), T a multiple of 8."""
        tokens = np.concatenate(texts)
        places = np.concatenate([np.arange(len(text)) for text in texts])
        rows = single(self._tensors["token_embedding.weight"][tokens])
        rows = rows + self.weight("positional_embedding")[places]
        x_DT = np.zeros((rows.shape[1], -(-len(rows) // COLUMNS) * COLUMNS), np.float32)
        x_DT[:, : len(rows)] = rows.T
        return x_DT

    def weight(self, name: str) -> Floats:
        """A tensor in single precision: where it is mapped, or widened once and kept."""
        if name not in self._widened:
            self._widened[name] = single(self._tensors[name])
        return self._widened[name]


def sigmoid_gelu(x: Floats) -> Floats:
    """x sigmoid(1.702 x), the approximation of GELU in OpenAI's weights."""
    out: Floats = x / (1 + np.exp(np.float32(-1.702) * x))
    return out


def gelu(x: Floats) -> Floats:
    """x Φ(x), Φ the distribution function of the standard normal distribution."""
    out: Floats = np.float32(0.5) * x * (1 + erf(x * np.float32(math.sqrt(0.5))))
    return out


def erf(x: Floats) -> Floats:
    """The error function, to 4e-7."""
    x = np.clip(x, -4, 4)
    square = x * x
    out: Floats = x * _polynomial(_ERF_P, square) / _polynomial(_ERF_Q, square)
    return out


def _polynomial(coefficients: tuple[float, ...], x: Floats) -> Floats:
    """Horner's scheme, highest power first."""
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value *= x
        value += np.float32(coefficient)
    return value
