"""Index a folder, search it in several ways, use a model by itself: `python python_api.py PHOTOS LIBRARY`."""

from __future__ import annotations

import os
import sys
from datetime import date
from pathlib import Path

from clipsearch import Library, Query, Where, load_model


def main(photos: Path, library_path: Path) -> None:
    """Run every example of docs/python.md."""
    # [index]
    with Library.open(library_path, create=True) as library:
        summary = library.index([photos])
        print(f"{summary.new} new, {len(summary.failed)} failed")
        for path, reason in summary.failed:
            print(os.fsdecode(path), reason)
    # [/index]

    # [search]
    with Library.open(library_path) as library:
        for hit in library.search("a dog on a beach", k=5):
            print(f"{hit.score:.3f}  {hit.path}  {hit.taken_at or ''}")

        # The query language, or the same as an object.
        library.search('horse + stripes - "tall grass"')
        library.search(Query.text("horse") + Query.text("stripes") - 0.5 * Query.text("tall grass"))

        # Filters narrow what may be found; there are k results where k exist.
        summer = Where(under=(os.fsencode(photos.resolve()),), after=date(2000, 6, 1), min_score=0.1)
        library.search("people swimming", where=summer)

        # Photos like another one.
        best = library.search("a flower", k=1)[0]
        print([Path(hit.path).name for hit in library.similar(best, k=3)])
    # [/search]

    # [model]
    mini = load_model("mini")
    texts = mini.encode_text(["a photo of a cat", "a photo of a dog"])  # float32 (2, dim), unit rows
    images = mini.encode_images([Path(best.path)])  # float32 (1, dim), unit rows
    print((images @ texts.T).round(3), mini.dim, mini.fingerprint)
    # [/model]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
