"""Indexing out of tar shards with a GPU: images a second, how much of the time it is at work, its MFU.

    python -m benchmarks.gpu_ingest SHARD... [--size B/32 --size L/14] [--device cuda] [--peak-tflops 989]
    python -m benchmarks.gpu_ingest SHARD... --stand-in 1.5

The models have random weights in the sizes of ViT-B/32 and ViT-L/14. At work is a GPU from when it is given a
batch until the rows are back, and the time that counts goes from the first batch to the last. MFU takes the
multiplications of the image tower and the peak of the precision that it computes in (989 TFLOP/s: an H200 in
half precision). `--stand-in` sleeps that many milliseconds an image instead: how much of its time a GPU of
that speed would be at work on this machine, beside the run and waited for by it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import FlopCounterMode

from clipsearch.encoder import Encoder, load_model
from clipsearch.folder import LibraryFolder
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.weights import save_folder
from clipsearch_indexer.contract import ImageEncoder, Options, Summary
from clipsearch_indexer.ingest import ingest

SIZES = {"B/32": VisionConfig(224, 12, 768, 32), "L/14": VisionConfig(224, 24, 1024, 14)}
WIDTHS = {"B/32": 512, "L/14": 768}

Vectors = npt.NDArray[np.float32]


def random_model(folder: Path, size: str) -> Clip:
    """Save a model of that size with random weights, and hardly any text tower."""
    torch.manual_seed(0)
    tokenizer = ClipTokenizer.train(["a"], 514, 77)
    text = TextConfig(77, tokenizer.vocab_size, 64, 1, 1)
    model = Clip(ClipConfig(WIDTHS[size], SIZES[size], text)).eval()
    save_folder(folder, model, Preprocess(224), tokenizer)
    return model


def tflop(model: Clip) -> float:
    """Of encoding one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.encode_image(torch.zeros(1, 3, 224, 224))
    return float(counter.get_total_flops()) / 1e12


class StandIn:
    """Sleeps in place of a GPU."""

    name, source, fingerprint = "stand-in", "/stand-in", "0" * 16
    preprocess, dim = Preprocess(224), 512

    def __init__(self, milliseconds: float, device: str) -> None:
        self._seconds = milliseconds / 1000
        self.device = device
        self._rng = np.random.default_rng(0)

    def encode_pixels(self, pixels_NYXC: npt.NDArray[np.uint8]) -> Vectors:
        """Random rows, after the time that it would take."""
        time.sleep(self._seconds * len(pixels_NYXC))
        rows = self._rng.standard_normal((len(pixels_NYXC), self.dim), dtype=np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


class Watched:
    """An encoder of which is known when it was at work."""

    def __init__(self, encoder: Encoder | StandIn) -> None:
        self.name, self.source, self.fingerprint = encoder.name, encoder.source, encoder.fingerprint
        self.preprocess, self.dim, self.device = encoder.preprocess, encoder.dim, encoder.device
        self._encoder = encoder
        self.spans: list[tuple[float, float, int]] = []

    def encode_pixels(self, pixels_NYXC: npt.NDArray[np.uint8]) -> Vectors:
        """What the encoder gives."""
        started = time.perf_counter()
        rows = self._encoder.encode_pixels(pixels_NYXC)
        self.spans.append((started, time.perf_counter(), len(pixels_NYXC)))
        return rows

    def told(self) -> tuple[float, float]:
        """Images a second and the share of the time at work, from the first batch to the last.

        The first is where the GPU is made ready, and does not count.
        """
        spans = self.spans[1:]
        took = spans[-1][1] - self.spans[0][1]
        return sum(n for _, _, n in spans) / took, sum(end - start for start, end, _ in spans) / took


def index(shards: list[str], encoder: ImageEncoder, batch: int | None) -> Summary:
    """Index the shards into a library that is thrown away."""
    with tempfile.TemporaryDirectory() as scratch, LibraryFolder.create(Path(scratch) / "library") as folder:
        return ingest(folder, encoder, shards, Options(batch=batch))


Measured = tuple[float, float]


def measured(shards: list[str], encoder: Encoder | StandIn, options: argparse.Namespace) -> Measured:
    """Medians of the rate and the share."""
    found = []
    for _ in range(options.runs):
        watched = Watched(encoder)
        index(shards, watched, options.batch)
        found.append(watched.told())
    rates, shares = zip(*found, strict=True)
    return statistics.median(rates), statistics.median(shares)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--size", action="append", choices=list(SIZES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    parser.add_argument("--stand-in", type=float)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if options.stand_in is not None:
        for device, what in (("cuda", "beside the run"), ("cpu", "waited for by the run")):
            rate, share = measured(options.shards, StandIn(options.stand_in, device), options)
            print(f"{options.stand_in} ms an image, {what}: {rate:.0f} images/s, at work {share:.3f}")
        return
    for size in options.size or list(SIZES):
        with tempfile.TemporaryDirectory() as scratch:
            model = random_model(Path(scratch), size)
            rate, share = measured(options.shards, load_model(scratch, device=options.device), options)
        work = tflop(model)
        mfu = rate * work / options.peak_tflops
        print(f"{size}: {rate:.0f} images/s, at work {share:.3f}, {work * 1e3:.1f} GFLOP each, MFU {mfu:.3f}")


if __name__ == "__main__":
    main()
