"""CLIP's text tower in ONNX Runtime, for programs that embed one text after another.

The runtime lays the weights out anew for its products, which costs a fifth of a second and their memory once
more; each text then takes half as long as in `clipsearch.text_tower` (docs/performance.md). The same function
in the same precision. Texts begin with the same token, and what a causal tower makes of it depends on nothing
else: that is computed once.

One thread: two would meet four times a block, and a meeting takes longer than what it saves.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from clipsearch.graphs import text_graph
from clipsearch.mapped import Mapped, single
from clipsearch.runtime import Session
from clipsearch.sizes import ClipConfig, TextConfig
from clipsearch.text_tower import MANY, TextTower

Floats = npt.NDArray[np.float32]

_OTHERS = ("visual.", "token_embedding.", "positional_embedding", "logit_")
_PARAMETERS_PER_SQUARE = 12
"""Of a block, in squares of its width: 4 of its attention, 8 of its multi-layer perceptron."""
_WORTH_IT = 16_000_000


def worth_it(config: TextConfig) -> bool:
    """Whether the blocks have so many parameters that a text waits for them more than for all the rest."""
    return _PARAMETERS_PER_SQUARE * config.layers * config.width**2 >= _WORTH_IT


class ResidentTextTower:
    """See `clipsearch.text_tower.TextTower`, which still does many texts at once, on all processors.

    `tensors` are those of the model, in OpenAI's layout. Raises ValueError for weights that are not numbers.
    """

    def __init__(self, tensors: Mapping[str, Mapped], config: ClipConfig) -> None:
        weights = {name: single(tensor) for name, tensor in tensors.items() if not name.startswith(_OTHERS)}
        self._session = Session(*text_graph(config, weights), threads=1)
        self._embedding = tensors["token_embedding.weight"]
        self._places = single(tensors["positional_embedding"])
        text = config.text
        self._together = TextTower(tensors, text, quick_gelu=config.quick_gelu)
        self._nothing = np.zeros((2 * text.layers, text.heads, 0, text.width // text.heads), np.float32)
        self._begun: tuple[int, Floats] = -1, self._nothing  # the first token of a text, and what it gave

    def encode(self, tokens_NL: npt.NDArray[np.int64]) -> Floats:
        """(N, context length) token ids, each row with an end of text (the highest id) -> (N, E) features."""
        ends_N = tokens_NL.argmax(axis=1)
        if len(ends_N) == 0 or np.sum(ends_N + 1) >= MANY:
            return self._together.encode(tokens_NL)
        return np.concatenate([self._one(row[: end + 1]) for row, end in zip(tokens_NL, ends_N, strict=True)])

    def _one(self, text: npt.NDArray[np.int64]) -> Floats:
        """The tokens of a text -> (1, E)."""
        if len(text) == 1:
            return self._run(text, 0, self._nothing)[0]
        first, past = self._begun
        if first != text[0]:
            past = self._run(text[:1], 0, self._nothing)[1]
            self._begun = int(text[0]), past
        return self._run(text[1:], 1, past)[0]

    def _run(self, tokens: npt.NDArray[np.int64], place: int, past: Floats) -> list[Floats]:
        rows = single(self._embedding[tokens]) + self._places[place : place + len(tokens)]
        return self._session.run({"input": rows, "past": past})
