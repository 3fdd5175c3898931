"""One command from the shell, from the start of the process to its end, beside rclip 3.3.

    python -m benchmarks.cold_query [--photos 100000] [--runs 5] [--json]
        [--rclip PATH/TO/rclip --vocabulary bpe_simple_vocab_16e6.txt.gz]

A query in words with `mini`, on a library of 300 photos and on a large one. With rclip: the same query of
both with random weights in the sizes of ViT-B-32-256 (`rclip -n`), and the change check where nothing has
changed: `clipsearch index` against what `rclip` takes longer than `rclip -n`. All by turns; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.made import Run, files, fill_ours, interleaved, run, table, unit_vectors
from clipsearch.mapped_model import map_model
from clipsearch.zoo import resolve
from clipsearch_indexer.scan import FileStat

SMALL = 300
WORDS = "a dog on a beach"
MINI, LARGE_MODEL, CHECK = "mini", "ViT-B-32-256", "clipsearch index, nothing changed"
RCLIP, RCLIP_CHECK = "rclip -n", "rclip, with its check"

Ways = dict[str, Callable[[], Run]]


def clipsearch(*arguments: str) -> list[str]:
    """The command line of the clipsearch that runs this."""
    return [sys.executable, "-m", "clipsearch", *arguments]


def library(folder: Path, found: Sequence[FileStat], root: Path, model: Path, name: str) -> None:
    """A library of that model which knows these files."""
    mapped = map_model(model)
    assert mapped is not None
    vectors = unit_vectors(len(found), mapped.config.embed_dim)
    fill_ours(folder, root, found, vectors, model=(mapped.fingerprint, name, str(model)))


def query(folder: Path) -> Callable[[], Run]:
    """A query in words of a library."""
    return lambda: run(clipsearch("query", WORDS, "-l", str(folder)))


def ours(base: Path, found: Sequence[FileStat], root: Path) -> Ways:
    """Queries with `mini`."""
    mini = resolve("mini").folder
    for name, part in (("small", found[:SMALL]), ("large", found)):
        library(base / name, part, root, mini, "mini")
    return {f"{MINI}, {SMALL} photos": query(base / "small"), MINI: query(base / "large")}


def beside_rclip(
    base: Path, found: Sequence[FileStat], root: Path, executable: str, vocabulary: Path
) -> Ways:
    """Queries and change checks with the same weights here and there."""
    from benchmarks import rclip

    model, data = base / "model", base / "rclip"
    rclip.prepare(data, rclip.random_model(model, vocabulary), vocabulary)
    rclip.fill(data, found, unit_vectors(len(found), 512))
    library(base / "b32", found, root, model, LARGE_MODEL)
    environment = rclip.environment(data)
    return {
        LARGE_MODEL: query(base / "b32"),
        RCLIP: lambda: run([executable, WORDS, "-n", "-t", "20"], root, environment),
        CHECK: lambda: run(clipsearch("index", "-l", str(base / "b32"))),
        RCLIP_CHECK: lambda: run([executable, WORDS, "-t", "20"], root, environment),
    }


def summary(found: Mapping[str, Sequence[Run]]) -> dict[str, float]:
    """The medians that have a bar: seconds, MB."""
    wall = {name: statistics.median(one.wall for one in runs) for name, runs in found.items()}
    memory = {name: statistics.median(one.peak_mb for one in runs) for name, runs in found.items()}
    told = {"mini_s": wall[MINI]}
    if RCLIP in found:
        told |= {
            "b32_s": wall[LARGE_MODEL],
            "rclip_s": wall[RCLIP],
            "b32_mb": memory[LARGE_MODEL],
            "rclip_mb": memory[RCLIP],
            "check_s": wall[CHECK],
            "rclip_check_s": wall[RCLIP_CHECK] - wall[RCLIP],
        }
    return told


def main() -> None:
    """Make the libraries, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rclip", help="rclip's executable, in an environment of its own")
    parser.add_argument("--vocabulary", type=Path, help="bpe_simple_vocab_16e6.txt.gz, for rclip")
    parser.add_argument("--json", action="store_true", help="the medians that have a bar, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        root = base / "photos"
        found = files(root, options.photos)
        ways = ours(base, found, root)
        if options.rclip:
            ways |= beside_rclip(base, found, root, options.rclip, options.vocabulary)
        os.sync()
        measured = interleaved(options.runs, **ways)
        if options.json:
            print(json.dumps(summary(measured)))
        else:
            print(f"{options.photos:,} photos, unless told")
            table(measured, RCLIP if options.rclip else MINI)


if __name__ == "__main__":
    main()
