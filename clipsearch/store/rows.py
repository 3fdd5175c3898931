"""The values that go into the catalog and come out of it, without SQLAlchemy.

Paths are bytes as the file system gives them (`os.fsencode`), absolute. Times of files are integer
nanoseconds since 1970 (UTC); `taken_at` is local ISO 8601 without offset (``2024-05-31T18:04:00``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias


class StatLike(Protocol):
    """What the catalog keeps of a file's stat; a scanner's own type fits if it has these fields."""

    @property
    def path(self) -> bytes:
        """Absolute path."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def mtime_ns(self) -> int:
        """Time of the last change of the content."""

    @property
    def ctime_ns(self) -> int:
        """Time of the last change of content or inode."""

    @property
    def inode(self) -> int:
        """Inode number."""

    @property
    def device(self) -> int:
        """Device number."""


class MetadataLike(Protocol):
    """What the catalog keeps of a photo's metadata; None where the photo does not say."""

    @property
    def width(self) -> int:
        """Pixels, upright."""

    @property
    def height(self) -> int:
        """Pixels, upright."""

    @property
    def format(self) -> str:
        """Name of the file format, such as ``JPEG``."""

    @property
    def taken_at(self) -> str | None:
        """Local ISO 8601 without offset."""

    @property
    def taken_offset(self) -> int | None:
        """Minutes east of UTC."""

    @property
    def latitude(self) -> float | None:
        """Degrees north."""

    @property
    def longitude(self) -> float | None:
        """Degrees east."""

    @property
    def camera(self) -> str | None:
        """Make and model."""

    @property
    def lens(self) -> str | None:
        """Lens model."""

    @property
    def caption(self) -> str | None:
        """Description."""

    @property
    def keywords(self) -> Sequence[str]:
        """Keywords in the order of the file."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as a scan saw it: the root it lies under, its stat, and when its content was read (ns)."""

    root_id: int
    stat: StatLike
    verified_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class NewImage:
    """A content (128-bit hash, size in bytes), its metadata and the paths it was found at."""

    hash: bytes
    size: int
    metadata: MetadataLike
    files: Sequence[FoundFile]


@dataclass(frozen=True, slots=True)
class NewFailure:
    """A file that gave no image: why in words, and the class of the reason (``kind``)."""

    root_id: int
    path: bytes
    size: int
    mtime_ns: int
    reason: str
    kind: str


class KnownFile(NamedTuple):
    """What the catalog knows of a path, to tell whether the file has changed; `missing` is 0 or 1."""

    file_id: int
    image_id: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    missing: int
    verified_at_ns: int


class KnownShard(NamedTuple):
    """A tar shard as it was when a run had listed it and was through with its images."""

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    rule: str
    """What said which of its files are taken."""
    files: int
    """Images in it, without those that cannot be read."""


LastStat: TypeAlias = tuple[bytes, int | None, int, int, int]
"""Path, size, mtime_ns, ctime_ns and inode (as a signed number) of a file when it was read.

Where the same stat would not tell that nothing is to be done, the size is None. A plain tuple as the driver
gives it: there is one for each file of a library.
"""


class StoredFile(NamedTuple):
    """A file that should be there: its path, its stat when it was read, and the hash of its content."""

    path: bytes
    size: int
    mtime_ns: int
    hash: bytes


class KnownFailure(NamedTuple):
    """What the catalog knows of a path that failed."""

    size: int
    mtime_ns: int
    kind: str
    attempts: int


@dataclass(frozen=True, slots=True)
class RootRow:
    """A folder (or list) that is indexed. `online` is False while it cannot be reached."""

    id: int
    path: bytes
    filesystem_id: str | None
    online: bool
    last_scanned: str | None


@dataclass(frozen=True, slots=True)
class SpaceRow:
    """The embeddings of one model: `slots` rows are committed; `epoch` counts the rewritings of its file."""

    id: int
    fingerprint: str
    model_name: str
    model_source: str
    dim: int
    active: bool
    created_at: str
    slots: int
    epoch: int


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One content and its metadata. `dated_at` is `taken_at`, else the oldest file time (local ISO 8601)."""

    id: int
    hash: bytes
    size: int
    width: int
    height: int
    format: str
    taken_at: str | None
    taken_offset: int | None
    dated_at: str | None
    latitude: float | None
    longitude: float | None
    camera: str | None
    lens: str | None
    caption: str | None
    keywords: tuple[str, ...]
    added_at: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A slot with its image and every path (sorted) at which it can be seen."""

    slot: int
    image: ImageRow
    paths: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PendingImage:
    """A visible image that has no embedding in a space yet, with the paths to read it from."""

    image_id: int
    hash: bytes
    size: int
    paths: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FailureRow:
    """A file that gave no image."""

    path: bytes
    root_id: int | None
    size: int
    mtime_ns: int
    reason: str
    kind: str
    attempts: int
    last_run: int | None


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run of the indexer: status ``running``, ``done``, ``interrupted`` or ``failed``."""

    id: int
    started_at: str
    ended_at: str | None
    status: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SlotFilter:
    """Which images may be found. Every field narrows; None (or empty) says nothing.

    `under` are folders or files, any of which will do. `after` and `before` are ISO 8601 or a prefix of it
    (``2024``, ``2024-05``); the year, month, day or second of `after` is in, that of `before` is out.
    `camera` and `text` are parts of words, without regard to (ASCII) case; `text` is looked for in caption,
    keywords and path. `box` is south, west, north, east in degrees; west > east crosses the date line.
    """

    under: Sequence[bytes] = ()
    after: str | None = None
    before: str | None = None
    has_gps: bool | None = None
    box: tuple[float, float, float, float] | None = None
    camera: str | None = None
    formats: Sequence[str] = ()
    text: str | None = None

    def is_empty(self) -> bool:
        """Return whether nothing is narrowed."""
        return self == SlotFilter()


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What `prune` removed."""

    files: int
    images: int
    embeddings: int


@dataclass(frozen=True, slots=True)
class RootCounts:
    """Numbers of one root."""

    root: RootRow
    files: int
    missing: int
    failed: int


@dataclass(frozen=True, slots=True)
class CatalogCounts:
    """Numbers for a status: `images` can be found, `hidden_images` have no file; `by_root` is by path."""

    images: int
    hidden_images: int
    files: int
    missing: int
    failed: int
    embeddings: int
    tombstones: int
    by_root: Sequence[RootCounts] = field(default=())
