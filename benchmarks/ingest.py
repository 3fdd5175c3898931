"""Indexing speed and memory, against what decode and encode alone cost, and against a peer.

    python benchmarks/ingest.py PHOTOS [--model NAME] [--rclip PATH/TO/rclip] [--runs 3]

Without --model: random weights in the sizes of ViT-B-32-256, here and (exported to ONNX) in rclip 3.3, so
that both do the same work. The bound is cores / (CPU seconds of decode + encode an image), each measured
alone on the same photos. Runs are interleaved; medians are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from clipsearch.encoder import Encoder, load_model
from clipsearch.images import decode
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.weights import save_folder
from clipsearch_indexer.scan import FileStat, scan

# A process counts the memory of the one that it was forked from as its own, so a small one comes between.
MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
RCLIP_MODEL = "ViT-B-32-256-datacomp_s34b_b86k"


def random_model(folder: Path) -> Clip:
    """Random weights of ViT-B-32-256's image tower; the text tower is small, indexing does not use it."""
    tokenizer = ClipTokenizer.train(["a photo of a dog", "a photo of a cat"], 600, 77)
    text = TextConfig(77, tokenizer.vocab_size, 512, 8, 1)
    model = Clip(ClipConfig(512, VisionConfig(256, 12, 768, 32), text)).eval()
    save_folder(folder, model, Preprocess(256), tokenizer, half=False)
    return model


def photo_files(folder: Path) -> list[bytes]:
    """The photos a scan finds."""
    return [entry.path for entry in scan(os.fsencode(folder)) if isinstance(entry, FileStat)]


def decode_cost(files: list[bytes], preprocess: Preprocess) -> float:
    """CPU seconds to decode and crop one photo, in one thread."""
    started, done = time.process_time(), 0
    for path in files:
        try:
            preprocess.pixels(decode(Path(os.fsdecode(path)), cover=preprocess.size)[0])
            done += 1
        except Exception:  # photos that fail are not what is measured
            continue
    return (time.process_time() - started) / max(1, done)


def encode_cost(encoder: Encoder, batch: int, rounds: int = 4) -> float:
    """CPU seconds to encode one image in batches, with all threads."""
    size = encoder.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    encoder.encode_pixels(pixels)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        encoder.encode_pixels(pixels)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * torch.get_num_threads() / batch


def run_ours(photos: Path, model: str, scratch: Path) -> dict[str, float]:
    """One `clipsearch index` into a new library."""
    library = scratch / "library"
    shutil.rmtree(library, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "clipsearch",
        "index",
        str(photos),
        "-l",
        str(library),
        "-m",
        model,
        "--json",
    ]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], capture_output=True, check=False)
    wall = time.perf_counter() - started
    summary = json.loads(done.stdout)
    peak = int(done.stderr.splitlines()[-1]) / 1024
    return {
        "rate": summary["new"] / summary["seconds"],
        "rate_with_start": summary["new"] / wall,
        "images": summary["new"],
        "peak_mb": peak,
    }


def prepare_rclip(model: Clip, data: Path) -> None:
    """Put the same image tower where rclip looks for its own, with a text tower that answers anything."""
    folder = data / RCLIP_MODEL
    folder.mkdir(parents=True)
    export = {"input_names": ["input"], "output_names": ["output"], "dynamo": False, "opset_version": 17}
    torch.onnx.export(
        model.visual,
        (torch.randn(1, 3, 256, 256),),
        str(folder / "visual.onnx"),
        dynamic_axes={"input": {0: "n"}, "output": {0: "n"}},
        **export,
    )

    class AnyText(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens.float() @ torch.ones(77, 512)

    torch.onnx.export(
        AnyText(),
        (torch.zeros(1, 77, dtype=torch.int64),),
        str(folder / "textual.onnx"),
        dynamic_axes={"input": {0: "n"}, "output": {0: "n"}},
        **export,
    )


def run_rclip(executable: str, photos: Path, data: Path, count: int) -> float:
    """One first query of rclip, which indexes everything: images a second."""
    for path in data.glob("db.sqlite3*"):
        path.unlink()
    environment = {**os.environ, "RCLIP_DATADIR": str(data), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    subprocess.run([executable, "a dog", "-f"], cwd=photos, env=environment, capture_output=True, check=True)
    return count / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--rclip", help="rclip's executable, in an environment of its own")
    parser.add_argument("--vocabulary", type=Path, help="bpe_simple_vocab_16e6.txt.gz, for rclip")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        weights = None if arguments.model else random_model(scratch / "model")
        model = arguments.model or str(scratch / "model")
        encoder = load_model(model)
        files = photo_files(arguments.photos)
        decoding, encoding = decode_cost(files, encoder.preprocess), encode_cost(encoder, 32)
        cores = len(os.sched_getaffinity(0))
        bound = cores / (decoding + encoding)
        print(f"{len(files)} files, {cores} cores, model {encoder.name}, {encoder.preprocess.size} px")
        print(
            f"CPU ms an image: decode {decoding * 1000:.1f}, encode {encoding * 1000:.1f}; "
            f"bound {bound:.1f} img/s"
        )
        peers = []
        if arguments.rclip and weights is not None:
            prepare_rclip(weights, scratch / "rclip")
            target = scratch / "rclip" / "tokenizer"
            target.mkdir()
            shutil.copy(arguments.vocabulary, target / "bpe_simple_vocab_16e6.txt.gz")
        ours = []
        for _ in range(arguments.runs):
            ours.append(run_ours(arguments.photos, model, scratch))
            if arguments.rclip and weights is not None:
                peers.append(run_rclip(arguments.rclip, arguments.photos, scratch / "rclip", len(files)))
        rate = statistics.median(run["rate"] for run in ours)
        total = statistics.median(run["rate_with_start"] for run in ours)
        print(f"clipsearch: {rate:.1f} img/s ({rate / bound:.2f} of the bound), {total:.1f} with start-up, "
              f"peak {max(run['peak_mb'] for run in ours):.0f} MB")  # fmt: skip
        if peers:
            print(f"rclip:      {statistics.median(peers):.1f} img/s with start-up; "
                  f"ratio {total / statistics.median(peers):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
