"""Rows and queries of a model's own over real photos, for `benchmarks.index_peers`.

    python -m benchmarks.model_rows FOLDER SHARD… [--model mini]

The photos of webdataset shards are embedded. Queries are 600 random ones, which are kept out of the rows, and
what is said of 600 others. `index_peers FOLDER --rows N --dim D`, with the numbers that are printed, does the
rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.clip_rows import QUERIES, Rows
from clipsearch.encoder import Encoder, load_model
from clipsearch_train.data import Sample, decode, read_shards

BATCH = 64


def embedded(encoder: Encoder, samples: Sequence[Sample]) -> Rows:
    """The photos of the samples, (n, dim) float32."""
    parts = []
    for start in range(0, len(samples), BATCH):
        parts.append(encoder.encode_images([decode(one.image) for one in samples[start : start + BATCH]]))
        print(f"{start + len(parts[-1]):,} of {len(samples):,} photos", flush=True)
    return np.concatenate(parts)


def save(folder: Path, encoder: Encoder, samples: Sequence[Sample], images: Rows) -> tuple[int, int]:
    """Write what `clip_rows.Data` reads; gives the number of rows and their dimension."""
    order = np.random.default_rng(0).permutation(len(samples))
    asked, rows = order[: 2 * QUERIES], order[2 * QUERIES :]
    told = rows[: 2 * QUERIES]
    texts = [(*samples[number].captions, *samples[number].labels)[0] for number in told]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "vectors.npy", images[rows].astype(np.float16))
    np.savez(folder / "queries.npz", text=encoder.encode_text(texts), image=images[asked])
    return len(rows), images.shape[1]


def main() -> None:
    """Embed and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("shards", type=Path, nargs="+")
    parser.add_argument("--model", default="mini")
    arguments = parser.parse_args()
    encoder = load_model(arguments.model)
    samples = [one for one in read_shards(arguments.shards)[0] if one.captions or one.labels]
    rows, dim = save(arguments.folder, encoder, samples, embedded(encoder, samples))
    print(f"--rows {rows} --dim {dim}")


if __name__ == "__main__":
    main()
