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
from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt

from clipsearch.blas import one_thread
from clipsearch.mapped import Mapped, single
from clipsearch.sizes import TextConfig

Floats = npt.NDArray[np.float32]

MANY = 1024
"""Tokens from which the products are large enough for all threads."""
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
        # What damaged weights bring about shows in the features.
        with one_thread() if stops_N[-1] < MANY else nullcontext(), np.errstate(all="ignore"):
            x_TD = self._embedded(texts)
            for block in range(self.config.layers):
                x_TD = self._block(f"transformer.resblocks.{block}.", x_TD, stops_N)
            x_ND = self._layer_norm("ln_final.", x_TD[stops_N - 1])
            out: Floats = x_ND @ self.weight("text_projection")
        return out

    def _embedded(self, texts: list[npt.NDArray[np.int64]]) -> Floats:
        rows_TD = single(self._tensors["token_embedding.weight"][np.concatenate(texts)])
        places = np.concatenate([np.arange(len(text)) for text in texts])
        x_TD: Floats = rows_TD + self.weight("positional_embedding")[places]
        return x_TD

    def _block(self, name: str, x_TD: Floats, stops_N: npt.NDArray[np.int64]) -> Floats:
        """A pre-norm transformer block: (T, D) -> (T, D)."""
        qkv = self._linear(f"{name}attn.in_proj_", self._layer_norm(f"{name}ln_1.", x_TD))
        # Texts do not see each other.
        attended_TD = np.concatenate([self._attention(part) for part in np.split(qkv, stops_N[:-1])])
        x_TD = x_TD + self._linear(f"{name}attn.out_proj.", attended_TD)
        hidden = self._linear(f"{name}mlp.c_fc.", self._layer_norm(f"{name}ln_2.", x_TD))
        out: Floats = x_TD + self._linear(f"{name}mlp.c_proj.", self._act(hidden))
        return out

    def _attention(self, qkv: Floats) -> Floats:
        """Queries, keys and values (L, 3 D) of one text -> (L, D); none sees a later position."""
        length, width = len(qkv), qkv.shape[1] // 3
        q, k, v = qkv.reshape(length, 3, self.config.heads, -1).transpose(1, 2, 0, 3)  # H L d
        scores_HLL = q @ k.swapaxes(1, 2) * np.float32(1 / math.sqrt(width // self.config.heads))
        scores_HLL[:, ~np.tri(length, dtype=bool)] = -np.inf
        weights_HLL = np.exp(scores_HLL - scores_HLL.max(axis=-1, keepdims=True))
        weights_HLL /= weights_HLL.sum(axis=-1, keepdims=True)
        out: Floats = (weights_HLL @ v).swapaxes(0, 1).reshape(length, width)
        return out

    def _linear(self, name: str, x: Floats) -> Floats:
        out: Floats = x @ self.weight(f"{name}weight").T
        out += self.weight(f"{name}bias")
        return out

    def _layer_norm(self, name: str, x: Floats) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        out: Floats = centred / np.sqrt(variance + LAYER_NORM_EPS)
        out *= self.weight(f"{name}weight")
        out += self.weight(f"{name}bias")
        return out

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
