import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from clipsearch.errors import ModelInvalid
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.torchscript import is_torchscript, read_torchscript
from clipsearch.weights import build, read_tensors

VIT = ClipConfig(16, VisionConfig(32, 2, 64, 16), TextConfig(12, 40, 64, 1, 2), quick_gelu=True)
RESNET = ClipConfig(
    16, VisionConfig(64, (1, 2, 1, 1), 8, None), TextConfig(12, 40, 64, 1, 2), quick_gelu=True
)
TOKENS = torch.tensor([[38, 3, 39] + [0] * 9, [38, 5, 6, 39] + [0] * 8])


@contextmanager
def jit_warnings_ignored() -> Iterator[None]:
    """TorchScript is deprecated, its archives are not: OpenAI's weights come as such."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        yield


def archive(model: nn.Module, path: Path, *inputs: torch.Tensor) -> Path:
    with jit_warnings_ignored():
        torch.jit.save(torch.jit.trace(model, inputs), path)
    return path


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("half", [False, True])
def test_an_archive_gives_the_features_of_its_source(tmp_path: Path, config: ClipConfig, half: bool) -> None:
    torch.manual_seed(0)
    model = Clip(config).eval().requires_grad_(False)
    images = torch.randn(2, 3, config.vision.image_size, config.vision.image_size)
    path = archive(model, tmp_path / "ViT.pt", images, TOKENS)
    if half:
        with jit_warnings_ignored():
            loaded = torch.jit.load(path)
            loaded.half().save(str(path))
        model.half().float()
    assert is_torchscript(path)
    ours = build(read_tensors(path), None)
    assert ours.config == config
    assert (ours.encode_image(images) - model.encode_image(images)).abs().max() <= 1e-5
    assert (ours.encode_text(TOKENS) - model.encode_text(TOKENS)).abs().max() <= 1e-5
    assert (ours(images, TOKENS) - model(images, TOKENS)).abs().max() <= 1e-4


def test_scripted_modules_with_views_and_buffers(tmp_path: Path) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            both = torch.arange(12.0).view(3, 4)
            self.transposed = nn.Parameter(both.T)
            self.register_buffer("count", torch.tensor(7))
            self.register_buffer("row", both[1])
            self.inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
            self.sizes = [1, 2]
            self.name = "small"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + self.transposed.sum() + self.row.sum() + self.count  # type: ignore[operator]

    module = Small()
    with jit_warnings_ignored():
        torch.jit.save(torch.jit.script(module), tmp_path / "small.pt")
    tensors = read_torchscript(tmp_path / "small.pt")
    state = module.state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_a_plain_checkpoint_is_no_archive(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "plain.pt")
    (tmp_path / "text.pt").write_text("no zip")
    assert not is_torchscript(tmp_path / "plain.pt")
    assert not is_torchscript(tmp_path / "text.pt")


def hostile(
    path: Path, data: bytes, storages: dict[str, bytes] | None = None, compress: bool = False
) -> Path:
    """An archive around a pickle of our own."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as out:
        out.writestr("x/constants.pkl", b"")
        out.writestr("x/data.pkl", data)
        for key, content in (storages or {}).items():
            out.writestr(f"x/data/{key}", content)
    return path


class Bomb:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (self.command,))


