import hashlib
from dataclasses import dataclass

import pytest

from clipsearch.store import FoundFile, NewImage
from clipsearch.store.catalog import Store


@dataclass(frozen=True)
class Stat:
    path: bytes
    size: int = 10
    mtime_ns: int = 1_700_000_000_000_000_000
    ctime_ns: int = 1_700_000_000_000_000_001
    inode: int = 7
    device: int = 3


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


class Scene:
    """A catalog with one root and one space, and short words for filling it."""

    def __init__(self, catalog):
        self.catalog = catalog
        self.root = catalog.roots.add(b"/p", "device 1")
        self.space = catalog.spaces.add("fingerprint", "mini", "bundled", 8)

    def hash(self, content):
        return hashlib.blake2b(content.encode(), digest_size=16).digest()

    def file(self, path, root=None, **stat):
        return FoundFile(self.root if root is None else root, Stat(path, **stat), verified_at_ns=5)

    def image(self, content, *paths, root=None, mtime_ns=1_700_000_000_000_000_000, **metadata):
        files = [self.file(path, root, mtime_ns=mtime_ns) for path in paths]
        return NewImage(self.hash(content), 10, Metadata(**metadata), files)

    def add(self, content, *paths, embed=True, **values):
        """Record an image at `paths` and, unless told, embed it in the next slot; return its id."""
        [image] = self.catalog.images.record([self.image(content, *paths, **values)])
        if embed:
            space = self.catalog.spaces.get(self.space)
            self.catalog.embeddings.add(self.space, space.slots, [(image, 1000 + space.slots)])
        return image

    def file_id(self, path, root=None):
        return self.catalog.known.files(self.root if root is None else root)[path].file_id

    def visible(self):
        return self.catalog.search.visible_slots(self.space).tolist()

    def problems(self):
        return self.catalog.integrity()


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "catalog.db", "create") as store:
        yield store


@pytest.fixture
def scene(store):
    """A scene in a transaction that is never committed; every rule of the catalog must hold at the end."""
    with store.writing() as catalog:
        scene = Scene(catalog)
        yield scene
        assert scene.problems() == []
