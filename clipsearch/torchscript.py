"""The tensors of a TorchScript archive (OpenAI's released `.pt` files), read without running any of its code.

A TorchScript archive is a zip: `data.pkl` describes a tree of modules, `data/N` holds raw storages and
`code/` the programs, which are never opened. The pickle is read by an unpickler that can build nothing but
tensors and inert nodes. Archives are stored uncompressed, and a tensor is never larger than its storage, so
what is read is bounded by the size of the file.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}


class _Node:
    """Stands for a scripted module: keeps its attributes, does nothing."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.attributes = state


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive (a zip with code and a pickled module tree)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    return "constants.pkl" in names and "data.pkl" in names


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Dotted parameter name -> tensor.

    Raises ValueError for an archive that asks for anything but tensors and modules, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
            pickled = io.BytesIO(_read(archive, member))
            tree = _TensorUnpickler(pickled, archive, member.partition("/")[0]).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(str(error)) from error
    tensors: dict[str, Tensor] = {}
    _collect(tree, "", tensors, set())
    return tensors


def _read(archive: zipfile.ZipFile, member: str) -> bytes:
    if archive.getinfo(member).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its member {member} is compressed, which TorchScript's never are")
    return archive.read(member)


def _collect(value: object, prefix: str, tensors: dict[str, Tensor], seen: set[int]) -> None:
    if isinstance(value, Tensor):
        tensors[prefix] = value
    elif isinstance(value, _Node) and id(value) not in seen:
        seen.add(id(value))  # a node that is its own descendant, or is shared a million times, ends here
        for name, child in value.attributes.items():
            _collect(child, f"{prefix}.{name}" if prefix else str(name), tensors, seen)


def _storage(dtype: torch.dtype, data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _rebuild_tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    if math.prod(size) > storage.numel():
        raise ValueError(f"a tensor of shape {tuple(size)} does not fit its storage of {storage.numel()}")
    return storage.as_strided(size, stride, offset).clone()


def _rebuild_parameter(data: Tensor, *_: object) -> Tensor:
    return data


def _typed_list(values: list[Any], *_: object) -> list[Any]:
    return values


# The only callables that a pickle may name, beside inert nodes and dtypes.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.jit._pickle", "build_intlist"): _typed_list,
    ("torch.jit._pickle", "build_doublelist"): _typed_list,
    ("torch.jit._pickle", "build_boollist"): _typed_list,
    ("torch.jit._pickle", "build_tensorlist"): _typed_list,
    ("collections", "OrderedDict"): dict,
}


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file, encoding="utf-8")
        self._archive = archive
        self._root = root
        # A pickle may set attributes on what it is given: on a class and functions of this one reading.
        self._node = type("Node", (_Node,), {})
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Tensors, storages and inert nodes; anything else is refused."""
        if (module, name) in _ALLOWED:
            function = _ALLOWED[module, name]
            return lambda *arguments: function(*arguments)
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module.split(".")[0] == "__torch__":
            return self._node
        return self._refuse(module, name)

    def _refuse(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage, named ("storage", dtype, key, device, elements)."""
        kind, dtype, key = pid[0], pid[1], str(pid[2])
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it names a storage of kind {kind!r}")
        if key not in self._storages:
            self._storages[key] = _storage(dtype, _read(self._archive, f"{self._root}/data/{int(key)}"))
        return self._storages[key]
