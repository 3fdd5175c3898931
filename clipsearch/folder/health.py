"""Is the library what was written, and does it still describe the photos? Reads; changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipsearch.folder.layout import Layout
from clipsearch.folder.rehash import PhotoHealth
from clipsearch.folder.seal import Seal, differs, read_seal
from clipsearch.store import Hit, SpaceRow
from clipsearch.vectors import VectorFile

if TYPE_CHECKING:
    from clipsearch.store.catalog import Catalog


@dataclass(frozen=True, slots=True)
class SpaceHealth:
    """The slots of a space whose rows are missing or changed, the visible images they belong to, its index.

    `damaged` may hold slots that no image uses any more. `index` says why the index beside the vectors is not
    used; "" where it is whole, or there is none.
    """

    space: SpaceRow
    damaged: Sequence[int]
    hits: Sequence[Hit]
    index: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing was found."""
        return not (self.damaged or self.index)


@dataclass(frozen=True, slots=True)
class Health:
    """What a check found: sentences about the catalog, damaged embeddings, commits that are gone.

    `is_sealed` says whether the last writer left in order, so that every byte could be compared with its sum.
    `photos` is what reading the photos again gave, None where they were not read.
    """

    problems: Sequence[str]
    spaces: Sequence[SpaceHealth]
    lost_generations: int
    is_sealed: bool = True
    sqlite_version: str = sqlite3.sqlite_version
    photos: PhotoHealth | None = None

    @property
    def is_good(self) -> bool:
        """Whether the library is what was written; what became of the photos is another matter."""
        return not (self.problems or self.lost_generations) and all(space.is_good for space in self.spaces)


def examine(layout: Layout, catalog: Catalog, noted: int, *, deep: bool) -> Health:
    """Compare the library with its seal; where there is none, or when `deep`, every row and rule as well.

    `noted` is the last generation that anything beside the catalog told of before it was opened.

    Deep: SQLite's own integrity check, the rules between rows, the CRC-32 of every embedding. An index is
    compared with its manifest and with the vectors in any case.
    """
    generation = catalog.generation()
    seal = read_seal(layout.seal)
    sealed = seal if seal is not None and seal.generation == generation else None
    problems = [] if sealed is None else _unlike_the_seal(layout, sealed)
    if seal is None and layout.seal.exists():
        problems.append("the seal (SEAL) is damaged; the next command that writes makes a new one")
    if deep or sealed is None or problems:
        problems += catalog.integrity()
    spaces = [_examine_space(layout, catalog, space, sealed, deep) for space in catalog.spaces.all()]
    return Health(problems, spaces, max(0, noted - generation), is_sealed=sealed is not None)


def _unlike_the_seal(layout: Layout, seal: Seal) -> list[str]:
    sealed = seal.files.get(layout.name(layout.catalog))
    if sealed is None or not differs(layout.catalog, sealed, whole=True, trust_stat=False):
        return []
    return [f"{layout.catalog.name} is not the file that clipsearch left"]


def _examine_space(
    layout: Layout, catalog: Catalog, space: SpaceRow, seal: Seal | None, deep: bool
) -> SpaceHealth:
    file = VectorFile(layout.vectors(space), space.dim)
    sealed = seal.files.get(layout.name(file.path)) if seal else None
    changed = sealed is not None and differs(file.path, sealed, whole=False, trust_stat=False)
    damaged: list[int] = []
    if deep or changed or sealed is None:
        damaged = list(file.verify(catalog.embeddings.checksums(space.id), space.slots))
        if changed and not damaged:  # the row of a photo that was pruned
            damaged = catalog.embeddings.dead_slots(space.id)
    return SpaceHealth(
        space,
        damaged,
        catalog.search.hits(space.id, damaged),
        why_no_index(layout, space, catalog.library_id()),
    )


def why_no_index(layout: Layout, space: SpaceRow, library_id: str) -> str:
    """Return why an index that is there is not used; "" where it is whole, or there is none.

    Raises StorageError, LibraryDamaged where the vectors are gone.
    """
    from clipsearch.index import load

    index, manifest = layout.index(space), layout.index_manifest(space)

    def is_there() -> bool:  # either may be removed at any moment, or is just being made
        return index.exists() and manifest.exists()

    if not is_there():
        return ""
    file = VectorFile(layout.vectors(space), space.dim)
    rows = min(space.slots, file.rows_on_disk())
    reason = load(
        index,
        manifest,
        fingerprint=space.fingerprint,
        dim=space.dim,
        max_slots=rows,
        vectors=file.open_read(rows),
        space=layout.key(library_id, space),
    ).reason
    return reason if is_there() else ""
