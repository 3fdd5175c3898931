"""Training speed against OpenCLIP's loop, on the same model, shards and machine.

    python -m benchmarks.train_step DATA [--shards 'train/train-flickr8k-*.tar.gz'] [--steps 12] [--runs 3]

The yardstick is OpenCLIP's data pipeline and training step written out in plain torch (its package needs
torchvision): webdataset with decoding in worker processes, random resized crops, texts padded to the full
context, one forward and backward pass, AdamW, the clamp of the logit scale. Both train a CLIP of random
weights in single precision. Runs are interleaved, each in a process of its own; printed are medians over the
steps after the first two: samples a second, which other programs disturb, and samples a second of CPU time of
all threads and worker processes. On a busy machine take the latter with OMP_NUM_THREADS=1: threads that wait
for each other count as well.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from clipsearch.model import Clip
from clipsearch.preprocess import OPENAI_MEAN, OPENAI_STD
from clipsearch.tokenizer import ClipTokenizer
from clipsearch_train.optimiser import make_optimiser
from clipsearch_train.recipe import Recipe, load_recipe
from clipsearch_train.run import Trainer

WARM_UP = 2
RECIPE = """
[model]
embed_dim = 256
[model.vision]
image_size = 112
layers = 6
width = 256
patch_size = 16
head_width = 64
[model.text]
context_length = 77
vocab_size = 8192
width = 256
heads = 4
layers = 6
[data]
train = ["{shards}"]
val = []
min_crop = 0.9
[optim]
steps = {steps}
batch = {batch}
lr = 5e-4
warmup = 2
clip_norm = 0.0
[compute]
precision = "fp32"
"""


def ours(recipe: Recipe, data: Path, out: Path) -> dict[str, float]:
    """`clipsearch train`: samples a second, and the share of the time that steps waited for data."""
    spent: list[float] = []

    def report(stage: str, *_: object) -> None:
        if stage == "training":
            spent.append(cpu_seconds())

    Trainer(recipe, data, out, report).train()
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[WARM_UP:]
    return {
        "rate": statistics.median(float(row["samples_per_s"]) for row in rows),
        "waiting": statistics.mean(float(row["data_wait"]) for row in rows),
        "cpu_rate": recipe.optim.batch * len(rows) / (spent[-1] - spent[WARM_UP - 1]),
    }


def cpu_seconds() -> float:
    """CPU time of this process and of its workers so far. On Linux only; elsewhere of this process alone."""
    own = time.process_time()
    for worker in multiprocessing.active_children():
        path = Path(f"/proc/{worker.pid}/stat")
        if path.is_file():
            # Behind the name, which may hold anything: user and system time are the 14th and 15th field.
            fields = path.read_text().rpartition(")")[2].split()
            own += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own


class Prepared:
    """OpenCLIP's training transform and tokenisation of one sample; picklable, for the worker processes."""

    def __init__(self, size: int, tokenizer: ClipTokenizer) -> None:
        self.size, self.tokenizer = size, tokenizer

    def __call__(self, sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """A decoded sample -> pixels (3, size, size) and tokens (context length,)."""
        image, told = sample["webp"], json.loads(sample["json"])
        pixels = torch.frombuffer(bytearray(self._cropped(image).tobytes()), dtype=torch.uint8)
        pixels = pixels.view(self.size, self.size, 3).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(x)[:, None, None] for x in (OPENAI_MEAN, OPENAI_STD))
        text = random.choice(told["captions"] or told["labels"] or [""])
        return (pixels - mean) / std, torch.from_numpy(self.tokenizer([text])[0])

    def _cropped(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        scale, ratio = random.uniform(0.9, 1.0), random.uniform(3 / 4, 4 / 3)
        across = min(width, round((width * height * scale * ratio) ** 0.5))
        down = min(height, round((width * height * scale / ratio) ** 0.5))
        left, top = random.randint(0, width - across), random.randint(0, height - down)
        box = (left, top, left + across, top + down)
        return image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)


