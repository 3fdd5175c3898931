"""rclip 3.3 as the benchmarks run it: its models, its vocabulary, its database.

Both programs get the same random weights in the sizes of ViT-B-32-256, so that both do the same work: here as
a model folder, there as the two ONNX graphs that it would otherwise download.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.weights import save_folder
from clipsearch_indexer.scan import FileStat

MODEL = "ViT-B-32-256-datacomp_s34b_b86k"
MERGES = 49_152 - 256 - 2
# As rclip 3.3 makes it (`rclip/db.py`, version 4).
_SCHEMA = """
CREATE TABLE images (id INTEGER PRIMARY KEY, deleted BOOLEAN, filepath TEXT NOT NULL UNIQUE,
    modified_at DATETIME NOT NULL, size INTEGER NOT NULL, vector BLOB NOT NULL, indexing BOOLEAN, hash TEXT);
CREATE UNIQUE INDEX existing_images ON images(filepath) WHERE deleted IS NULL;
CREATE INDEX hash_index ON images(hash) WHERE deleted IS NULL;
CREATE TABLE db_version (version INTEGER);
INSERT INTO db_version VALUES (4);
"""


def clip_tokenizer(vocabulary: Path) -> ClipTokenizer:
    """CLIP's own tokenizer from `bpe_simple_vocab_16e6.txt.gz`: 49,408 tokens."""
    lines = gzip.decompress(vocabulary.read_bytes()).decode().splitlines()[1 : 1 + MERGES]
    spec = json.loads(ClipTokenizer.train(["a"], 514, 77)._tokenizer.to_str())
    end, start = (spec["model"]["vocab"].pop(token["content"]) for token in reversed(spec["added_tokens"]))
    tokens = [*spec["model"]["vocab"], *(line.replace(" ", "") for line in lines)]
    spec["model"]["vocab"] = {token: number for number, token in enumerate(tokens)}
    spec["model"]["merges"] = [line.split(" ") for line in lines]
    moved = {start: len(tokens), end: len(tokens) + 1}
    for token in spec["added_tokens"]:
        token["id"] = moved[token["id"]]
        spec["model"]["vocab"][token["content"]] = token["id"]
    for special in spec["post_processor"]["special_tokens"].values():
        special["ids"] = [moved[number] for number in special["ids"]]
    return ClipTokenizer(Tokenizer.from_str(json.dumps(spec)), 77)


def random_model(folder: Path, vocabulary: Path) -> Clip:
    """Save random weights of ViT-B-32-256 as a model folder of clipsearch's."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(vocabulary)
    text = TextConfig(77, tokenizer.vocab_size, 512, 8, 12)
    model = Clip(ClipConfig(512, VisionConfig(256, 12, 768, 32), text)).eval()
    save_folder(folder, model, Preprocess(256), tokenizer, half=False)
    return model


class _Text(torch.nn.Module):
    def __init__(self, model: Clip) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(tokens)


def export_text(model: Clip, path: Path) -> None:
    """The text tower over all 77 positions as an ONNX graph: int64 (1, 77) `input` -> (1, dim) `output`."""
    whole = torch.arange(1, 78)[None]  # ends at the last position, so that no position is left out
    _export(_Text(model), whole, path, {})


def prepare(data: Path, model: Clip, vocabulary: Path) -> None:
    """Put the graphs and the vocabulary where rclip looks for them (`RCLIP_DATADIR`)."""
    folder = data / MODEL
    folder.mkdir(parents=True)
    (data / "tokenizer").mkdir()
    shutil.copy(vocabulary, data / "tokenizer" / "bpe_simple_vocab_16e6.txt.gz")
    export_text(model, folder / "textual.onnx")
    batch = {"input": {0: "n"}, "output": {0: "n"}}
    _export(model.visual, torch.zeros(1, 3, 256, 256), folder / "visual.onnx", batch)


def _export(
    module: torch.nn.Module, example: torch.Tensor, path: Path, axes: dict[str, dict[int, str]]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer
        torch.onnx.export(
            module,
            (example,),
            str(path),
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=axes,
            dynamo=False,
            opset_version=17,
        )


def fill(data: Path, found: Sequence[FileStat], vectors: npt.NDArray[np.float32]) -> None:
    """A database in which the files are known with these embeddings."""
    with sqlite3.connect(data / "db.sqlite3") as database:
        database.executescript(_SCHEMA)
        database.executemany(
            "INSERT INTO images (filepath, modified_at, size, vector, hash) VALUES (?, ?, ?, ?, ?)",
            (
                (
                    os.fsdecode(file.path),
                    Path(os.fsdecode(file.path)).stat().st_mtime,
                    file.size,
                    row.tobytes(),
                    f"{number:032x}",
                )
                for number, (file, row) in enumerate(zip(found, vectors, strict=True))
            ),
        )


def environment(data: Path) -> dict[str, str]:
    """What rclip is run with."""
    return {"RCLIP_DATADIR": str(data), "HF_HUB_OFFLINE": "1"}
