"""Teacher features kept on disk, so that a second run computes only what is new."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float16]


def cached_rows(path: Path, keys: Sequence[str], compute: Callable[[list[int]], Rows]) -> Rows:
    """Rows of float16 for `keys`, in order; `compute` is given the indices of keys not yet in the cache.

    Two files: `<path>.json` (the keys) and `<path>.npy` (their rows). Pairs whose lengths disagree, as an
    interruption between the two writes leaves them, are computed anew.
    """
    known: dict[str, int] = {}
    rows: Rows | None = None
    names, values = path.with_suffix(".json"), path.with_suffix(".npy")
    if names.is_file() and values.is_file():
        listed = json.loads(names.read_text(encoding="utf-8"))
        loaded: Rows = np.load(values, allow_pickle=False)
        if len(listed) == len(loaded):
            known, rows = {key: row for row, key in enumerate(listed)}, loaded
    missing = [index for index, key in enumerate(keys) if key not in known]
    if missing:
        fresh = compute(missing)
        known |= {keys[index]: len(known) + place for place, index in enumerate(missing)}
        rows = fresh if rows is None else np.concatenate([rows, fresh])
        _write(names, values, list(known), rows)
    assert rows is not None
    chosen: Rows = rows[[known[key] for key in keys]]
    return chosen


def _write(names: Path, values: Path, keys: list[str], rows: Rows) -> None:
    names.parent.mkdir(parents=True, exist_ok=True)
    partial = values.with_suffix(".partial.npy")
    np.save(partial, rows, allow_pickle=False)
    partial.replace(values)
    names.write_text(json.dumps(keys), encoding="utf-8")
