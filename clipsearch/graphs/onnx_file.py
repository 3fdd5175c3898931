"""ONNX models as bytes: the few messages of the format that a tower needs.

The `onnx` package would do it too, at 30 MB installed and 0.3 s of every start. The format is protocol
buffers (https://protobuf.dev/programming-guides/encoding); the numbers of its fields are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.

Weights are not written into the model: it says that they lie outside, and whoever runs it hands them over as
arrays. So nothing is copied, and no limit of 2 GB applies.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Attribute = int | float | str | Sequence[int]

OPSET = 20
"""The first with Gelu."""
IR_VERSION = 9
"""The format's own version that came with it."""
MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

FLOAT, UINT8, INT64 = 1, 2, 7  # TensorProto.DataType
_VARINT, _BYTES, _FLOAT = 0, 2, 5  # kinds of fields
_EXTERNAL = 1  # TensorProto.DataLocation
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_INTS = (
    1,
    2,
    3,
    7,
)  # AttributeProto.AttributeType


@dataclass(frozen=True)
class Value:
    """What a model takes or gives: of which type, and its sizes, those that may vary by a name."""

    name: str
    kind: int
    shape: Sequence[int | str]


class Graph:
    """A graph in the making: each call adds something and gives its name, to be used by what follows.

    `weights` are the arrays that whoever runs the model hands over.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Floats] = {}
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._named = 0

    def weight(self, name: str, array: npt.NDArray[Any]) -> str:
        """A tensor of the model, in single precision."""
        if name not in self.weights:
            self.weights[name] = np.asarray(array, np.float32, order="C")
        return name

    def ints(self, *values: int) -> str:
        """A constant of integers, such as a shape."""
        name = self._new("ints")
        raw = np.array(values, "<i8").tobytes()
        self._constants.append(_tensor(name, INT64, (len(values),)) + _bytes(9, raw))
        return name

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Attribute) -> str:
        """What an operator gives."""
        return self.nodes(operator, *inputs, domain=domain, outputs=1, **attributes)[0]

    def nodes(
        self, operator: str, *inputs: str, outputs: int, domain: str = "", **attributes: Attribute
    ) -> list[str]:
        """The results of an operator that has several."""
        names = [self._new(operator) for _ in range(outputs)]
        self._nodes.append(
            b"".join(_text(1, name) for name in inputs)
            + b"".join(_text(2, name) for name in names)
            + _text(4, operator)
            + b"".join(_bytes(5, _attribute(name, value)) for name, value in attributes.items())
            + (_text(7, domain) if domain else b"")
        )
        return names

    def model(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> bytes:
        """The model, from what it takes to what it gives."""
        outside = (
            _tensor(name, FLOAT, array.shape)
            + _bytes(13, _text(1, "location") + _text(2, "memory"))
            + _number(14, _EXTERNAL)
            for name, array in self.weights.items()
        )
        graph = (
            b"".join(_bytes(1, node) for node in self._nodes)
            + _text(2, "tower")
            + b"".join(_bytes(5, tensor) for tensor in (*self._constants, *outside))
            + b"".join(_bytes(11, _value(value)) for value in inputs)
            + b"".join(_bytes(12, _value(value)) for value in outputs)
        )
        return (
            _number(1, IR_VERSION)
            + _text(2, "clipsearch")
            + _bytes(7, graph)
            + _bytes(8, _text(1, "") + _number(2, OPSET))
            + _bytes(8, _text(1, MICROSOFT) + _number(2, 1))
        )

    def _new(self, what: str) -> str:
        self._named += 1
        return f"{what}_{self._named}"


def _attribute(name: str, value: Attribute) -> bytes:
    head = _text(1, name)
    if isinstance(value, float):
        return head + _key(2, _FLOAT) + struct.pack("<f", value) + _number(20, _ATTRIBUTE_FLOAT)
    if isinstance(value, int):
        return head + _number(3, value) + _number(20, _ATTRIBUTE_INT)
    if isinstance(value, str):
        return head + _text(4, value) + _number(20, _ATTRIBUTE_STRING)
    return head + b"".join(_number(8, one) for one in value) + _number(20, _ATTRIBUTE_INTS)


def _tensor(name: str, kind: int, shape: Sequence[int]) -> bytes:
    return b"".join(_number(1, size) for size in shape) + _number(2, kind) + _text(8, name)


def _value(value: Value) -> bytes:
    sizes = b"".join(
        _bytes(1, _text(2, size) if isinstance(size, str) else _number(1, size)) for size in value.shape
    )
    return _text(1, value.name) + _bytes(2, _bytes(1, _number(1, value.kind) + _bytes(2, sizes)))


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as those of 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