def protocol_2(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def storage(elements: int, key: bytes = b"0") -> bytes:
    pid = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX" + len(key).to_bytes(4, "little") + key
    return pid + b"X\x03\0\0\0cpuJ" + elements.to_bytes(4, "little") + b"tQ"


def tensor(size: int, stride: int = 1) -> bytes:
    """The pickle of a tensor of `size` over a storage of four floats."""
    numbers = b"K\0J" + size.to_bytes(4, "little") + b"\x85K" + bytes([stride]) + b"\x85"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(4) + numbers + b"\x89NtR"


NODE = b"c__torch__.M\nModule\n)\x81"


def test_a_hand_made_archive_is_read(tmp_path: Path) -> None:
    data = protocol_2(NODE, b"}X\x01\0\0\0w", tensor(4), b"sb")
    tensors = read_torchscript(hostile(tmp_path / "a.pt", data, {"0": bytes(16)}))
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {"w": (4,)}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_in_the_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    touched = tmp_path / "touched"
    bomb = pickle.dumps({"a": [Bomb(f"touch {touched}")]}, protocol)
    with pytest.raises(ModelInvalid, match=r"it asks for (posix|os)\.system"):
        read_tensors(hostile(tmp_path / "bomb.pt", bomb))
    assert not touched.exists()
    pickle.loads(bomb)
    assert touched.exists()  # the bomb is real


@pytest.mark.parametrize(
    "data",
    [
        protocol_2(b"cbuiltins\neval\nX\x03\0\0\0", b"1+1\x85R"),
        protocol_2(b"c__builtin__\ngetattr\n."),
        protocol_2(b"ctorch\nload\n."),
        protocol_2(b"ctorch._utils\n_rebuild_tensor\n."),
        protocol_2(b"c__torch__evil\nsystem\n."),
        protocol_2(NODE, b"}X\x01\0\0\0w", tensor(1000), b"sb"),
        protocol_2(NODE, b"}X\x01\0\0\0w", tensor(2**31 - 1, stride=0), b"sb"),
        protocol_2(NODE, b"}X\x01\0\0\0w", tensor(3, stride=9), b"sb"),
        protocol_2(b"X\x01\0\0\0aQ"),
        protocol_2(storage(4, b"../../../etc/passwd")),
        protocol_2(storage(4, b"99")),
        b"",
        b"\x80\x02",
        b"\x80\x02(" * 9,
        b"\x80\xff.",
        protocol_2(NODE, b"(lb"),
    ],
)
def test_anything_but_tensors_is_refused(tmp_path: Path, data: bytes) -> None:
    path = hostile(tmp_path / "a.pt", data, {"0": bytes(16)})
    with pytest.raises(ModelInvalid, match="cannot be read as model weights"):
        read_tensors(path)


def test_the_reader_itself_cannot_be_changed(tmp_path: Path) -> None:
    """BUILD with a pair sets attributes: on what this reading was given, not on the module's own."""
    from clipsearch import torchscript

    for target in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"c__torch__.M\nModule\n"):
        slots = b"N}X\x0c\0\0\0__defaults__K\x01sX\x08\0\0\0poisonedK\x01s\x86b"
        with pytest.raises(ModelInvalid):
            read_tensors(hostile(tmp_path / "a.pt", protocol_2(target, slots, b"cno\nno\n")))
    assert torchscript._rebuild_tensor.__defaults__ is None
    assert not hasattr(torchscript._Node, "poisoned")
    assert not hasattr(torchscript._rebuild_tensor, "poisoned")


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    data = protocol_2(NODE, b"}X\x01\0\0\0w", tensor(4), b"sb")
    with pytest.raises(ModelInvalid, match="compressed"):
        read_tensors(hostile(tmp_path / "bomb.pt", data, {"0": bytes(1 << 20)}, compress=True))


def test_cycles_and_shared_nodes_end(tmp_path: Path) -> None:
    cycle = protocol_2(NODE, b"q\0}X\x01\0\0\0ah\0sb")
    assert read_tensors(hostile(tmp_path / "cycle.pt", cycle)) == {}
    # Forty levels, each holding the one below twice: 2**40 paths.
    laughs = NODE + b"}X\x01\0\0\0w" + tensor(4) + b"sb"
    for level in range(40):
        slot = bytes([level])
        laughs += b"q" + slot + b"0" + NODE + b"}X\x01\0\0\0ah" + slot + b"sX\x01\0\0\0bh" + slot + b"sb"
    tensors = read_tensors(hostile(tmp_path / "laughs.pt", protocol_2(laughs), {"0": bytes(16)}))
    assert list(tensors) == [".".join("a" * 40) + ".w"]


def test_damaged_zips_are_refused(tmp_path: Path) -> None:
    whole = hostile(tmp_path / "a.pt", protocol_2(NODE, b"}b"), {"0": bytes(400)}).read_bytes()
    for content in (
        whole[:100],
        whole[: len(whole) // 2],
        whole[50:],
        whole.replace(b"x/data.pkl", b"x/data.pkx", 1),
    ):
        (tmp_path / "damaged.pt").write_bytes(content)
        with pytest.raises(ModelInvalid, match="cannot be read as model weights"):
            read_tensors(tmp_path / "damaged.pt")
