"""A frozen sentence-embedding model, and what teachers have names for. Used in training only."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from clipsearch.devices import cpu_has_bf16
from clipsearch.errors import MissingExtra

Report = Callable[[str, int, int], None]


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
