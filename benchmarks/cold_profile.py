"""Where the CPU time of a cold query in words goes, stage by stage.

    python -m benchmarks.cold_profile LIBRARY [--words "a dog on a beach"] [--runs 5]

Each run is a new process that does what ``clipsearch query`` does, in the same order; printed are medians, in
milliseconds of the processor with all threads, which other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

STAGES = "--stages"


def stages(place: Path, words: str) -> Iterator[str]:
    """Do one stage after the other; gives the name of each when it is done."""
    yield "Python's own start"
    import numpy  # noqa: F401

    yield "importing NumPy"
    import clipsearch.cli.main  # noqa: F401

    yield "importing Typer and the command line"
    from clipsearch import Library
    from clipsearch.folder import LibraryFolder

    library = Library.open(place)
    with LibraryFolder.open(place) as folder, folder.reading() as catalog:
        space = catalog.active_space()
        assert space is not None, "a library of photos"
    yield "importing what reads libraries, opening this one"
    from clipsearch.model_files import tokenizer_of
    from clipsearch.text_encoder import TextEncoder, map_model, resolve
    from clipsearch.text_tower import TextTower

    yield "importing the text tower and the tokenizer"
    found = resolve(space.model_source)
    model = map_model(found.folder)
    assert model is not None, "a model whose words NumPy reads"
    tower = TextTower(model.tensors, model.config.text, quick_gelu=model.config.quick_gelu)
    yield "mapping the model"
    tokenizer = tokenizer_of(model.folder, model.config.text)
    yield "reading the tokenizer"
    [vector] = TextEncoder(found.name, model.fingerprint, tower, tokenizer).encode_text([words])
    yield "embedding the words"
    library.nearest(vector, 20, kind="text", made_by=model.fingerprint)
    yield "comparing all photos, paths of the best"


def one(place: Path, words: str) -> dict[str, float]:
    """Milliseconds of CPU time of each stage, in this process."""
    found, last = {}, 0.0
    for name in stages(place, words):
        now = time.process_time()
        found[name] = (now - last) * 1000
        last = now
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", type=Path)
    parser.add_argument("--words", default="a dog on a beach")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(STAGES, action="store_true", help="one run, in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.stages:
        print(json.dumps(one(arguments.library, arguments.words)))
        return
    import statistics  # here, because they are no part of a query
    import subprocess

    command = [sys.executable, "-m", "benchmarks.cold_profile", *sys.argv[1:], STAGES]
    runs = [json.loads(subprocess.check_output(command)) for _ in range(arguments.runs)]
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    for name, milliseconds in [*medians.items(), ("together", sum(medians.values()))]:
        print(f"{name:50} {milliseconds:6.0f} ms")


if __name__ == "__main__":
    main()
