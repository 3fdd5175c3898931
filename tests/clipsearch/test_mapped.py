import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clipsearch.mapped import BFLOAT16, map_tensors


def mapped(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return map_tensors(file)


def raw(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(**changed: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changed}


def test_reads_what_safetensors_wrote(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "half": torch.randn(3, 5).half(),
        "single": torch.randn(2, 3, 4),
        "double": torch.randn(2).double(),
        "count": torch.tensor(7),
        "nothing": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }
    save_file({**tensors, "brain": torch.randn(4, 3).bfloat16()}, tmp_path / "w", metadata={"format": "pt"})
    found = mapped(tmp_path / "w")
    assert set(found) == {*tensors, "brain"}
    for name, tensor in tensors.items():
        assert found[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(found[name], tensor.numpy())
    assert found["brain"].dtype == BFLOAT16
    assert found["brain"].T.shape == (3, 4)
    assert not found["single"].flags.writeable


def test_reads_nothing_before_it_is_used(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "w")
    array = mapped(tmp_path / "w")["a"]
    assert array.base is not None
    with (tmp_path / "w").open("r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(5).tobytes())
    assert array[3] == 5


@pytest.mark.parametrize(
    "header",
    [
        entry(shape=[3]),
        entry(shape=[-2]),
        entry(shape=[2.0]),
        entry(shape=2),
        entry(shape=[True, 2]),
        entry(data_offsets=[0, 9]),
        entry(data_offsets=[8, 16]),
        entry(data_offsets=[-8, 0]),
        entry(data_offsets=[0]),
        entry(dtype="F8"),
        entry(dtype=["F32"]),
        {"a": 1},
        [],
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=repr,
)
def test_what_does_not_add_up_is_refused(tmp_path: Path, header: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - with whatever reason
        mapped(raw(tmp_path / "w", header, bytes(8)))


@pytest.mark.parametrize("length", [0, 9, 10**9, 2**63])
def test_a_header_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - with whatever reason
        mapped(raw(tmp_path / "w", {}, length=length))


@pytest.mark.parametrize("content", [b"", b"\0", bytes(8)])
def test_a_file_without_a_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 - with whatever reason
        mapped(tmp_path / "w")
