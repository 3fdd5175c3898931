"""Making a damaged library whole again from what is whole in it, for what the photos can give back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipsearch.folder.health import why_no_index
from clipsearch.vectors import VectorFile

if TYPE_CHECKING:
    from clipsearch.folder.layout import Layout
    from clipsearch.folder.writer import Writer
    from clipsearch.store import SpaceRow


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did.

    `dropped` embeddings were damaged or lost: their photos (`paths`) want new ones. `indexes` were removed.
    `accepted` says that the catalog was not the file that was left, though nothing in it contradicts itself:
    it stays, and every file will be read again, as with `rereads`. `cut_bytes` were never committed,
    `lost_generations` are commits that are gone.
    """

    dropped: int
    paths: Sequence[bytes]
    indexes: int
    accepted: bool
    rereads: bool
    cut_bytes: int
    lost_generations: int

    @property
    def is_nothing(self) -> bool:
        """Whether there was nothing to repair."""
        return not (self.dropped or self.indexes or self.accepted or self.lost_generations)


def repair(writer: Writer, layout: Layout, *, reread: bool) -> Repaired:
    """Drop what is damaged; `writer` was opened with `repair`, and has found the catalog sound.

    Raises StorageError, LibraryDamaged.
    """
    recovery = writer.recovery
    with writer.reading() as catalog:
        spaces, library_id = catalog.spaces.all(), catalog.library_id()
    dropped, indexes, paths = recovery.lost_embeddings, 0, list[bytes]()
    for space in spaces:
        if why_no_index(layout, space, library_id):
            writer.remove_index(space)
            indexes += 1
        damaged = _damaged(writer, layout, space)
        with writer.reading() as catalog:
            paths += [path for hit in catalog.search.hits(space.id, damaged) for path in hit.paths]
        if damaged:
            dropped += writer.drop_embeddings(space.id, damaged)
    writer.forget_seal()  # its sums are of what was damaged
    rereads = reread or recovery.unlike_the_seal
    if rereads:
        with writer.changing() as catalog:
            catalog.files.distrust()
    return Repaired(
        dropped=dropped,
        paths=paths,
        indexes=indexes,
        accepted=recovery.unlike_the_seal,
        rereads=rereads,
        cut_bytes=recovery.cut_bytes,
        lost_generations=recovery.lost_generations,
    )


def _damaged(writer: Writer, layout: Layout, space: SpaceRow) -> list[int]:
    file = VectorFile(layout.vectors(space), space.dim)
    with writer.reading() as catalog:
        return list(file.verify(catalog.embeddings.checksums(space.id), space.slots))
