"""Copies of a library: made while it is in use, verified before they are used, never half there."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch import durable
from clipsearch.errors import LibraryDamaged, LibraryNotFound, StorageError
from clipsearch.folder.layout import Layout
from clipsearch.folder.lock import writer_lock
from clipsearch.folder.seal import Seal, seal_of, write_seal
from clipsearch.vectors import VectorFile

if TYPE_CHECKING:
    from clipsearch.store.catalog import Catalog

_BLOCK = 4 << 20
# What a library can do without, or what must not be copied from one that is in use.
_LEFT_OUT = frozenset({"LOCK", "thumbs", "catalog.db-shm"})


def backup(layout: Layout, catalog: Catalog, target: Path) -> None:
    """Copy the truth, the state that `catalog`'s transaction sees, to the new folder `target`: a `real` path.

    Every row is compared with its CRC-32 on the way, so that a copy is never worse than it looks. Raises
    LibraryDamaged, StorageError (also where `target` is there already); there is no `target` then.
    """
    with durable.storage_errors(target):
        if target.exists():
            raise StorageError(f"{target} exists already; name a new folder for the backup.")
    if real(layout.folder) in target.parents:
        raise StorageError(f"{target} lies in the library itself; name a folder outside for the backup.")
    with _staged(target) as stage:
        copy = Layout(stage)
        durable.make_directory(copy.spaces)
        files = {}
        for space in catalog.spaces.all():
            file = VectorFile(layout.vectors(space), space.dim)
            if next(file.verify(catalog.embeddings.checksums(space.id), space.slots), None) is not None:
                raise LibraryDamaged(
                    f"{file.path} is not what was written, and not copied; `clipsearch repair` comes first."
                )
            durable.make_directory(copy.space(space))
            path = copy.vectors(space)
            with durable.replacing(path, name="backup") as out:
                out.write(file.open_read(space.slots).data)
            if space.slots:
                files[copy.name(path)] = seal_of(path, space.slots * file.row_bytes)
        catalog.copy_to(copy.catalog)
        with durable.storage_errors(copy.catalog):
            files[copy.name(copy.catalog)] = seal_of(copy.catalog, copy.catalog.stat().st_size)
        write_seal(copy.seal, Seal(catalog.generation(), files))
        durable.rename(stage, target, name="backup-folder")


@contextmanager
def copied(source: Path, target: Path) -> Iterator[Path]:
    """Give a copy of the library at `source` that lies beside `target`; what is left of it is removed.

    Both are `real` paths. Raises LibraryNotFound, StorageError.
    """
    if not Layout(source).catalog.is_file():
        raise LibraryNotFound(f"There is no library, and so no backup of one, at {source}.")
    if target == source or source in target.parents or target in source.parents:
        raise StorageError(f"{source} and {target} lie within each other; copy the backup elsewhere first.")
    with _staged(target) as stage:
        _copy_tree(source, stage)
        yield stage


def put_in_place(stage: Path, target: Path) -> Path | None:
    """Make the library at `stage` that at `target`; return where the one that was there lies now.

    Nothing of it is deleted. Raises LibraryLocked while it is being written, StorageError.
    """
    if not target.exists():
        durable.rename(stage, target, name="restore")
        return None
    old = Layout(target)
    if not target.is_dir():
        raise StorageError(f"{target} is no folder; name another with --library.")
    if not (old.catalog.exists() or old.spaces.exists()) and any(target.iterdir()):
        raise StorageError(f"{target} is no library but holds something; name another folder with --library.")
    aside = _free_name(target)
    is_library = old.catalog.exists() or old.spaces.exists()
    with writer_lock(old.lock) if is_library else nullcontext():
        durable.rename(target, aside, name="restore-aside")
        durable.rename(stage, target, name="restore")
    return aside


def real(path: Path) -> Path:
    """Return `path` without links and dots: two names of one place would hide that it lies in another."""
    return Path(os.path.realpath(path))


def _free_name(target: Path) -> Path:
    number = 1
    while (name := target.with_name(f"{target.name}.replaced-{number}")).exists():
        number += 1
    return name


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target`; it is removed at the end unless it was renamed."""
    durable.make_directory(target.parent)
    stage = target.with_name(f".{target.name}.{secrets.token_hex(4)}{durable.TEMPORARY_SUFFIX}")
    durable.make_directory(stage)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _copy_tree(source: Path, target: Path) -> None:
    with durable.storage_errors(source):
        entries = sorted(source.iterdir())
    for path in entries:
        if path.name in _LEFT_OUT or path.suffix == durable.TEMPORARY_SUFFIX or path.is_symlink():
            continue
        copy = target / path.name
        if path.is_dir():
            durable.make_directory(copy)
            _copy_tree(path, copy)
        elif path.is_file():
            copying = durable.replacing(copy, name="restore-copy")
            with durable.storage_errors(path), path.open("rb") as file, copying as out:
                shutil.copyfileobj(file, out, _BLOCK)