def opened(shards: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Shards with their file opened: webdataset's own opener refuses files where it is told to be secure."""
    for shard in shards:
        with Path(shard["url"]).open("rb") as stream:
            yield {**shard, "stream": stream}


def decoded(samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Samples with their image opened."""
    import io

    for sample in samples:
        yield {**sample, "webp": Image.open(io.BytesIO(sample["webp"])).convert("RGB")}


def theirs(recipe: Recipe, data: Path, _: Path) -> dict[str, float]:
    """OpenCLIP's loop: samples a second, and the share of the time that steps waited for data."""
    os.environ["WDS_SECURE"] = "1"
    import webdataset as wds
    from webdataset.tariterators import group_by_keys, tar_file_expander

    shards = sorted(str(path) for path in data.glob(recipe.data.train[0]))
    tokenizer = trained_tokenizer(recipe, data)
    dataset = wds.DataPipeline(
        wds.ResampledShards(shards),
        opened,
        tar_file_expander,
        group_by_keys,
        wds.shuffle(1000, initial=500),
        decoded,
        wds.map(Prepared(recipe.model.vision.image_size, tokenizer)),
        wds.batched(recipe.optim.batch, partial=False),
    )
    workers = len(os.sched_getaffinity(0))
    loader = wds.WebLoader(
        dataset, batch_size=None, shuffle=False, num_workers=workers, persistent_workers=True
    )
    model = Clip(recipe.model).train()
    optimiser = make_optimiser(model, recipe.optim)
    rates, waits, spent, batches = [], [], [], iter(loader)
    for _step in range(recipe.optim.steps):
        started = time.perf_counter()
        images, texts = next(batches)
        waited = time.perf_counter() - started
        optimiser.zero_grad()
        image = F.normalize(model.encode_image(images), dim=-1)
        text = F.normalize(full_length(model, texts), dim=-1)
        logits = model.logit_scale.exp() * image @ text.T
        labels = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        loss.backward()
        optimiser.step()
        model.clamp_logit_scale()
        loss.item()
        took = time.perf_counter() - started
        rates.append(len(images) / took)
        waits.append(waited / took)
        spent.append(cpu_seconds())
    return {
        "rate": statistics.median(rates[WARM_UP:]),
        "waiting": statistics.mean(waits[WARM_UP:]),
        "cpu_rate": recipe.optim.batch * len(rates[WARM_UP:]) / (spent[-1] - spent[WARM_UP - 1]),
    }


def full_length(model: Clip, texts: torch.Tensor) -> torch.Tensor:
    """Text features as OpenCLIP computes them: of all positions of the context, padding included."""
    x = model.token_embedding(texts) + model.positional_embedding
    x = model.ln_final(model.transformer(x))
    pooled: torch.Tensor = x[torch.arange(len(texts)), texts.argmax(dim=-1)] @ model.text_projection
    return pooled


def trained_tokenizer(recipe: Recipe, data: Path) -> ClipTokenizer:
    """A tokenizer of the recipe's size, of the captions."""
    from clipsearch_train.data import read_shards

    samples, _ = read_shards(sorted(data.glob(recipe.data.train[0])))
    texts = (text for sample in samples for text in (*sample.captions, *sample.labels))
    return ClipTokenizer.train(texts, recipe.model.text.vocab_size, recipe.model.text.context_length)


WAYS: dict[str, Callable[[Recipe, Path, Path], dict[str, float]]] = {
    "clipsearch": ours,
    "OpenCLIP's loop": theirs,
}


def main() -> None:
    """Measure each way by turns in processes of their own, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--shards", default="train/train-flickr8k-*.tar.gz")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "recipe.toml"
        path.write_text(RECIPE.format(shards=options.shards, steps=options.steps, batch=options.batch))
        if options.way:
            torch.manual_seed(0)
            print(json.dumps(WAYS[options.way](load_recipe(path), options.data, Path(scratch) / "out")))
            return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.runs):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--way", way]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        way: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for way, runs in found.items()
    }
    base = medians["OpenCLIP's loop"]
    for way, told in medians.items():
        rates = (
            f"{told[key]:7.1f} samples a {unit} ({told[key] / base[key]:.2f})"
            for key, unit in (("rate", "second"), ("cpu_rate", "CPU second"))
        )
        print(f"{way:16} {', '.join(rates)}, {told['waiting']:.1%} waiting for data")


if __name__ == "__main__":
    main()
