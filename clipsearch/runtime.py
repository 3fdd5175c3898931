"""ONNX Runtime, as the towers use it: on the processor, in silence, over arrays that are there already."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Session:
    """A graph made ready; `weights` are used where they are, and kept once more as the runtime packs them.

    Raises ValueError for weights that are not numbers, which some activations would hide.
    """

    def __init__(self, model: bytes, weights: Mapping[str, Floats], threads: int) -> None:
        onnxruntime = _silent_runtime()
        for name, array in weights.items():
            check_finite(name, array)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are remarks on optimisation
        options.intra_op_num_threads = threads
        # Threads that wait by spinning take the processors from the decoders.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
        self._weights = weights, values  # what is not packed is used where it is
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> list[Floats]:
        """What the graph gives; may be called from several threads at once."""
        out: list[Floats] = self._session.run(None, dict(inputs))
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


def check_finite(name: str, weight: Floats) -> None:
    """Raise ValueError for a weight that holds what is no number, or numbers too large to be added."""
    with np.errstate(all="ignore"):
        if not np.isfinite(weight.sum(dtype=np.float32)):
            raise ValueError(f"{name} holds values that are not numbers")
