"""Both towers of a model without torch, for CPUs: pictures in ONNX Runtime, words in NumPy."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ModelInvalid
from clipsearch.image_tower import ImageTower
from clipsearch.mapped_model import MappedModel
from clipsearch.text_tower import TextTower

Vectors = npt.NDArray[np.float32]


class RuntimeTowers:
    """See `clipsearch.encoder.Towers`; over the tensors where they lie on the disk.

    The image tower is made ready at the first pictures: an indexing run decodes meanwhile.
    """

    device = "cpu"

    def __init__(self, model: MappedModel) -> None:
        self._model = model
        self._text = TextTower(model.tensors, model.config.text, quick_gelu=model.config.quick_gelu)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._model.config.embed_dim

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines with before a softmax."""
        return float(np.exp(np.float64(self._text.weight("logit_scale"))))

    def text_features(self, tokens_NL: npt.NDArray[np.int64]) -> Vectors:
        """Token ids -> float32 (N, dim)."""
        return self._text.encode(tokens_NL)

    def image_features(self, pixels_NYXC: npt.NDArray[np.uint8]) -> Vectors:
        """Pixels, as `preprocess.pixels` makes them -> float32 (N, dim). Raises ModelInvalid."""
        return self._image.features(pixels_NYXC)

    @cached_property
    def _image(self) -> ImageTower:
        model = self._model
        try:
            with np.errstate(all="ignore"):  # what damaged weights bring about is found when it is made
                return ImageTower(model.config, model.tensors, model.preprocess)
        except ValueError as error:
            raise ModelInvalid(f"The weights of {model.folder} are damaged: {error}.") from error
