"""Is the library what was written? Reads everything; changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipsearch.folder.layout import Layout
from clipsearch.folder.writer import noted_generation
from clipsearch.store import Hit, SpaceRow
from clipsearch.vectors import VectorFile

if TYPE_CHECKING:
    from clipsearch.store.catalog import Catalog


@dataclass(frozen=True, slots=True)
class SpaceHealth:
    """The slots of a space whose rows are missing or changed, and the visible images they belong to."""

    space: SpaceRow
    damaged: Sequence[int]
    hits: Sequence[Hit]


@dataclass(frozen=True, slots=True)
class Health:
    """What a check found: sentences about the catalog, damaged embeddings, commits that are gone."""

    problems: Sequence[str]
    spaces: Sequence[SpaceHealth]
    lost_generations: int

    @property
    def is_good(self) -> bool:
        """Whether nothing was found."""
        return not (self.problems or self.lost_generations or any(space.damaged for space in self.spaces))


def examine(layout: Layout, catalog: Catalog) -> Health:
    """Compare every committed row with its CRC-32 and every rule of the catalog with its rows."""
    spaces = []
    for space in catalog.spaces.all():
        file = VectorFile(layout.vectors(space), space.dim)
        damaged = list(file.verify(catalog.embeddings.checksums(space.id), space.slots))
        spaces.append(SpaceHealth(space, damaged, catalog.search.hits(space.id, damaged)))
    lost = max(0, noted_generation(layout) - catalog.generation())
    return Health(problems=catalog.integrity(), spaces=spaces, lost_generations=lost)
