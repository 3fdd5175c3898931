"""Sealing a library, and comparing one with its seal: which files it covers, and what it means to differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipsearch import durable
from clipsearch.errors import LibraryDamaged
from clipsearch.folder.layout import Layout
from clipsearch.folder.seal import (
    Seal,
    differs,
    is_believed,
    read_seal,
    seal_of,
    sum_in_memory,
    write_seal,
)
from clipsearch.store import SpaceRow
from clipsearch.vectors import Halves, VectorFile


def seal_library(layout: Layout, spaces: Sequence[SpaceRow], generation: int) -> None:
    """Seal the state `generation`, all of which is in the catalog file.

    Rows that the seal before covers are not read again. Raises StorageError.
    """
    before = read_seal(layout.seal)
    if before is not None and before.generation == generation:
        return
    with durable.storage_errors(layout.catalog):
        size = layout.catalog.stat().st_size
    files = {layout.name(layout.catalog): seal_of(layout.catalog, size)}
    for space in spaces:
        path = layout.vectors(space)
        name, size = layout.name(path), VectorFile(path, space.dim).row_bytes * space.slots
        if size:
            files[name] = seal_of(path, size, before.files.get(name) if before else None)
    write_seal(layout.seal, Seal(generation, files))


def current_seal(layout: Layout, generation: int) -> Seal | None:
    """Return the seal of the state `generation`; None while there is none: a writer is at work, or died."""
    seal = read_seal(layout.seal)
    return seal if seal is not None and seal.generation == generation else None


def check_catalog(layout: Layout, seal: Seal | None) -> None:
    """Raise LibraryDamaged where the catalog is not what `seal`, that of its present state, says.

    The caller is in a transaction, or holds the lock, so that nothing is written back meanwhile. Raises
    StorageError.
    """
    sealed = seal.files.get(layout.name(layout.catalog)) if seal else None
    if sealed is not None and differs(layout.catalog, sealed, whole=True):
        raise LibraryDamaged(
            f"{layout.catalog} is not what clipsearch wrote. It was left as it is: `clipsearch restore` puts "
            "a backup in its place, `clipsearch check` says more."
        )


def check_vectors(layout: Layout, seal: Seal | None, space: SpaceRow, rows: Halves) -> None:
    """Raise LibraryDamaged where the vectors of `space`, mapped as `rows`, are not what `seal` says."""
    path = layout.vectors(space)
    sealed = seal.files.get(layout.name(path)) if seal else None
    if sealed is None:
        return
    with durable.storage_errors(path):
        try:
            believed = rows.nbytes == sealed.bytes and is_believed(path, sealed)
        except FileNotFoundError:  # a writer has just put another in its place; these rows stay mapped
            believed = False
    # The search is about to read these pages in any case.
    if not believed and (
        rows.nbytes != sealed.bytes or sum_in_memory(rows.view(np.uint8).ravel()) != sealed.sum
    ):
        raise LibraryDamaged(
            f"{path} is not what clipsearch wrote. `clipsearch check` names the photos it concerns, and "
            "`clipsearch repair` embeds them again."
        )
