"""Opening a library, reading one state of it, and letting one writer in."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch import durable
from clipsearch.errors import (
    LibraryDamaged,
    LibraryEmpty,
    LibraryLocked,
    LibraryNotFound,
    LibraryVersion,
    ModelMismatch,
    StorageError,
)
from clipsearch.folder.copies import backup, copied, put_in_place, real
from clipsearch.folder.disk_usage import DiskUsage
from clipsearch.folder.health import Health, examine
from clipsearch.folder.layout import Layout
from clipsearch.folder.lock import writer_lock
from clipsearch.folder.rehash import Report, read_again
from clipsearch.folder.repair import Repaired, repair
from clipsearch.folder.sealing import check_catalog, check_vectors, current_seal
from clipsearch.folder.writer import Writer, last_generation
from clipsearch.store import Hit, SlotFilter, SpaceRow
from clipsearch.store.reader import Reader
from clipsearch.vectors import Halves, VectorFile

if TYPE_CHECKING:
    from clipsearch.store.catalog import Catalog, Store
    from clipsearch.store.reader import Reading
    from clipsearch.store.search import Slots

# A compaction may take the vectors of the state one looks at away: then the next state is looked at.
_LOOKS = 3
_OTHER_KINDS = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder"}


class LastVisible:
    """The visible slots of the state that was last asked about.

    Every search wants them, and reading them costs what is hidden: 50 ms for ten thousand missing photos.
    """

    def __init__(self) -> None:
        self._held: tuple[tuple[str, int, int], Slots] | None = None

    def of(self, photos: Snapshot) -> Slots:
        """Read them, unless they are those of the state before."""
        state = (photos.key, photos.generation, photos.space.slots)
        held = self._held
        if held is None or held[0] != state:
            slots = photos.catalog.search.visible_slots(photos.space.id)
            slots.setflags(write=False)
            held = self._held = state, slots
        return held[1]


@dataclass(frozen=True)
class Snapshot:
    """One state of a library: what a search works on. Valid within the block that gave it.

    `vectors` is float16 (`space.slots`, D), mapped from the file. Nothing that a writer does meanwhile shows.
    """

    generation: int
    library_id: str
    space: SpaceRow
    vectors: Halves
    catalog: Reading
    last_visible: LastVisible

    @property
    def key(self) -> str:
        """Names these slots for an index: library, space and epoch. Other slots never have the same key."""
        return Layout.key(self.library_id, self.space)

    @cached_property
    def visible(self) -> Slots:
        """The slots of images that may be found: int64, ascending, not to be written to."""
        return self.last_visible.of(self)

    def slots_where(self, wanted: SlotFilter) -> Slots:
        """Return the slots of visible images that `wanted` admits: int64, ascending, not to be written to."""
        if wanted.is_empty():
            return self.visible
        return self.catalog.search.slots_where(self.space.id, wanted)

    def hits(self, slots: Sequence[int]) -> list[Hit]:
        """Return image and paths for each of `slots` that is visible, in the order given."""
        return self.catalog.search.hits(self.space.id, slots)


class LibraryFolder:
    """A library at a path. Reads through it never wait for a writer; close it, or use it as a context."""

    def __init__(self, path: Path, reader: Reader) -> None:
        """Use `open` or `create` instead."""
        self.path = path
        self.layout = Layout(path)
        self._reader = reader
        self._file = _identity(self.layout.catalog)
        self._visible = LastVisible()
        self._verified = -1  # the state whose files were last compared with the seal

    @cached_property
    def _store(self) -> Store:
        """The whole catalog, for what is no search: SQLAlchemy takes longer to load than a search."""
        from clipsearch.store.catalog import Store

        return Store(self.layout.catalog)

    @classmethod
    def create(cls, path: Path) -> LibraryFolder:
        """Open the library at `path`, after making it where there is none.

        Raises what `open` raises, but for LibraryNotFound, and LibraryLocked while another process makes it.
        """
        try:
            return cls.open(path)
        except LibraryNotFound:
            pass
        layout = Layout(path.absolute())
        durable.make_directory(layout.spaces)
        with writer_lock(layout.lock):
            _write_catalog(layout)
            durable.sync_directory(layout.folder, name="create")
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> LibraryFolder:
        """Open the library at `path`; one of an older version is brought up to date first.

        Raises LibraryNotFound, LibraryVersion (a newer one, or an older one that cannot be written now),
        LibraryDamaged, StorageError. Nothing is changed then.
        """
        path = path.absolute()
        layout = Layout(path)
        with durable.storage_errors(layout.catalog):
            _check_files(layout)
            found = layout.catalog.exists()
        if not found:
            _check_not_lost(layout)
            raise _not_found(path)
        reader = Reader(layout.catalog)
        try:
            if reader.version == 0:
                _check_not_lost(layout)
                raise _not_found(path)  # a process died while it made the library
            if not reader.is_current:
                reader.close()
                _upgrade(layout)
                reader = Reader(layout.catalog)
            return cls(path, reader)
        except BaseException:
            reader.close()
            raise

    @contextmanager
    def writer(self, *, repair: bool = False) -> Iterator[Writer]:
        """Let this process change the library; leftovers of the one before are cleared first.

        With `repair`, embeddings that were cut off the vector files are dropped instead of refused. Raises
        LibraryLocked at once when another process writes, LibraryDamaged, StorageError.
        """
        from clipsearch.store.catalog import Store

        with writer_lock(self.layout.lock), Store(self.layout.catalog, "write") as store:
            if self.is_replaced:  # what was read of the one before is nothing to go by
                raise StorageError(
                    f"The library at {self.path} was replaced by another meanwhile; run the command again."
                )
            writer = Writer(self.layout, store)
            writer.recover(repair=repair)
            yield writer
            writer.leave()

    @contextmanager
    def reading(self) -> Iterator[Catalog]:
        """Give a view of one state of the catalog. Raises LibraryDamaged, StorageError."""
        with self._store.reading() as catalog:
            yield catalog

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Give one state of the library: the catalog and the vectors that belong to it.

        Keep it for one answer, not for a session: the catalog's log grows behind an open one. Raises
        LibraryEmpty before anything was indexed, LibraryDamaged, StorageError.
        """
        for look in range(_LOOKS):
            with self._reader.reading() as catalog:
                generation = catalog.generation()
                fresh = generation != self._verified
                seal = current_seal(self.layout, generation) if fresh else None
                check_catalog(self.layout, seal)
                space = catalog.active_space()
                if space is None:
                    raise LibraryEmpty(
                        f"The library at {self.path} is empty; `clipsearch index DIR` fills it."
                    )
                try:
                    vectors = VectorFile(self.layout.vectors(space), space.dim).open_read(space.slots)
                    check_vectors(self.layout, seal, space, vectors)
                except LibraryDamaged:
                    # A compaction may have replaced the file between the two readings: look once more.
                    if look == _LOOKS - 1:
                        raise
                    continue
                self._verified = generation
                yield Snapshot(generation, catalog.library_id(), space, vectors, catalog, self._visible)
                return

    @property
    def is_replaced(self) -> bool:
        """Whether another library, or none, lies at the path by now (`restore`)."""
        return _identity(self.layout.catalog) != self._file

    def generation(self) -> int:
        """Return the number of the last commit; it tells a holder of older results to ask again."""
        with self._reader.reading() as catalog:
            return catalog.generation()

    def active_space(self) -> SpaceRow | None:
        """Return the space that answers queries; None before anything was indexed."""
        with self._reader.reading() as catalog:
            return catalog.active_space()

    def count_images(self) -> int:
        """Return the number of photos that can be found."""
        with self._reader.reading() as catalog:
            return catalog.count_images()

    def require_model(self, fingerprint: str, name: str) -> SpaceRow:
        """Return the active space if it was made with this model.

        Raises ModelMismatch with both names, LibraryEmpty where there is none yet.
        """
        space = self.active_space()
        if space is None:
            raise LibraryEmpty(f"The library at {self.path} is empty; `clipsearch index DIR` fills it.")
        if space.fingerprint != fingerprint:
            raise ModelMismatch(
                f"The library at {self.path} was made with {space.model_name} ({space.fingerprint[:12]}), "
                f"and the query comes from {name} ({fingerprint[:12]}). Search with {space.model_name}, or "
                f"index again with {name}."
            )
        return space

    def index_path(self, space: SpaceRow) -> Path:
        """Return where the index of a space is published."""
        return self.layout.index(space)

    def index_manifest_path(self, space: SpaceRow) -> Path:
        """Return where the manifest of that index is."""
        return self.layout.index_manifest(space)

    def check(self, *, deep: bool = True, photos: bool = False, report: Report | None = None) -> Health:
        """Compare the library with what was written; `deep`: every row and every rule, seal or no seal.

        `photos` reads every photo again and compares it with its hash; `report` is told a stage, done and
        total. Raises LibraryDamaged for a catalog that cannot be read at all, StorageError.
        """
        for look in range(_LOOKS):
            noted = last_generation(self.layout)  # before the catalog is: a writer may go on meanwhile
            with self._store.reading() as catalog:
                generation = catalog.generation()
                try:
                    health = examine(self.layout, catalog, noted, deep=deep)
                except LibraryDamaged:
                    # A compaction may have taken the vectors away between two looks at their file.
                    if look == _LOOKS - 1 or self.generation() == generation:
                        raise
                    continue
                stored = catalog.files.stored() if photos else []
            if health.is_good or self.generation() == generation:
                break
        if not photos:
            return health
        return replace(health, photos=read_again(stored, report or (lambda *progress: None)))

    def repair(self, *, reread: bool = False) -> Repaired:
        """Drop what is damaged, so that indexing makes it again; `reread` has it read every photo again.

        Raises LibraryLocked, StorageError, LibraryDamaged where the catalog contradicts itself: nothing is
        changed then.
        """
        with self.writer(repair=True) as writer:
            return repair(writer, self.layout, reread=reread)

    def backup(self, target: Path) -> None:
        """Copy the truth (catalog and vectors, of one state) to the new folder `target`.

        A writer may work meanwhile. Raises LibraryDamaged, StorageError (also where `target` is there).
        """
        with self._reader.reading() as reading:
            check_catalog(self.layout, current_seal(self.layout, reading.generation()))
        for look in range(_LOOKS):
            with self._store.reading() as catalog:
                generation = catalog.generation()
                try:
                    return backup(self.layout, catalog, real(target))
                except LibraryDamaged:
                    if look == _LOOKS - 1 or self.generation() == generation:
                        raise

    @classmethod
    def restore(cls, source: Path, target: Path) -> Path | None:
        """Put a copy of the library at `source`, once it was found whole, at `target`.

        Returns where the library that was there before lies now: nothing is deleted. Raises LibraryNotFound,
        LibraryDamaged (the backup is), LibraryVersion, LibraryLocked, StorageError: `target` is as it was.
        """
        source, target = real(source), real(target)
        with copied(source, target) as stage:
            if not _is_whole(stage):
                raise LibraryDamaged(f"The backup at {source} is damaged itself; nothing was changed.")
            return put_in_place(stage, target)

    def disk_usage(self) -> DiskUsage:
        """Return how much room the library takes, in bytes."""
        return DiskUsage.of(self.layout)

    def close(self) -> None:
        """Close the catalog."""
        self._reader.close()
        if "_store" in self.__dict__:
            self._store.close()

    def __enter__(self) -> LibraryFolder:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_whole(path: Path) -> bool:
    """Whether the library at `path` is what was written. Raises LibraryVersion, StorageError."""
    try:
        with LibraryFolder.open(path) as library:
            return library.check().is_good
    except LibraryDamaged:  # in words about a copy that nobody knows
        return False


