"""Make the library of the present format, which later versions must open.

    python -m tests.clipsearch.libraries.make

It is written once for each format version and then kept as it is: format-N.tar.gz beside this script. Three
photos of one colour, one of them at two paths, one pruned, one file that failed, an archive without photos.
"""

import sys
import tarfile
import tempfile
import time
from pathlib import Path

from clipsearch import Library
from clipsearch.store.migrations import CURRENT_VERSION
from clipsearch_indexer import decode
from tests import fakes

HERE = Path(__file__).resolve().parent


def main():
    decode.DecodePool = fakes.SerialPool
    target = HERE / f"format-{CURRENT_VERSION}.tar.gz"
    if target.exists():
        sys.exit(f"{target} is there, and is never made anew")
    with tempfile.TemporaryDirectory() as folder:
        photos, library = Path(folder) / "photos", Path(folder) / "library"
        for name, colour in fakes.COLOURS.items():
            fakes.write(photos / f"{name}.png", colour)
        fakes.write(photos / "copy of red.png", fakes.COLOURS["red"])
        fakes.write(photos / "pruned.png", (9, 9, 9))
        (photos / "bad.png").write_bytes(b"no picture")
        tarfile.open(photos / "empty.tar", "w").close()
        time.sleep(3)  # one that was just written is not noted
        with Library.open(library, create=True, encoder=fakes.ColourEncoder()) as opened:
            opened.index([photos])
            (photos / "pruned.png").unlink()
            opened.index()
            opened.prune()
        for note in ("LOCK", "catalog.db-wal", "catalog.db-shm"):
            (library / note).unlink(missing_ok=True)
        with tarfile.open(target, "w:gz") as tar:
            tar.add(library, "library")


if __name__ == "__main__":
    main()
