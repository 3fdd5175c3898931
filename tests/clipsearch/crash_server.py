"""A small indexer in a process of its own, which forks a child for every run and says how it ended.

Reads a JSON object a line: {"library": folder, "failpoint": "name:action:nth" or null, "trace": file or
null}.
Answers with the exit status of the child: 0, -9 for SIGKILL, else the exit code of a ClipsearchError.

The child indexes a made-up folder in two phases, as `phase` beside the library says: the photos of world one;
then world two, where some have moved, vanished, changed or come new, with a prune and a compaction. What was
committed goes line by line into `acknowledged`.
"""

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

import clipsearch.store.catalog
from clipsearch import durable
from clipsearch.errors import ClipsearchError
from clipsearch.folder import Batch, LibraryFolder
from clipsearch.store import FoundFile, NewFailure, NewImage

DIM = 8
WORLDS = {
    1: {b"/p/%d.jpg" % i: b"content %d" % i for i in range(7)} | {b"/p/copy.jpg": b"content 1"},
    2: {b"/p/%d.jpg" % i: b"content %d" % i for i in range(2, 6)}
    | {b"/p/moved.jpg": b"content 0", b"/p/copy.jpg": b"content 1", b"/p/2.jpg": b"new 2"}
    | {b"/p/\xff\n%.jpg": b"new 9"},
}


@dataclass(frozen=True)
class Stat:
    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 1
    device: int = 1


@dataclass(frozen=True)
class Metadata:
    width: int = 4
    height: int = 3
    format: str = "JPEG"
    taken_at: str | None = None
    taken_offset: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    camera: str | None = None
    lens: str | None = None
    caption: str | None = None
    keywords: tuple[str, ...] = ()


def digest(content):
    return hashlib.blake2b(content, digest_size=16).digest()


def embedding(content):
    seed = int.from_bytes(digest(content)[:4], "little")
    vector = np.random.default_rng(seed).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def index(folder, home):
    phase_file, acknowledged = home / "phase", home / "acknowledged"
    phase = int(phase_file.read_text() or 2) if phase_file.exists() else 1
    with folder.writer() as writer:
        space = writer.ensure_space("fingerprint", "mini", "bundled", DIM)
        with writer.changing() as catalog:
            root = catalog.roots.add(b"/p", "device 1")
        while phase <= 2:
            scan(writer, root, space, WORLDS[phase], acknowledged)
            if phase == 2:
                writer.prune()
                writer.compact(space.id)
            phase += 1
            phase_file.write_text(str(phase))


def scan(writer, root, space, world, acknowledged):
    with writer.reading() as catalog:
        known = catalog.known.files(root)
        embedded = catalog.images.ids_by_hash([digest(content) for content in world.values()])
    gone = {known[path].image_id: known[path].file_id for path in known if path not in world}
    fresh, found, moves = {}, [], []
    for path, content in sorted(world.items()):
        file = FoundFile(root, Stat(path, len(content), 1000))
        image = embedded.get(digest(content))
        if image is None:
            fresh.setdefault(content, []).append(file)
        elif image in gone:
            moves.append((gone.pop(image), file))
        elif path not in known or known[path].image_id != image:
            found.append((image, file))
    failure = NewFailure(root, b"/p/broken.jpg", 3, 1000, "truncated", "corrupt")
    writer.commit(Batch(moves=moves, found=found, missing=list(gone.values()), failures=[failure]))
    contents = list(fresh)
    for start in range(0, len(contents), 3):
        part = contents[start : start + 3]
        images = [NewImage(digest(c), len(c), Metadata(), fresh[c]) for c in part]
        vectors = np.stack([embedding(c) for c in part])
        writer.commit(Batch(images=images, vectors=vectors, space_id=space.id))
        with acknowledged.open("a") as file:
            file.write("".join(digest(c).hex() + "\n" for c in part))


def run_child(order):
    home = Path(order["library"]).parent
    if order["failpoint"]:
        os.environ[durable.FAILPOINT_VARIABLE] = order["failpoint"]
    if order["trace"]:
        passed = []
        durable._ordered_action = lambda name: passed.append(name)
    try:
        with LibraryFolder.create(Path(order["library"])) as folder:
            index(folder, home)
    except ClipsearchError as error:
        (home / "error").write_text(str(error))
        os._exit(error.exit_code)
    if order["trace"]:
        Path(order["trace"]).write_text(json.dumps(passed))
    os._exit(0)


def main():
    for _ in count():
        line = sys.stdin.readline()
        if not line:
            return
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                run_child(order)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            os._exit(99)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{status}\n")
        sys.stdout.flush()


assert clipsearch.store.catalog  # loaded before the first fork
if __name__ == "__main__":
    if "--once" in sys.argv:
        run_child(json.loads(os.environ["CRASH_ORDER"]))
    main()
