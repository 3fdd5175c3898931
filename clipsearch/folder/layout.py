"""Which file of a library is where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from clipsearch.errors import ModelInvalid
from clipsearch.store import SpaceRow

_FINGERPRINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below the folder of a library."""

    folder: Path

    @property
    def catalog(self) -> Path:
        """The SQLite file."""
        return self.folder / "catalog.db"

    @property
    def lock(self) -> Path:
        """What the writer holds; says who that is."""
        return self.folder / "LOCK"

    @property
    def generation(self) -> Path:
        """The last generation that was committed, as far as the disk was told."""
        return self.folder / "GENERATION"

    @property
    def seal(self) -> Path:
        """What the files were when the last writer left; see `clipsearch.folder.seal`."""
        return self.folder / "SEAL"

    def notes(self) -> list[Path]:
        """The files that lie in the folder itself, those of SQLite beside the catalog among them."""
        logs = (self.catalog.with_name(f"{self.catalog.name}{suffix}") for suffix in ("-wal", "-shm"))
        return [self.catalog, *logs, self.lock, self.generation, self.seal]

    def name(self, path: Path) -> str:
        """Return `path` relative to the library's folder, as the seal names it."""
        return path.relative_to(self.folder).as_posix()

    @property
    def spaces(self) -> Path:
        """The folder of the spaces."""
        return self.folder / "spaces"

    @property
    def thumbs(self) -> Path:
        """A cache."""
        return self.folder / "thumbs"

    def space(self, space: SpaceRow) -> Path:
        """The folder of one space."""
        return self.spaces / checked_fingerprint(space.fingerprint)

    def vectors(self, space: SpaceRow) -> Path:
        """The vector file of the space's present epoch."""
        return self.space(space) / _numbered("vectors", space.epoch, "f16")

    @staticmethod
    def key(library_id: str, space: SpaceRow) -> str:
        """Name the slots of a space for an index: other slots never have the same key."""
        return f"{library_id}/{space.id}/{space.epoch}"

    def index(self, space: SpaceRow) -> Path:
        """The index over that file. Another epoch has other slots, hence another name."""
        return self.space(space) / _numbered("index", space.epoch, "faiss")

    def index_manifest(self, space: SpaceRow) -> Path:
        """The index's manifest."""
        return self.space(space) / _numbered("index", space.epoch, "json")


def checked_fingerprint(fingerprint: str) -> str:
    """Return `fingerprint` if it can be the name of a folder; raise ModelInvalid if it cannot."""
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise ModelInvalid(f"{fingerprint!r} is no fingerprint of a model")
    return fingerprint


def _numbered(stem: str, epoch: int, suffix: str) -> str:
    return f"{stem}.{epoch}.{suffix}" if epoch else f"{stem}.{suffix}"
