"""One short query to its vector, warm: ours, torch over all 77 positions, and ONNX Runtime as rclip has it.

    python -m benchmarks.text_encoding --vocabulary bpe_simple_vocab_16e6.txt.gz [--runs 25] [--json]

Random weights in the sizes of ViT-B-32's text tower, the same for all. Each way has a process of its own, and
they take turns query by query; medians on the clock and of processors are printed, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

QUERY = "a dog on a beach"
WARM = 3
PAUSE = 0.1
"""Seconds between queries: threads of one way that still spin are not to be the others' trouble."""

Encode = Callable[[], object]


def ours(folder: Path) -> Encode:
    """The text tower as a program that stays has it (`Library.open(..., resident=True)`)."""
    return _words(folder, resident=True)


def numpy(folder: Path) -> Encode:
    """The text tower in NumPy, as a single query has it."""
    return _words(folder, resident=False)


def _words(folder: Path, *, resident: bool) -> Encode:
    from clipsearch.mapped_model import map_model
    from clipsearch.text_encoder import load_text_encoder

    model = map_model(folder)
    encoder = model and load_text_encoder(folder, model.fingerprint, resident=resident)
    assert encoder is not None
    return lambda: encoder.encode_text([QUERY])


def torch_whole(folder: Path) -> Encode:
    """The torch model over all positions: a text whose end is the last one."""
    import torch

    from clipsearch.weights import load_folder

    loaded = load_folder(folder)

    def encode() -> object:
        tokens = torch.from_numpy(loaded.tokenizer([QUERY]))
        end = tokens[0].argmax()
        tokens[0, -1], tokens[0, end] = tokens[0, end].clone(), 0
        with torch.inference_mode():
            return loaded.model.encode_text(tokens)

    return encode


def onnx(folder: Path) -> Encode:
    """ONNX Runtime with one thread for each processor, as rclip 3.3 loads its graph."""
    import os

    import onnxruntime

    from clipsearch.tokenizer import ClipTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    graph = str(folder.with_suffix(".onnx"))
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    tokenizer = ClipTokenizer.load(folder / "tokenizer.json", 77)
    return lambda: session.run(None, {"input": tokenizer([QUERY])})


WAYS = {
    "clipsearch": ours,
    "of a single query": numpy,
    "torch, 77 positions": torch_whole,
    "ONNX Runtime, 77 positions": onnx,
}


def answer(way: str, folder: Path) -> None:
    """Encode once for each line of standard input; answer with the two times in milliseconds."""
    encode = WAYS[way](folder)
    for _ in sys.stdin:
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        encode()
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(json.dumps([wall * 1000, cpu * 1000]), flush=True)


def measure(vocabulary: Path, runs: int) -> dict[str, tuple[float, float]]:
    """Medians (clock, processors) of each way in milliseconds."""
    from benchmarks.rclip import export_text, random_model

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        export_text(random_model(folder, vocabulary), folder.with_suffix(".onnx"))
        command = [sys.executable, "-m", "benchmarks.text_encoding", "--folder", str(folder), "--way"]
        started = {
            way: subprocess.Popen([*command, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for way in WAYS
        }
        times: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for turn in range(WARM + runs):
            for way, process in started.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                found = json.loads(process.stdout.readline())
                if turn >= WARM:
                    times[way].append(found)
                time.sleep(PAUSE)
        for process in started.values():
            process.communicate()
    return {
        way: (statistics.median(wall for wall, _ in found), statistics.median(cpu for _, cpu in found))
        for way, found in times.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=Path)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        answer(options.way, options.folder)
        return
    found = measure(options.vocabulary, options.runs)
    if options.json:
        print(json.dumps(found))
        return
    base = found["clipsearch"][0]
    for way, (wall, cpu) in found.items():
        print(f"{way:28} {wall:7.1f} ms {cpu:7.1f} ms of processors   {wall / base:5.1f} ×")


if __name__ == "__main__":
    main()
