"""The table of `make bench`: what is measured, ours, the peer's, the ratio and the bar.

    python -m benchmarks.table [--photos DIR] [--library FOLDER]
        [--rclip PATH/TO/rclip --vocabulary bpe_simple_vocab_16e6.txt.gz]

--photos are camera photos to be indexed; --library is where the library of a million photos of
`benchmarks.warm_query` is made, and kept.

Each part is a command that writes JSON and does its own interleaving and medians; one that cannot run here
(no rclip) leaves its rows out, and one that fails says so in its place. A new part is an entry in `parts`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line; `ratio` is ours to the peer's, whatever it is that counts."""

    what: str
    ours: str
    peer: str
    ratio: str
    bar: str


@dataclass(frozen=True)
class Part:
    """A command that writes JSON as its last line, and the rows that are made of it."""

    command: Sequence[str]
    rows: Callable[[Any], Iterator[Row]]


def compared(what: str, ours: float, peer: float, unit: str, bar: str) -> Row:
    """A row of two figures of the same unit."""
    return Row(what, f"{ours:.2f} {unit}", f"{peer:.2f} {unit}", f"{ours / peer:.2f}", bar)


def cold(found: dict[str, float]) -> Iterator[Row]:
    """Rows of `benchmarks.cold_query`."""
    if "rclip_s" in found:
        yield compared(
            "cold text query, 100,000 photos, ViT-B-32-256", found["b32_s"], found["rclip_s"], "s", "≤ 0.33"
        )
        yield compared("its memory", found["b32_mb"], found["rclip_mb"], "MB", "≤ 0.50")
        yield compared(
            "nothing changed, 100,000 files", found["check_s"], found["rclip_check_s"], "s", "≤ 0.10"
        )
    yield Row("cold text query with mini", f"{found['mini_s']:.2f} s", "", "", "≤ 0.6 s")


def encoding(found: dict[str, list[float]]) -> Iterator[Row]:
    """Rows of `benchmarks.text_encoding`; the peer is ONNX Runtime over 77 positions."""
    ours, peer = found["clipsearch"][0], found["ONNX Runtime, 77 positions"][0]
    yield compared("text encoding, warm, ViT-B-32", ours, peer, "ms", "≤ 15 ms")


def indexing(found: dict[str, Any]) -> Iterator[Row]:
    """Rows of `benchmarks.ingest` with the weights that rclip has."""
    ours, peer = found["clipsearch"], found["rclip"]
    yield compared("indexing camera photos", ours["rate"], peer["rate"], "img/s", "≥ 2")
    yield of_bound(found, "≥ 0.95")
    yield Row("its memory", f"{ours['peak_mb']:.0f} MB", f"{peer['peak_mb']:.0f} MB", "", "≤ 1.5 GB")


def indexing_with_mini(found: dict[str, Any]) -> Iterator[Row]:
    """Rows of `benchmarks.ingest` with mini here and rclip's model there."""
    ours, peer = found["clipsearch"], found["rclip"]
    yield compared("indexing camera photos with mini", ours["rate"], peer["rate"], "img/s", "≥ 8")
    yield of_bound(found, "")


def of_bound(found: dict[str, Any], bar: str) -> Row:
    """How near indexing comes to what decoding and encoding alone allow."""
    steady, bound = found["rate_without_start"], found["bound"]
    what = "of what decode + encode allow"
    return Row(what, f"{steady:.2f} img/s", f"{bound:.2f} img/s", f"{steady / bound:.2f}", bar)


def warm(found: dict[str, float]) -> Iterator[Row]:
    """The row of `benchmarks.warm_query`."""
    yield Row("warm text query, 1,000,000 photos, p50", f"{found['p50_ms']:.2f} ms", "", "", "≤ 10 ms")
    yield Row("its recall@10", f"{found['recall']:.3f}", "", "", "≥ 0.95")


def parts(options: argparse.Namespace) -> Iterator[Part]:
    """What can be measured with these options."""
    peer = ["--rclip", options.rclip, "--vocabulary", options.vocabulary] if options.rclip else []
    runs = ["--runs", str(options.runs), "--json"]
    yield Part(["benchmarks.cold_query", *runs, *peer], cold)
    if options.vocabulary:
        yield Part(["benchmarks.text_encoding", "--vocabulary", options.vocabulary, "--json"], encoding)
    if options.library:
        yield Part(["benchmarks.warm_query", options.library, "--json"], warm)
    if options.photos and options.rclip:
        index = ["benchmarks.ingest", options.photos, *runs, *peer]
        yield Part(index, indexing)
        yield Part([*index, "--model", "mini"], indexing_with_mini)


def run(part: Part) -> list[Row]:
    """Measure a part; one row that says so where it failed."""
    done = subprocess.run([sys.executable, "-m", *part.command], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return [Row(part.command[0], f"failed: {reason}", "", "", "")]
    return list(part.rows(json.loads(done.stdout.splitlines()[-1])))


def main() -> None:
    """Measure all parts, print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", help="camera photos to be indexed")
    parser.add_argument("--library", help="a folder for the library of a million photos")
    parser.add_argument("--rclip", help="rclip's executable, in an environment of its own")
    parser.add_argument("--vocabulary", help="bpe_simple_vocab_16e6.txt.gz, for rclip")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if options.rclip and not options.vocabulary:
        parser.error("--rclip needs --vocabulary")
    print("| what | ours | peer | ratio | bar |\n|---|---|---|---|---|", flush=True)
    for part in parts(options):
        for row in run(part):
            print(f"| {row.what} | {row.ours} | {row.peer} | {row.ratio} | {row.bar} |", flush=True)


if __name__ == "__main__":
    main()
