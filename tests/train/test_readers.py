"""The bridge between two locked towers: the text tower reads, and takes the bridge's matrix in."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from clipsearch.errors import UsageError
from clipsearch.weights import LoadedModel, load_folder
from clipsearch_train.bridge import Projections
from clipsearch_train.readers import Reader, TowerReader
from clipsearch_train.recipe import Bridge, load_recipe
from clipsearch_train.start import Start, is_whole
from clipsearch_train.targets import Targets
from tests.train.conftest import VISIONS, make_base

TEXTS = ["a red square", "blue", "a green square beside a yellow square", "white"]


def quiet(*_: object) -> None:
    pass


def embedded(loaded: LoadedModel, texts: list[str]) -> torch.Tensor:
    return F.normalize(loaded.model.encode_text(torch.from_numpy(loaded.tokenizer(texts))), dim=-1)


def read(reader: Reader, texts: list[str]) -> npt.NDArray[np.float32]:
    return reader.read(texts, quiet).astype(np.float32)


def test_the_tower_reads_what_it_encodes(tmp_path: Path) -> None:
    loaded = load_folder(make_base(tmp_path / "base"))
    reader = TowerReader(loaded)
    texts = TEXTS * 40  # more than a batch, of mixed lengths
    with torch.inference_mode():
        expected = embedded(loaded, texts).numpy()
    np.testing.assert_allclose(read(reader, texts), expected, atol=1e-3)
    assert reader.name != TowerReader(load_folder(make_base(tmp_path / "other", VISIONS["mobilenet"]))).name


def test_the_projection_takes_the_matrix_in(tmp_path: Path) -> None:
    loaded = load_folder(make_base(tmp_path / "base", VISIONS["mobilenet"]))
    bridge = Projections(1280, 24, 24, Bridge(hidden=48), linear_text=True).eval()
    features = torch.from_numpy(read(TowerReader(loaded), TEXTS))
    with torch.inference_mode():
        assert F.cosine_similarity(bridge.embed_texts(features), features).min() > 0.9999, "nothing yet"
        torch.manual_seed(0)
        bridge.text.weight.copy_(torch.randn(24, 24))
        wanted = bridge.embed_texts(features)
        assert F.cosine_similarity(wanted, features).max() < 0.9
    targets = Targets.__new__(Targets)
    targets.bridge = bridge
    targets.turn_text(loaded.model)
    with torch.inference_mode():
        torch.testing.assert_close(embedded(loaded, TEXTS), wanted, atol=2e-3, rtol=0)


NEW = """
[start]
model = "mini"
image = "new"
text = "lock"
[model.vision]
image_size = 65
trunk = "efficientnet_lite2"
trunk_proj = "mlp"
[teacher]
image = "p"
text = "start"
"""
HEAD = '[start]\nmodel = "mini"\nimage = "head"\n[frozen]\n[teacher]\nimage = "i.onnx"\ntext = "start"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD, 'text = "start" is for .start. with text = "lock" and image = "head" or "new"'),
        (HEAD.replace('"start"\n', '"t"\n') + "[optim]\nsteps = 0\n", "steps = 0 is for .teacher."),
        ("[model]\n[optim]\nsteps = 0\n", "steps = 0 is for .teacher."),
        (NEW + "[bridge]\nhidden = 768\n[optim]\nsteps = 0\n", "steps = 0 is for .teacher."),
        (NEW, r"takes trunk_proj = \"mlp\" and bridge: hidden = 768"),
        (NEW.replace("mlp", "linear") + "[bridge]\nhidden = 768\n", "takes trunk_proj = "),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        load_recipe(tmp_path / "r.toml")


def test_a_new_projection_makes_it_another_model() -> None:
    assert is_whole(Start("mini", text="lock"))
    assert not is_whole(Start("mini", image="head", text="lock"))
