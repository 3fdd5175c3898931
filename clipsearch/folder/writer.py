"""Changing a library: recovery first, then batches, each wholly there or not at all.

The protocol of a batch, and what a crash leaves after each step, is in docs/storage-format.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from clipsearch import durable
from clipsearch.errors import LibraryDamaged, ModelMismatch, StorageError
from clipsearch.folder.layout import Layout, checked_fingerprint
from clipsearch.folder.seal import read_seal
from clipsearch.folder.sealing import check_catalog, current_seal, seal_library
from clipsearch.store import FoundFile, NewFailure, NewImage, PruneResult, SpaceRow
from clipsearch.store.connect import READ_MODES, uri_of
from clipsearch.vectors import Floats, VectorError, VectorFile

if TYPE_CHECKING:
    from clipsearch.store.catalog import Catalog, Store


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that are committed together. Everything may be empty.

    `images` are new contents, and `encoded` ids of known images (for another model, or a damaged row).
    `vectors` are their embeddings for the space `space_id`, those of `images` first: float32 (N, D), unit
    norm. Without vectors, images enter only the catalog. `found` are (image id, file) for contents that are
    known: copies, changed stats. `moves` are (file id, file at its new place). `missing` and `returned` are
    ids of files that vanished or are there again as they were. `failures` are noted under `run_id`; `solved`
    are paths whose failure is forgotten.
    """

    images: Sequence[NewImage] = ()
    encoded: Sequence[int] = ()
    vectors: Floats | None = None
    space_id: int | None = None
    found: Sequence[tuple[int, FoundFile]] = ()
    moves: Sequence[tuple[int, FoundFile]] = ()
    missing: Sequence[int] = ()
    returned: Sequence[int] = ()
    failures: Sequence[NewFailure] = ()
    solved: Sequence[bytes] = ()
    run_id: int | None = None


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the writer found left over from the one before.

    `cut_bytes` of vectors were never committed. `lost_generations` were committed and are gone from the
    catalog (its ``-wal`` file was removed, or an older copy put back): what they held is encoded again.
    `lost_embeddings` were cut off the vector files and dropped from the catalog, and `unlike_the_seal` says
    that the catalog is not the file that was left (both only when repairing; else they are refused).
    """

    cut_bytes: int = 0
    lost_generations: int = 0
    lost_embeddings: int = 0
    unlike_the_seal: bool = False


class Writer:
    """The one process that may change the library; made by `LibraryFolder.writer`.

    After a StorageError or LibraryDamaged it refuses every further change: what the disk holds is known again
    only after the library was opened anew.
    """

    def __init__(self, layout: Layout, store: Store) -> None:
        self._layout = layout
        self._store = store
        self._failed = False
        self.recovery = Recovery()

    @contextmanager
    def changing(self) -> Iterator[Catalog]:
        """Give a transaction of the catalog, for what needs no vectors: roots, runs, missing files.

        It is on the disk once the block has ended. Raises StorageError, LibraryDamaged.
        """
        with self._guarded():
            with self._store.writing() as catalog:
                yield catalog
                generation = catalog.generation() + 1
            self._note_generation(generation)

    @property
    def catalog_uri(self) -> str:
        """Where other processes may read the catalog as of the last commit: an SQLite URI."""
        return uri_of(self._layout.catalog, READ_MODES[0])

    @contextmanager
    def reading(self) -> Iterator[Catalog]:
        """Give a view of the catalog as of the last commit."""
        with self._store.reading() as catalog:
            yield catalog

    def commit(self, batch: Batch) -> list[int]:
        """Make `batch` part of the library and return the ids of `batch.images`; afterwards it is durable.

        Raises VectorError (nothing is written, and the writer can go on), StorageError, LibraryDamaged
        (nothing of the batch counts).
        """
        if batch.vectors is None:
            return self._commit_rows(batch, None, [])
        wanted = len(batch.images) + len(batch.encoded)
        if len(batch.vectors) != wanted or batch.space_id is None:
            raise VectorError(f"{len(batch.vectors)} embeddings for {wanted} images of a space")
        space = self._space(batch.space_id)
        with self._guarded():
            file = VectorFile(self._layout.vectors(space), space.dim)
            _, checksums = file.append(batch.vectors, space.slots)
        return self._commit_rows(batch, space, checksums)

    def _commit_rows(self, batch: Batch, space: SpaceRow | None, checksums: Sequence[int]) -> list[int]:
        with self.changing() as catalog:
            # Moves come first: a path that was left may hold a new image in the same batch.
            catalog.files.move(batch.moves)
            ids = catalog.images.record(batch.images)
            if space is not None:
                embedded = list(zip([*ids, *batch.encoded], checksums, strict=True))
                catalog.embeddings.add(space.id, space.slots, embedded)
            catalog.files.place(batch.found)
            catalog.files.mark_missing(batch.missing)
            catalog.files.mark_found(batch.returned)
            catalog.failures.clear(batch.solved)
            catalog.failures.note(batch.failures, batch.run_id)
            durable.failpoint("catalog.rows")
        return ids

    def ensure_space(self, fingerprint: str, model_name: str, model_source: str, dim: int) -> SpaceRow:
        """Return the space of a model, made when it is new; the first space of a library is active at once.

        Raises ModelMismatch when the fingerprint is known with another dimension, StorageError.
        """
        checked_fingerprint(fingerprint)
        with self.reading() as catalog:
            space = catalog.spaces.by_fingerprint(fingerprint)
        if space is None:
            with self._guarded():
                durable.make_directory(self._layout.spaces / fingerprint)
            with self.changing() as catalog:
                space = catalog.spaces.get(catalog.spaces.add(fingerprint, model_name, model_source, dim))
                assert space is not None
        if space.dim != dim:
            raise ModelMismatch(
                f"{model_name} gives {dim} numbers for an image, and the library has {space.dim} from "
                f"{space.model_name} under the same fingerprint."
            )
        return space

    def activate(self, space_id: int) -> None:
        """Let this space answer queries from now on."""
        with self.changing() as catalog:
            catalog.spaces.activate(space_id)

    def delete_space(self, space_id: int) -> None:
        """Forget a space and remove its files. Raises ModelMismatch for the active one."""
        space = self._space(space_id)
        if space.active:
            raise ModelMismatch(
                f"{space.model_name} answers the queries of this library; it cannot be removed."
            )
        self.forget_seal()  # the files of a space that is made anew may have the old names
        with self.changing() as catalog:
            catalog.spaces.delete(space_id)
        for path in self._layout.space(space).iterdir():
            durable.remove(path)

    def prune(self, root_ids: Sequence[int] | None = None) -> PruneResult:
        """Delete missing files of online roots, images left without a file, and their embeddings."""
        with self.changing() as catalog:
            return catalog.files.prune(root_ids)

    def drop_embeddings(self, space_id: int, slots: Sequence[int]) -> int:
        """Give up damaged embeddings, so that their images count as pending; return how many there were."""
        self.forget_seal()  # it goes on from the sum of what they were
        with self.changing() as catalog:
            return catalog.embeddings.drop(space_id, slots)

    def remove_index(self, space: SpaceRow) -> None:
        """Remove the index of a space, which is derived; until it is built again, search is exact."""
        with self._guarded():
            self._remove_indexes([space])

    def forget_seal(self) -> None:
        """Let the next seal be made of the files as they are, and not add to the one before."""
        with self._guarded():
            durable.remove(self._layout.seal)

    def compact(self, space_id: int) -> int:
        """Rewrite a space without its tombstones and return how many rows were freed.

        Slots change, so the index goes with the old file. A reader keeps what it has open.
        """
        space = self._space(space_id)
        with self.reading() as catalog:
            live = catalog.embeddings.live_slots(space_id)
            if len(live) == space.slots:
                return 0
            old = VectorFile(self._layout.vectors(space), space.dim)
            if next(old.verify(catalog.embeddings.checksums(space_id), space.slots), None) is not None:
                raise LibraryDamaged(
                    f"{old.path} is not what was written, and is not copied; `clipsearch repair` comes first."
                )
        rewritten = replace(space, epoch=space.epoch + 1)
        with self._guarded():
            old.copy_rows(np.asarray(live, np.int64), self._layout.vectors(rewritten), space.slots)
        with self.changing() as catalog:
            catalog.embeddings.renumber(space_id, live)
        self._remove_strays()
        return space.slots - len(live)

    def recover(self, *, repair: bool = False) -> None:
        """Bring the files to what the catalog says; `recovery` tells what that took.

        Doing it twice, or dying in it, does no harm. Raises LibraryDamaged when committed rows are gone or
        the catalog is not the file that was left, unless `repair`: then rows that are gone are dropped from
        the catalog, and it is refused only where it contradicts itself.
        """
        with self.reading() as catalog:
            spaces, generation = catalog.spaces.all(), catalog.generation()
        unlike = self._judge(generation) if repair else False
        if not repair:
            check_catalog(self._layout, current_seal(self._layout, generation))
        lost = max(0, last_generation(self._layout) - generation)
        if lost:
            self._remove_indexes(spaces)  # they may cover slots that will be given anew
            durable.remove(self._layout.seal)
        cut = dropped = 0
        for space in spaces:
            file = VectorFile(self._layout.vectors(space), space.dim)
            if repair and file.rows_on_disk() < space.slots:
                durable.remove(self._layout.seal)
                with self.changing() as catalog:
                    dropped += catalog.embeddings.cut(space.id, file.rows_on_disk())
                space = self._space(space.id)
                self._remove_indexes([space])
            file.check_length(space.slots)
            cut += file.cut(space.slots)
        self._remove_strays()
        if lost:
            self._note_generation(generation)
        self.recovery = Recovery(cut, lost, dropped, unlike)

    def _judge(self, generation: int) -> bool:
        """Whether the catalog is another file than was left; raises LibraryDamaged where nothing can be built
        on it, before a byte is changed: what it says of the slots decides what is cut."""
        with self.reading() as catalog:
            problems = catalog.integrity()
        if problems:
            more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
            raise LibraryDamaged(
                f"{self._layout.catalog} cannot be repaired: {problems[0]}{more}. It was left as it is: "
                "`clipsearch restore` puts a backup in its place; without one, move the library away and "
                "index again."
            )
        try:
            check_catalog(self._layout, current_seal(self._layout, generation))
        except LibraryDamaged:
            return True
        return False

    def leave(self) -> None:
        """Write the log back into the catalog file and seal the library, unless something failed before.

        Where a reader keeps a part of the log from being written back, there is no seal of this state.
        Raises StorageError.
        """
        if not self._failed:
            with self._guarded():
                if self._store.checkpoint():
                    with self.reading() as catalog:
                        spaces, generation = catalog.spaces.all(), catalog.generation()
                    seal_library(self._layout, spaces, generation)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        if self._failed:
            raise StorageError(
                "An earlier change failed, so nothing more was written; open the library again."
            )
        try:
            yield
        except (StorageError, LibraryDamaged):
            self._failed = True
            raise

    def _space(self, space_id: int) -> SpaceRow:
        with self.reading() as catalog:
            space = catalog.spaces.get(space_id)
        if space is None:
            raise LibraryDamaged(f"the catalog has lost its space {space_id}; put a backup in its place")
        return space

    def _note_generation(self, generation: int) -> None:
        # Only ever behind the catalog, so a note that is ahead means that the catalog went back in time.
        with suppress(OSError, StorageError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._layout.generation, flags, 0o666)
            try:
                durable.overwrite(descriptor, self._layout.generation, b"%d\n" % generation)
            finally:
                os.close(descriptor)

    def _remove_indexes(self, spaces: Sequence[SpaceRow]) -> None:
        for space in spaces:
            durable.remove(self._layout.index_manifest(space))
            durable.remove(self._layout.index(space))

    def _remove_strays(self) -> None:
        """Remove files of other epochs and of writes that were not finished."""
        with self.reading() as catalog:
            spaces = catalog.spaces.all()
        for space in spaces:
            folder = self._layout.space(space)
            kept = {
                self._layout.vectors(space),
                self._layout.index(space),
                self._layout.index_manifest(space),
            }
            for path in folder.iterdir() if folder.is_dir() else ():
                old = path not in kept and path.name.startswith(("vectors.", "index."))
                if old or path.suffix == durable.TEMPORARY_SUFFIX:
                    durable.remove(path)


def last_generation(layout: Layout) -> int:
    """Return the last generation that anything beside the catalog tells of; 0 where nothing legible does."""
    seal = read_seal(layout.seal)
    try:
        noted = int(layout.generation.read_bytes())
    except (OSError, ValueError):
        noted = 0
    return max(noted, seal.generation if seal else 0)
