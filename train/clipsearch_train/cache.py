"""Teacher features kept on disk, so that a second run computes only what is new."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.durable import make_directory, replace, replacing
from clipsearch_train.data import Sample

Rows = npt.NDArray[np.float16]
Report = Callable[[str, int, int], None]
# Rows computed between two writes: what an interruption loses at most.
AT_A_TIME = 8192


def cached_rows(
    path: Path, keys: Sequence[str], compute: Callable[[list[int], Report], Rows], report: Report
) -> Rows:
    """Rows of float16 for `keys`, in order; `compute` is given the indices of keys not yet in the cache.

    It is given some at a time, and what it reports is passed on as part of all there is to compute.
    Two files: `<path>.json` (the keys) and `<path>.npy` (their rows). A damaged pair, or one whose lengths
    disagree, as an interruption between the two writes leaves them, is computed anew.
    """
    names, values = path.with_suffix(".json"), path.with_suffix(".npy")
    known, rows = _read(names, values)
    missing = [index for index, key in enumerate(keys) if key not in known]
    for start in range(0, len(missing), AT_A_TIME):
        part = missing[start : start + AT_A_TIME]

        def told(stage: str, done: int, _: int, before: int = start) -> None:
            report(stage, before + done, len(missing))

        fresh = compute(part, told)
        known |= {keys[index]: len(known) + place for place, index in enumerate(part)}
        rows = fresh if rows is None else np.concatenate([rows, fresh])
        _write(names, values, list(known), rows)
    assert rows is not None
    chosen: Rows = rows[[known[key] for key in keys]]
    return chosen


def sample_keys(samples: Sequence[Sample]) -> list[str]:
    """A name for each sample; shards may number theirs alike, so a repeated key is told by its content."""
    counts = Counter(sample.key for sample in samples)
    return [
        sample.key
        if counts[sample.key] == 1
        else f"{sample.key} {hashlib.sha256(sample.encoded()).hexdigest()[:16]}"
        for sample in samples
    ]


def _read(names: Path, values: Path) -> tuple[dict[str, int], Rows | None]:
    try:
        listed = json.loads(names.read_text(encoding="utf-8"))
        rows: Rows = np.load(values, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return {}, None
    if not isinstance(listed, list) or len(listed) != len(rows):
        return {}, None
    return {str(key): row for row, key in enumerate(listed)}, rows


def _write(names: Path, values: Path, keys: list[str], rows: Rows) -> None:
    make_directory(names.parent)
    with replacing(values, name="cache") as file:
        np.save(file, rows, allow_pickle=False)
    replace(names, json.dumps(keys).encode(), name="cache")
