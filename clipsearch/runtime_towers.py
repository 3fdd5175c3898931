"""Both towers of a model on a CPU: words in NumPy, pictures in ONNX Runtime.

Where the CPU multiplies bfloat16, many pictures for a ViT go to torch, which takes a second and a half to
load: half as long for ViT-B/32.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.devices import cpu_has_bf16
from clipsearch.errors import ModelInvalid
from clipsearch.image_tower import ImageTower
from clipsearch.mapped_model import MappedModel
from clipsearch.text_tower import TextTower

Vectors = npt.NDArray[np.float32]

_MANY = 8
"""Pictures in a batch: where so many come, more will, and a picture to search with comes alone."""


class _Pictures(Protocol):
    def features(self, images: npt.NDArray[np.uint8]) -> Vectors: ...


class RuntimeTowers:
    """See `clipsearch.encoder.Towers`; over the tensors where they lie on the disk.

    The image tower is made ready at the first pictures: an indexing run decodes meanwhile.
    """

    device = "cpu"

    def __init__(self, model: MappedModel) -> None:
        self._model = model
        self._text = TextTower(model.tensors, model.config.text, quick_gelu=model.config.quick_gelu)
        self._many = False

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
        if not self._many and len(pixels_NYXC) >= _MANY and self._gains_from_bf16():
            self._many = True
            self.__dict__.pop("_image", None)
        return self._image.features(pixels_NYXC)

    def _gains_from_bf16(self) -> bool:
        vision = self._model.config.vision
        if not cpu_has_bf16() or vision.trunk is not None or not isinstance(vision.layers, int):
            return False
        # Threads of torch that wait by spinning take the processors from the decoders; read as torch loads.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from clipsearch.bf16_tower import multiplies_bf16

        return multiplies_bf16()

    @cached_property
    def _image(self) -> _Pictures:
        model = self._model
        try:
            with np.errstate(all="ignore"):  # what damaged weights bring about is found when it is made
                if self._many:
                    from clipsearch.bf16_tower import Bf16ImageTower

                    return Bf16ImageTower(model.config, model.tensors, model.preprocess)
                return ImageTower(model.config, model.tensors, model.preprocess)
        except ValueError as error:
            raise ModelInvalid(f"The weights of {model.folder} are damaged: {error}.") from error
