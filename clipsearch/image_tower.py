"""CLIP's image tower in ONNX Runtime, for CPUs: `clipsearch.model.Clip.encode_image` without torch.

ONNX Runtime starts in a fifth of a second where torch takes seconds; see docs/performance.md. The same
function in the same precision.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from clipsearch.devices import processors
from clipsearch.graphs import image_graph
from clipsearch.mapped import Mapped, single
from clipsearch.preprocess import Preprocess
from clipsearch.runtime import Session
from clipsearch.sizes import ClipConfig

Floats = npt.NDArray[np.float32]
PREFIX = "visual."
AT_ONCE = 4
"""Pictures that a convolutional tower computes at once: their maps stay near the processor, and in memory."""


class ImageTower:
    """The image tower of one model; `tensors` are those of the model, in OpenAI's layout.

    Weights of single precision are read where they are mapped, and kept once more as the runtime packs them.
    `threads`: how many compute; None means one for each processor that this process may use. Raises
    ValueError for weights that are not numbers, which some activations would hide.
    """

    def __init__(
        self,
        config: ClipConfig,
        tensors: Mapping[str, Mapped],
        preprocess: Preprocess | None,
        threads: int | None = None,
    ) -> None:
        pictures = {name: single(tensor) for name, tensor in tensors.items() if name.startswith(PREFIX)}
        self._session = Session(*image_graph(config, pictures, preprocess), threads or processors())
        convolves = config.vision.trunk is not None or not isinstance(config.vision.layers, int)
        self._at_once = AT_ONCE if convolves else None

    def features(self, images: npt.NDArray[np.uint8] | Floats) -> Floats:
        """uint8 (N, Y, X, 3) -> (N, E); without a `preprocess` normalised float32 (N, 3, Y, X)."""
        step = self._at_once or max(1, len(images))
        parts = [images[start : start + step] for start in range(0, max(1, len(images)), step)]
        found = [self._session.run({"input": np.ascontiguousarray(part)})[0] for part in parts]
        return found[0] if len(found) == 1 else np.concatenate(found)
