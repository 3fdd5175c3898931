"""Who reads the texts that the bridge is fitted to: a sentence model, or the start model's own text tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from clipsearch.weights import LoadedModel
from clipsearch_train.teachers import sentence_embeddings

Report = Callable[[str, int, int], None]
Rows = npt.NDArray[np.float16]
BATCH = 128


class Reader:
    """Reads texts; `name` tells its features from those of other readers in a cache."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, texts: Sequence[str], report: Report) -> Rows:
        """Unit-length features of texts: float16 (n, d)."""
        raise NotImplementedError


class SentenceReader(Reader):
    """An importable package with a sentence-embedding model. Raises MissingExtra where it is not there."""

    def __init__(self, package: str) -> None:
        super().__init__("text")
        self._package = package

    def read(self, texts: Sequence[str], report: Report) -> Rows:
        """See `Reader.read`."""
        return sentence_embeddings(self._package, texts, report)


class TowerReader(Reader):
    """The text tower of the model that a run starts with, locked."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(f"text-{loaded.fingerprint[:16]}")
        self._model, self._tokenizer = loaded.model.eval(), loaded.tokenizer

    @torch.inference_mode()
    def read(self, texts: Sequence[str], report: Report) -> Rows:
        """See `Reader.read`."""
        # Texts of a length together: a batch is computed up to the end of its longest.
        order = np.argsort([len(text) for text in texts])
        rows = np.zeros((len(texts), self._model.config.embed_dim), np.float16)
        for start in range(0, len(texts), BATCH):
            chosen = order[start : start + BATCH]
            tokens = torch.from_numpy(self._tokenizer([texts[row] for row in chosen]))
            rows[chosen] = F.normalize(self._model.encode_text(tokens), dim=-1).numpy()
            report("text tower", min(start + BATCH, len(texts)), len(texts))
        return rows
