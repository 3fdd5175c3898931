"""Scores of a model on held-out shards.

Retrieval where samples have captions, classification where they have labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from clipsearch.model import Clip
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch_train.data import Sample, decode, named, read_shards
from clipsearch_train.evaluation.datasets import from_samples, names_beside, scored
from clipsearch_train.evaluation.retrieval import retrieve
from clipsearch_train.evaluation.templates import IMAGENET_7
from clipsearch_train.evaluation.zeroshot import TextEncoder, class_embeddings, classify

Vectors = npt.NDArray[np.float32]
Results = dict[str, dict[str, float]]


@dataclass
class Validation:
    """Held-out samples by source; `teacher_results` are the bridge's scores where there is one."""

    sources: dict[str, list[Sample]]
    class_names: dict[str, list[str]] = field(default_factory=dict)
    teacher_results: Results = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    """Sentences about what was left out."""

    @classmethod
    def read(cls, shards: Sequence[Path], limit: int | None = None) -> Validation:
        """Read shards; a `<prefix>_names.json` beside them lists the classes of sources that start so.

        Images that cannot be decoded are left out. Raises TrainingError.
        """
        validation = cls({})
        if shards:
            samples, report = read_shards(shards, limit)
            validation.add(samples)
            if report.skipped:
                validation.remarks.insert(0, f"Of the validation shards were left out {report}.")
        validation.class_names = names_beside(shards, list(validation.sources))
        return validation

    def add(self, samples: Sequence[Sample]) -> None:
        """Take in samples that were held out of the training set, but for images that cannot be decoded."""
        broken = []
        for sample in samples:
            if _is_image(sample):
                self.sources.setdefault(sample.source, []).append(sample)
            else:
                broken.append(sample.key)
        if broken:
            told = "1 image" if len(broken) == 1 else f"{len(broken):,} images"
            self.remarks.append(f"For validation {told} could not be decoded ({named(broken)}).")

    def settle(self) -> None:
        """Keep the samples that their sources are scored by.

        Raises TrainingError for a label that is no class.
        """
        for source, samples in list(self.sources.items()):
            kept, remarks = scored(source, samples)
            self.remarks += remarks
            if kept:
                self.sources[source] = kept
                from_samples(source, kept, self.class_names.get(source))
            else:
                del self.sources[source]

    def metrics(self) -> dict[str, list[str]]:
        """What each source is scored by."""
        one, first = np.ones((1, 1), np.float32), np.zeros(1, np.int64)
        captioned = ["images", "captions", *retrieve(one, one, first).scores()]
        labelled = ["images", "classes", *classify(one, one, first).scores()]
        return {
            source: captioned if samples[0].captions else labelled for source, samples in self.sources.items()
        }

    def evaluate(self, model: Clip, preprocess: Preprocess, tokenizer: ClipTokenizer) -> Results:
        """Scores by source, accuracies and recalls in percent; the model stays where it is."""
        device = next(model.parameters()).device

        class Texts:
            @torch.inference_mode()
            def encode_text(self, texts: Sequence[str]) -> Vectors:
                rows = [
                    model.encode_text(torch.from_numpy(tokenizer(texts[start : start + 256])).to(device))
                    for start in range(0, len(texts), 256)
                ]
                return np.asarray(F.normalize(torch.cat(rows), dim=-1).float().cpu().numpy())

        @torch.inference_mode()
        def images(samples: Sequence[Sample]) -> Vectors:
            rows = []
            for start in range(0, len(samples), 64):
                pixels = np.stack([preprocess.pixels(decode(s.image)) for s in samples[start : start + 64]])
                features = model.encode_image(preprocess.normalise(pixels, device))
                rows.append(F.normalize(features, dim=-1))
            return np.asarray(torch.cat(rows).float().cpu().numpy())

        return self.score(images, Texts())

    def score(self, images: Callable[[Sequence[Sample]], Vectors], texts: TextEncoder) -> Results:
        """Scores by source of any pair of image and text embedders."""
        results: Results = {}
        for source, samples in self.sources.items():
            kept, _ = scored(source, samples)
            if not kept:
                continue
            dataset = from_samples(source, kept, self.class_names.get(source))
            embedded = images(kept)
            scores: dict[str, float] = {"images": len(kept)}
            if dataset.captioned:
                owner_M = dataset.image_of_caption
                found = retrieve(embedded, texts.encode_text(dataset.captions), owner_M)
                scores |= {"captions": len(owner_M), **found.scores()}
            else:
                class_CD = class_embeddings(texts, dataset.class_names, IMAGENET_7)
                scores |= {"classes": len(class_CD)}
                scores |= classify(embedded, class_CD, dataset.labels).scores()
            results[source] = scores
        return results


def _is_image(sample: Sample) -> bool:
    try:
        decode(sample.image)
    except ValueError:
        return False
    return True
