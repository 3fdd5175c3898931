"""Frozen teachers: a supervised image network and a sentence-embedding model. Used in training only."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.devices import cpu_has_bf16
from clipsearch.errors import MissingExtra, TrainingError
from clipsearch.mobilenet import BN_EPS, ConvBnAct, MobileNetEdgeTPU
from clipsearch.preprocess import Preprocess
from clipsearch_train.data import Sample, decode

Report = Callable[[str, int, int], None]
# The teacher network was trained on pixels in [-1, 1].
TEACHER_MEAN = TEACHER_STD = (0.5, 0.5, 0.5)


class _LinearStage(ConvBnAct):
    """TensorFlow's first stage has no activation where timm's has one."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv(x))
        return out


class ImageTeacher:
    """A MobileNet-EdgeTPU classifier read from ONNX: images to features and class logits."""

    def __init__(self, path: Path, size: int) -> None:
        convolutions = _onnx_convolutions(path)
        self.trunk = MobileNetEdgeTPU().eval().requires_grad_(False)
        _fill_trunk(self.trunk, convolutions[:-1])
        weight, bias = convolutions[-1]
        # The first of its 1,001 outputs is "background".
        self._head = torch.from_numpy(weight[1:, :, 0, 0]), torch.from_numpy(bias[1:])
        self.preprocess = Preprocess(size, TEACHER_MEAN, TEACHER_STD)

    def inference_trunk(self) -> MobileNetEdgeTPU:
        """The network up to its pooled features, exactly as it was trained."""
        trunk = MobileNetEdgeTPU().eval().requires_grad_(False)
        trunk.load_state_dict(self.trunk.state_dict())
        trunk.blocks[0][0].__class__ = _LinearStage  # type: ignore[index]
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
        """(N, 1280) -> (N, 1000) logits in ImageNet's order."""
        weight, bias = self._head
        return features @ weight.T + bias

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


def start_from(trunk: MobileNetEdgeTPU, teacher: ImageTeacher, headroom: npt.NDArray[np.float32]) -> None:
    """Begin a student's trunk at its teacher's weights.

    timm's first stage ends in a ReLU that the teacher lacks. Raising that stage's bias by `headroom`
    (16 channels) keeps most activations above zero, and lowering the next convolution's bias by what
    that adds leaves the function the same but for clipped values and the border; training mends those.
    """
    trunk.load_state_dict(teacher.trunk.state_dict())
    shift = torch.from_numpy(headroom)
    stage, following = trunk.blocks[0][0], trunk.blocks[1][0]  # type: ignore[index]
    with torch.no_grad():
        stage.bn1.bias.add_(shift)
        following.bn1.bias.sub_(torch.einsum("oiyx,i->o", following.conv_exp.weight, shift))


def stage_headroom(teacher: ImageTeacher, samples: Sequence[Sample]) -> npt.NDArray[np.float32]:
    """Half of how far each channel of the teacher's first stage goes below zero: float32 (16,)."""
    pixels, _ = teacher._pixels(samples)
    trunk = teacher.trunk
    with torch.inference_mode():
        stem = F.relu(trunk.bn1(trunk.conv_stem(teacher.preprocess.normalise(pixels))))
        stage = trunk.blocks[0][0]  # type: ignore[index]
        lowest = stage.bn1(stage.conv(stem)).amin(dim=(0, 2, 3))
    return np.asarray((-lowest / 2).clamp(min=0).numpy(), dtype=np.float32)


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


def _fill_trunk(
    trunk: MobileNetEdgeTPU, convolutions: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
) -> None:
    convs = [module for module in trunk.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    if len(convs) != len(convolutions) or any(
        conv.weight.shape != weight.shape for conv, (weight, _) in zip(convs, convolutions, strict=True)
    ):
        raise TrainingError("The ONNX teacher is not a MobileNet-EdgeTPU 1.0.")
    with torch.no_grad():
        for conv, norm, (weight, bias) in zip(convs, norms, convolutions, strict=True):
            # Its batch norms are folded into weights and biases: ours become plain biases.
            conv.weight.copy_(torch.from_numpy(weight))
            norm.weight.fill_(1)
            norm.bias.copy_(torch.from_numpy(bias))
            norm.running_mean.zero_()  # type: ignore[union-attr]
            norm.running_var.fill_(1 - BN_EPS)  # type: ignore[union-attr]


def sentence_embeddings(
    package: str, texts: Sequence[str], report: Report, batch: int = 128
) -> npt.NDArray[np.float16]:
    """Mean-pooled, unit-length embeddings by the package's sentence model: float16 (n, d)."""
    folder = _package_folder(package)
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise MissingExtra("The text teacher needs `pip install transformers`.") from error
    disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    order = np.argsort([len(text) for text in texts])
    rows = np.zeros((len(texts), model.config.hidden_size), np.float16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
        for start in range(0, len(texts), batch):
            chosen = order[start : start + batch]
            tokens = tokenizer(
                [texts[row] for row in chosen],
                padding=True,
                truncation=True,
                max_length=48,
                return_tensors="pt",
            )
            hidden = model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"][..., None]
            rows[chosen] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy()
            report("text teacher", min(start + batch, len(texts)), len(texts))
    return rows


def _package_folder(package: str) -> Path:
    try:
        return Path(importlib.import_module(package).MODEL_DIR)
    except (ImportError, AttributeError) as error:
        raise MissingExtra(f"The text teacher needs `pip install {package.replace('_', '-')}`.") from error


def teacher_vocabulary(package: str) -> list[str]:
    """The whole words of the text teacher's vocabulary, commonest first."""
    lines = (_package_folder(package) / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return [word for word in lines if word.isascii() and word.isalpha() and len(word) > 2]


def imagenet_classes() -> list[tuple[list[str], str]]:
    """Names and definition of each ImageNet-1k class in order, from the files of the `timm` package.

    Read as data: importing timm would need torchvision.
    """
    try:
        timm = importlib.metadata.distribution("timm")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtra("The class names need `pip install --no-deps timm`.") from error

    def table(name: str) -> list[list[str]]:
        text = Path(str(timm.locate_file(f"timm/data/_info/{name}"))).read_text(encoding="utf-8")
        return [line.split("\t") for line in text.splitlines()]

    lemmas = dict(table("imagenet_synset_to_lemma.txt"))
    definitions = dict(table("imagenet_synset_to_definition.txt"))
    synsets = [row[0] for row in table("imagenet_synsets.txt")]
    return [([name.strip() for name in lemmas[s].split(",")], definitions[s]) for s in synsets]
