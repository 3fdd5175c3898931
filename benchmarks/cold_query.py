"""One query in words from the shell, from the start of the process to its end, ours and rclip's.

    python -m benchmarks.cold_query [--photos 100000] [--runs 5] [--large] [--rclip RCLIP --vocabulary BPE]

With `mini` on a library of 300 photos and on a large one. `--large` adds random weights in the sizes of
ViT-B-32-256; with `--rclip` (the program of rclip 3.3, and OpenCLIP's `bpe_simple_vocab_16e6.txt.gz`) its
`-n` search gets the same weights and as many vectors. Runs are by turns; medians are printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.made import (
    Run,
    files,
    fill_ours,
    fill_rclip,
    interleaved,
    prepare_rclip,
    rclip_environment,
    run,
    table,
    unit_vectors,
)
from clipsearch.mapped_model import map_model
from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
from clipsearch.preprocess import Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.weights import save_folder
from clipsearch.zoo import resolve
from clipsearch_indexer.scan import FileStat

Way = Callable[[], Run]
SMALL = 300


def ours(library: Path, folder: Path, source: str, found: Sequence[FileStat], root: Path) -> Way:
    """A library of the model in `folder` that knows these files, and a query of it."""
    model = map_model(folder)
    assert model is not None
    vectors = unit_vectors(len(found), model.config.embed_dim)
    fill_ours(library, root, found, vectors, model=(model.fingerprint, source, source))
    command = [sys.executable, "-m", "clipsearch", "query", "a dog on a beach", "-l", str(library)]
    return lambda: run(command)


def random_model(folder: Path) -> Clip:
    """Random weights in all sizes of ViT-B-32-256; the tokenizer is small, as queries of it are."""
    tokenizer = ClipTokenizer.train(["a photo of a dog on a beach", "a photo of a cat"], 600, 77)
    model = Clip(ClipConfig(512, VisionConfig(256, 12, 768, 32), TextConfig(77, 49408, 512, 8, 12))).eval()
    save_folder(folder, model, Preprocess(256), tokenizer)
    return model


def main() -> None:
    """Make the libraries, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rclip")
    parser.add_argument("--vocabulary", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        root = base / "photos"
        found = files(root, options.photos)
        mini = resolve("mini").folder
        large = f"mini, {options.photos:,} photos"
        ways = {
            f"mini, {SMALL} photos": ours(base / "small", mini, "mini", found[:SMALL], root),
            large: ours(base / "mini", mini, "mini", found, root),
        }
        reference = large
        if options.large or options.rclip:
            model = random_model(base / "vit")
            ways["ViT-B-32-256"] = ours(base / "large", base / "vit", str(base / "vit"), found, root)
        if options.rclip:
            data = base / "rclip"
            prepare_rclip(model, data, options.vocabulary)
            fill_rclip(data, found, unit_vectors(len(found), 512))
            command, told = [options.rclip, "-n", "a dog on a beach"], rclip_environment(data)
            ways["rclip -n, ViT-B-32-256"] = lambda: run(command, root, told)
            reference = "rclip -n, ViT-B-32-256"
        else:
            print("Without --rclip there is no peer to compare with.")
        os.sync()
        table(interleaved(options.runs, **ways), reference)


if __name__ == "__main__":
    main()
