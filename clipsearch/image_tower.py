"""CLIP's image tower in ONNX Runtime, for CPUs: `clipsearch.model.Clip.encode_image` without torch.

ONNX Runtime starts in a fifth of a second where torch takes seconds; see docs/performance.md. The same
function in the same precision.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.devices import processors
from clipsearch.graphs import image_graph
from clipsearch.mapped import Mapped, single
from clipsearch.preprocess import Preprocess
from clipsearch.sizes import ClipConfig

Floats = npt.NDArray[np.float32]
PREFIX = "visual."


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
        onnxruntime = _silent_runtime()
        pictures = {name: single(tensor) for name, tensor in tensors.items() if name.startswith(PREFIX)}
        model, weights = image_graph(config, pictures, preprocess)
        _check_finite(weights)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are remarks on optimisation
        options.intra_op_num_threads = threads or processors()
        # Threads that wait by spinning take the processors from the decoders.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
        self._weights = weights, values  # what is not packed is used where it is
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def features(self, images: npt.NDArray[np.uint8] | Floats) -> Floats:
        """uint8 (N, Y, X, 3) -> (N, E); without a `preprocess` normalised float32 (N, 3, Y, X)."""
        out: Floats = self._session.run(None, {"input": np.ascontiguousarray(images)})[0]
        return out


def _silent_runtime() -> Any:
    """ONNX Runtime, without what it would send of its use to its maker.

    Version 1.31 opens a store of events in the user's cache folder, and a connection to
    mobile.events.data.microsoft.com, as soon as it is imported without this in the environment.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # for a caller that had it imported before
    return onnxruntime


def _check_finite(weights: Mapping[str, Floats]) -> None:
    for name, array in weights.items():
        with np.errstate(all="ignore"):
            if not np.isfinite(array.sum(dtype=np.float32)):
                raise ValueError(f"{name} holds values that are not numbers")
