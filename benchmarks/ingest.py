"""Indexing speed and memory, against what decode and encode alone cost, and against a peer.

    python -m benchmarks.ingest PHOTOS [--model NAME] [--rclip RCLIP --vocabulary BPE] [--runs 5] [--json]

Without --model: random weights in the sizes of ViT-B-32-256, the same that rclip 3.3 gets as ONNX graphs, so
that both do the same work. With --model ours is that one, and rclip's still that size: it has no other.
The bound is cores / (CPU seconds of decode + encode an image), each measured alone on the same photos. Runs
are interleaved; medians are printed, of CPU seconds too, which tell more where other work runs beside, and
where they go: the start is what indexing a single photo takes, and the rest what none of these explains.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rclip
from benchmarks.made import Run, interleaved, run
from clipsearch.devices import processors
from clipsearch.encoder import Encoder, load_model
from clipsearch.images import decode
from clipsearch.preprocess import Preprocess
from clipsearch_indexer.scan import FileStat, scan

OURS, START, PEER = "clipsearch", "start", "rclip"


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


def run_ours(photos: Path, model: str, scratch: Path) -> Run:
    """One `clipsearch index` into a new library."""
    library = scratch / "library"
    shutil.rmtree(library, ignore_errors=True)
    command = [sys.executable, "-m", "clipsearch", "index", str(photos), "-l", str(library), "-m", model]
    return run([*command, "--json"])


def run_rclip(executable: str, photos: Path, data: Path) -> Run:
    """One first query of rclip, which indexes everything."""
    for path in data.glob("db.sqlite3*"):
        path.unlink()
    return run([executable, "a dog", "-f"], photos, rclip.environment(data))


def medians(runs: list[Run], count: int) -> dict[str, float]:
    """Images a second and CPU milliseconds an image, the start of the program included; MB."""
    return {
        "rate": count / statistics.median(one.wall for one in runs),
        "cpu_ms": statistics.median(one.cpu for one in runs) / count * 1000,
        "peak_mb": statistics.median(one.peak_mb for one in runs),
    }


def rate(ours: Run) -> float:
    """Images a second of an indexing run, from its first file to its last commit."""
    summary = json.loads(ours.output)
    return float(summary["new"] / summary["seconds"])


def measure(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """All figures, for --json."""
    model, data = arguments.model or str(scratch / "model"), scratch / "rclip"
    if arguments.vocabulary:
        weights = rclip.random_model(scratch / "model", arguments.vocabulary)
        if arguments.rclip:
            rclip.prepare(data, weights, arguments.vocabulary)
    encoder, files = load_model(model), photo_files(arguments.photos)
    decoding, encoding = decode_cost(files, encoder.preprocess), encode_cost(encoder, 32)
    single = scratch / "single"
    single.mkdir()
    shutil.copy(os.fsdecode(files[0]), single)
    ways: dict[str, Callable[[], Run]] = {
        OURS: lambda: run_ours(arguments.photos, model, scratch),
        START: lambda: run_ours(single, model, scratch),
    }
    if arguments.rclip:
        ways[PEER] = lambda: run_rclip(arguments.rclip, arguments.photos, data)
    found = interleaved(arguments.runs, **ways)
    return {
        "photos": len(files),
        "cores": processors(),
        "model": encoder.name if arguments.model else "ViT-B-32-256, random weights",
        "start_ms": medians(found[START], 1)["cpu_ms"] - (decoding + encoding) * 1000,
        "decode_ms": decoding * 1000,
        "encode_ms": encoding * 1000,
        "bound": processors() / (decoding + encoding),
        "rate_without_start": statistics.median(rate(one) for one in found[OURS]),
        OURS: medians(found[OURS], len(files)),
        PEER: medians(found[PEER], len(files)) if arguments.rclip else None,
    }


def show(figures: dict[str, Any]) -> None:
    """Print them for people."""
    ours, peer, bound = figures[OURS], figures[PEER], figures["bound"]
    print(f"{figures['photos']} files, {figures['cores']} cores, model {figures['model']}")
    print(
        f"CPU ms an image: decode {figures['decode_ms']:.1f}, encode {figures['encode_ms']:.1f}; "
        f"bound {bound:.1f} img/s"
    )
    steady = figures["rate_without_start"]
    print(
        f"clipsearch: {steady:.1f} img/s ({steady / bound:.2f} of the bound), {ours['rate']:.1f} with "
        f"start-up, CPU {ours['cpu_ms']:.0f} ms an image with everything, peak {ours['peak_mb']:.0f} MB"
    )
    start = figures["start_ms"] / figures["photos"]
    rest = ours["cpu_ms"] - start - figures["decode_ms"] - figures["encode_ms"]
    print(
        f"of these {ours['cpu_ms']:.0f} ms: the start {start:.1f} ({figures['start_ms']:.0f} once), "
        f"rest {rest:.1f}"
    )
    if peer:
        print(
            f"rclip:      {peer['rate']:.1f} img/s with start-up, CPU {peer['cpu_ms']:.0f} ms an image, peak "
            f"{peer['peak_mb']:.0f} MB; ratio {ours['rate'] / peer['rate']:.2f}, "
            f"of CPU {peer['cpu_ms'] / ours['cpu_ms']:.2f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--rclip", help="rclip's executable, in an environment of its own")
    parser.add_argument("--vocabulary", type=Path, help="bpe_simple_vocab_16e6.txt.gz")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    arguments = parser.parse_args()
    if not (arguments.model or arguments.vocabulary) or (arguments.rclip and not arguments.vocabulary):
        parser.error("random weights need --vocabulary")
    with tempfile.TemporaryDirectory() as name:
        figures = measure(arguments, Path(name))
    if arguments.json:
        print(json.dumps(figures))
    else:
        show(figures)


if __name__ == "__main__":
    main()
