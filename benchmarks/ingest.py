"""Indexing speed and memory, against what decode and encode alone cost, and against a peer.

    python benchmarks/ingest.py PHOTOS [--model NAME] [--rclip RCLIP --vocabulary BPE] [--runs 5] [--json OUT]

Without --model: random weights in the sizes of ViT-B-32-256, the same that rclip 3.3 gets, exported to ONNX,
so that both do the same work. With --model ours is that one, and rclip's still that size: it has no other.
The bound is cores / (CPU seconds of decode + encode an image), each measured alone on the same photos. Runs
are interleaved; medians are printed, of CPU seconds too, which tell more where other work runs beside.
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
from typing import Any

import numpy as np
import torch

from clipsearch.devices import processors
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
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr)
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
    costs = []
    for _ in range(rounds):
        started = time.process_time()
        encoder.encode_pixels(pixels)
        costs.append(time.process_time() - started)
    return statistics.median(costs) / batch


def measured(command: list[str], **options: Any) -> tuple[str, dict[str, float]]:
    """What a command says, and what it took: seconds, CPU seconds of all its processes, MB of the largest."""
    started = time.perf_counter()
    whole = [sys.executable, "-c", MEASURED, *command]
    done = subprocess.run(whole, capture_output=True, text=True, check=True, **options)
    wall = time.perf_counter() - started
    peak, cpu = map(float, done.stderr.splitlines()[-1].split())
    return done.stdout, {"seconds": wall, "cpu": cpu, "peak_mb": peak / 1024}


def run_ours(photos: Path, model: str, scratch: Path) -> dict[str, float]:
    """One `clipsearch index` into a new library."""
    library = scratch / "library"
    shutil.rmtree(library, ignore_errors=True)
    command = [sys.executable, "-m", "clipsearch", "index", str(photos), "-l", str(library), "-m", model]
    out, taken = measured([*command, "--json"])
    summary = json.loads(out)
    images = summary["new"]
    return {
        "rate": images / summary["seconds"],
        "rate_with_start": images / taken["seconds"],
        "cpu_ms": taken["cpu"] / images * 1000,
        "peak_mb": taken["peak_mb"],
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


def run_rclip(executable: str, photos: Path, data: Path, count: int) -> dict[str, float]:
    """One first query of rclip, which indexes everything."""
    for path in data.glob("db.sqlite3*"):
        path.unlink()
    environment = {**os.environ, "RCLIP_DATADIR": str(data), "HF_HUB_OFFLINE": "1"}
    _, taken = measured([executable, "a dog", "-f"], cwd=photos, env=environment)
    return {
        "rate_with_start": count / taken["seconds"],
        "cpu_ms": taken["cpu"] / count * 1000,
        "peak_mb": taken["peak_mb"],
    }


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def measure(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """All figures, for --json."""
    weights = random_model(scratch / "model") if arguments.rclip or not arguments.model else None
    model = arguments.model or str(scratch / "model")
    encoder, files = load_model(model), photo_files(arguments.photos)
    decoding, encoding = decode_cost(files, encoder.preprocess), encode_cost(encoder, 32)
    cores = processors()
    if arguments.rclip:
        prepare_rclip(weights, scratch / "rclip")
        (scratch / "rclip" / "tokenizer").mkdir()
        shutil.copy(arguments.vocabulary, scratch / "rclip" / "tokenizer" / "bpe_simple_vocab_16e6.txt.gz")
    ours, peers = [], []
    for _ in range(arguments.runs):
        ours.append(run_ours(arguments.photos, model, scratch))
        if arguments.rclip:
            peers.append(run_rclip(arguments.rclip, arguments.photos, scratch / "rclip", len(files)))
    return {
        "photos": len(files),
        "cores": cores,
        "model": "ViT-B-32-256, random weights" if not arguments.model else encoder.name,
        "decode_ms": decoding * 1000,
        "encode_ms": encoding * 1000,
        "bound": cores / (decoding + encoding),
        "clipsearch": medians(ours),
        "rclip": medians(peers) if peers else None,
    }


def show(figures: dict[str, Any]) -> None:
    """Print them for people."""
    ours, peer, bound = figures["clipsearch"], figures["rclip"], figures["bound"]
    print(f"{figures['photos']} files, {figures['cores']} cores, model {figures['model']}")
    print(
        f"CPU ms an image: decode {figures['decode_ms']:.1f}, encode {figures['encode_ms']:.1f}; "
        f"bound {bound:.1f} img/s"
    )
    print(
        f"clipsearch: {ours['rate']:.1f} img/s ({ours['rate'] / bound:.2f} of the bound), "
        f"{ours['rate_with_start']:.1f} with start-up, CPU {ours['cpu_ms']:.0f} ms an image with everything, "
        f"peak {ours['peak_mb']:.0f} MB"
    )
    if peer:
        ratio, of_cpu = ours["rate_with_start"] / peer["rate_with_start"], peer["cpu_ms"] / ours["cpu_ms"]
        print(
            f"rclip:      {peer['rate_with_start']:.1f} img/s with start-up, CPU {peer['cpu_ms']:.0f} ms "
            f"an image, peak {peer['peak_mb']:.0f} MB; ratio {ratio:.2f}, of CPU {of_cpu:.2f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--rclip", help="rclip's executable, in an environment of its own")
    parser.add_argument("--vocabulary", type=Path, help="bpe_simple_vocab_16e6.txt.gz, for rclip")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = measure(arguments, Path(name))
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
