import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from clipsearch.errors import TrainingError
from clipsearch_train.data import Sample
from clipsearch_train.validation import Validation
from tests.train.conftest import COLOURS, colour_members, write_tar


class Colours:
    """Embeds a text by the colours it names."""

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array([[float(name in text) for name in COLOURS] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def images(samples: Sequence[Sample]) -> np.ndarray:
    return Colours().encode_text([sample.labels[0] for sample in samples])


def labelled(members: dict[str, bytes], **more: object) -> dict[str, bytes]:
    """The same samples with a label and nothing else."""
    out = dict(members)
    for name, content in members.items():
        if name.endswith(".json"):
            out[name] = json.dumps(
                {"source": "plain", "labels": json.loads(content)["labels"], **more}
            ).encode()
    return out


def test_sources_are_scored_by_what_they_have(tmp_path: Path) -> None:
    shards = [
        write_tar(tmp_path / "a.tar", colour_members(6)),
        write_tar(tmp_path / "b.tar", labelled(colour_members(12))),
    ]
    results = Validation.read(shards).score(images, Colours())
    assert results["colours"]["text_to_image_r1"] == 100.0
    assert results["plain"] == {
        "images": 12,
        "classes": 6,
        "top1": 100.0,
        "top5": 100.0,
        "mean_per_class": 100.0,
    }


def test_class_names_come_from_the_file_beside_the_shard(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "b.tar", labelled(colour_members(12)))
    (tmp_path / "plain_names.json").write_text(json.dumps([*COLOURS, "a red and black one"]))
    validation = Validation.read([shard])
    assert len(validation.class_names["plain"]) == 7
    assert validation.score(images, Colours())["plain"]["top1"] == 100.0


def test_labels_that_are_no_class_are_named(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "b.tar", labelled(colour_members(6), class_index=9))
    (tmp_path / "plain_names.json").write_text(json.dumps(list(COLOURS)))
    with pytest.raises(TrainingError, match=r"0000 of plain is of the class 'red' \(number 9\)"):
        Validation.read([shard]).score(images, Colours())
    for names, message in (
        ('["red"]', "none of the 1 classes"),
        ("{}", "not a list"),
        ("x", "cannot be read"),
    ):
        write_tar(tmp_path / "b.tar", labelled(colour_members(6)))
        (tmp_path / "plain_names.json").write_text(names)
        with pytest.raises(TrainingError, match=message):
            Validation.read([shard]).score(images, Colours())


def test_images_that_cannot_be_decoded_are_left_out(tmp_path: Path) -> None:
    members = colour_members(6)
    members["0003.png"] = members["0003.png"][:50]
    validation = Validation.read([write_tar(tmp_path / "a.tar", members)])
    assert [sample.key for sample in validation.sources["colours"]] == [
        "0000",
        "0001",
        "0002",
        "0004",
        "0005",
    ]


def test_what_a_source_is_not_scored_by_is_left_out_and_named(tmp_path: Path) -> None:
    members = labelled(colour_members(12))
    told = json.loads(members["0003.json"])
    members["0003.json"] = json.dumps({"source": told["source"]}).encode()
    members["0005.json"] = json.dumps({"source": told["source"], "captions": ["one alone"]}).encode()
    write_tar(tmp_path / "a.tar", members)
    validation = Validation.read([tmp_path / "a.tar"])
    validation.settle()
    [source] = validation.sources
    assert len(validation.sources[source]) == 10
    assert validation.remarks == [f"{source}: left out 2 images without a label to go by (0003, 0005)."]
    assert "top1" in validation.metrics()[source]
    assert validation.score(images, Colours())[source]["images"] == 10


def test_what_is_left_out_of_validation_is_told(tmp_path: Path) -> None:
    members = colour_members(6) | {
        "zz.json": b"{}",
        "0009.png": b"no image",
        "0009.json": b'{"caption": "x"}',
    }
    write_tar(tmp_path / "a.tar", members)
    told = " ".join(Validation.read([tmp_path / "a.tar"]).remarks)
    assert "1 without an image (zz)" in told
    assert "1 image could not be decoded (0009)" in told