def _not_found(path: Path) -> LibraryNotFound:
    return LibraryNotFound(f"There is no library at {path} yet; `clipsearch index DIR` makes one.")


def _check_files(layout: Layout) -> None:
    """Raise LibraryDamaged where a link, folder or pipe lies in the place of a file of the library.

    A pipe would be waited for without end, and through a link something else would be written to. An index
    is not looked at: it is derived, and does without. Raises OSError.
    """
    for path in (*layout.notes(), *layout.spaces.glob("*/vectors.*")):
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode):
                kind = _OTHER_KINDS.get(stat.S_IFMT(mode), "a pipe or device")
                raise LibraryDamaged(
                    f"{path} is {kind}, not the file that clipsearch wrote. Move it away; `clipsearch check` "
                    "then says what is missing."
                )


def _check_not_lost(layout: Layout) -> None:
    """Raise LibraryDamaged where there are vectors without a catalog: a new one would cut them to nothing."""
    if any(path.stat().st_size for path in layout.spaces.glob("*/vectors.*")):
        raise LibraryDamaged(
            f"{layout.catalog} is missing or empty, but there are embeddings beside it. Put a backup of the "
            "catalog in its place, or move the library away and index again."
        )


def _write_catalog(layout: Layout) -> None:
    """Make the catalog, or bring it to the present schema; the caller holds the lock."""
    from clipsearch.store.catalog import Store

    with Store(layout.catalog, "create") as store:
        store.checkpoint()


def _upgrade(layout: Layout) -> None:
    try:
        with writer_lock(layout.lock):
            durable.remove(layout.seal)  # the same generation in another schema
            _write_catalog(layout)
    except (LibraryLocked, StorageError) as error:
        raise LibraryVersion(
            f"{layout.folder} was made by an older clipsearch and cannot be brought up to date now: {error}"
        ) from error
