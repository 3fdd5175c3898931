"""The tensors of a safetensors file as NumPy arrays over a memory map: nothing is read before it is used.

The format (https://github.com/huggingface/safetensors): the length of the header in 8 bytes, little-endian;
the header, a JSON object of name → `dtype`, `shape` and `data_offsets` (from the end of the header); the
numbers. The `safetensors` package copies what it gives to NumPy and knows no bfloat16 there, hence this
reader. A file is untrusted: whatever does not add up is refused, and no array reaches beyond the file.
"""

from __future__ import annotations

import json
import math
import mmap
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from clipsearch.halves import Floats, from_bfloat16, from_halves

Mapped = npt.NDArray[Any]

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""NumPy has no such number; this stands for its bits, so that an array of them keeps its shape."""

_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_LENGTH = 8
_LONGEST_HEADER = 100_000_000  # the limit of the safetensors package


def map_tensors(file: BinaryIO) -> dict[str, Mapped]:
    """Name → read-only array, for each tensor of an open safetensors file; it may be closed afterwards.

    Raises ValueError for anything but a whole safetensors file.
    """
    try:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise ValueError("it is empty") from None
    length = int.from_bytes(memory[:_LENGTH], "little")
    start = _LENGTH + length
    if length > _LONGEST_HEADER or start > len(memory):
        raise ValueError("its header does not end within it")
    try:
        header = json.loads(memory[_LENGTH:start])
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    return {
        name: _array(memory, start, name, entry) for name, entry in header.items() if name != "__metadata__"
    }


def _array(memory: mmap.mmap, start: int, name: str, entry: Any) -> Mapped:
    try:
        kind, shape = _TYPES[entry["dtype"]], entry["shape"]
        begin, end = entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the header's entry for {name} cannot be used: {entry!r:.80}") from error
    count = math.prod(shape) if whole else -1
    if not whole or end - begin != count * kind.itemsize or start + end > len(memory):
        raise ValueError(f"the tensor {name} does not lie within it")
    array: Mapped = np.frombuffer(memory, kind, count, start + begin).reshape(shape)
    return array


def single(array: Mapped) -> Floats:
    """Numbers of any precision as float32, exactly where it holds them; float32 itself is not copied."""
    if array.dtype == np.float16:
        return from_halves(array)
    if array.dtype == BFLOAT16:
        return from_bfloat16(array.view(np.uint16))
    return array.astype(np.float32, copy=False)
