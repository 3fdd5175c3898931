"""`clipsearch check`, `repair`, `compact`, `backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsearch.cli.console import JsonOption, LibraryOption, amount, say, shown, stages, write_json
from clipsearch.cli.ingest import as_json_of, reporting, tell
from clipsearch.errors import LibraryDamaged

if TYPE_CHECKING:
    from clipsearch.folder import Health, PhotoHealth, Repaired

SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (check, repair, compact, backup, restore):
        app.command(command.__name__)(command)


def check(
    library: LibraryOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read everything again: every vector, every rule, every photo.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the library with what was written.

    Exit code 0: whole; 7: damaged; 1: whole, but photos are not what was indexed, or cannot be read (--deep).
    """
    from clipsearch.api import Library

    with Library.open(library) as opened, stages() as report:
        health = opened.check(deep=deep, report=report)
    if as_json:
        write_json(_health_json(health, deep))
    else:
        _tell_health(health)
    if not health.is_good:
        raise LibraryDamaged(
            "The library is not what was written; `clipsearch repair` mends what the photos can give back, "
            "`clipsearch restore` puts a backup in its place."
        )
    if not as_json:
        say("The library is whole.")
    if health.photos is not None and not health.photos.is_good:
        raise typer.Exit(1)


def _tell_health(health: Health) -> None:
    for problem in health.problems[:SHOWN]:
        say(f"Problem: {problem}")
    _more(health.problems)
    if health.lost_generations:
        lost = amount(health.lost_generations, "commit")
        say(f"Problem: {lost} are gone (catalog.db-wal was removed, or an older catalog.db put back)")
    for space in health.spaces:
        for hit in space.hits[:SHOWN]:
            say(f"Damaged embedding: {', '.join(shown(path) for path in hit.paths)}")
        _more(space.hits)
        if len(space.damaged) > len(space.hits):
            say(f"Damaged: {amount(len(space.damaged) - len(space.hits), 'vector')} of no visible photo")
        if space.index:
            say(f"Index of {space.space.model_name}: {space.index} (search is exact meanwhile)")
    if not health.is_sealed:
        say("The last writer did not end in order: there are no sums to compare, so every row was checked.")
    if health.photos is not None:
        _tell_photos(health.photos)


def _tell_photos(photos: PhotoHealth) -> None:
    say(f"{amount(photos.same, 'file')} hold what was indexed.")
    for count, what in ((photos.newer, "changed since"), (photos.gone, "no longer there")):
        if count:
            say(f"{amount(count, 'file')} {what} (`clipsearch index` sees to them)")
    for path in photos.changed[:SHOWN]:
        say(f"Another content, same size and time: {shown(path)} (`clipsearch repair --deep` reads it again)")
    _more(photos.changed)
    for path, reason in photos.unreadable[:SHOWN]:
        say(f"Cannot be read: {shown(path)}: {reason}")
    _more(photos.unreadable)


def _more(found: Any) -> None:
    if len(found) > SHOWN:
        say(f"… and {len(found) - SHOWN:,} more; --json lists them all")


def _health_json(health: Health, deep: bool) -> dict[str, object]:
    from clipsearch.paths import to_json

    photos = health.photos
    return {
        "whole": health.is_good,
        "deep": deep,
        "sealed": health.is_sealed,
        "sqlite": health.sqlite_version,
        "problems": list(health.problems),
        "lost_generations": health.lost_generations,
        "spaces": [
            {
                "model": space.space.model_name,
                "vectors": space.space.slots,
                "damaged": list(space.damaged),
                "photos": [to_json(path) for hit in space.hits for path in hit.paths],
                "index": space.index or None,
            }
            for space in health.spaces
        ],
        "photos": None
        if photos is None
        else {
            "same": photos.same,
            "newer": photos.newer,
            "gone": photos.gone,
            "changed": [to_json(path) for path in photos.changed],
            "unreadable": [{"path": to_json(path), "reason": reason} for path, reason in photos.unreadable],
        },
    }


def repair(
    library: LibraryOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every photo again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Mend what is damaged: embed those photos again, and drop a damaged index.

    Exit code 0: mended, or nothing was wrong; 1: some photos could not be read; 7: the catalog contradicts
    itself, and only a backup helps.
    """
    from clipsearch.api import Library

    with Library.open(library) as opened, reporting() as report:
        repaired, summary = opened.repair(reread=deep, report=report)
    if as_json:
        write_json(_repaired_json(repaired) | {"index_run": None if summary is None else as_json_of(summary)})
    else:
        _tell_repaired(repaired)
        if summary is not None:
            tell(summary)
    if summary is not None and summary.interrupted:
        raise KeyboardInterrupt
    if summary is not None and (summary.failed or summary.offline or summary.pending):
        raise typer.Exit(1)


def _tell_repaired(repaired: Repaired) -> None:
    if repaired.is_nothing:
        say("There was nothing to repair.")
    for count, what in (
        (repaired.dropped, "damaged embeddings dropped, to be made again"),
        (repaired.indexes, "damaged indexes removed (search is exact until one is built again)"),
        (repaired.lost_generations, "commits are gone; what they held is read again"),
    ):
        if count:
            say(f"{count:,} {what}")
    if repaired.accepted:
        say(
            "The catalog is not the file that clipsearch left; nothing in it contradicts itself, so it stays."
        )
    if repaired.rereads:
        say("Every photo is read again.")


def _repaired_json(repaired: Repaired) -> dict[str, object]:
    from clipsearch.paths import to_json

    return {
        "dropped": repaired.dropped,
        "photos": [to_json(path) for path in repaired.paths],
        "indexes": repaired.indexes,
        "accepted": repaired.accepted,
        "rereads": repaired.rereads,
        "lost_generations": repaired.lost_generations,
    }


def compact(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """Give back the room that pruned photos took."""
    from clipsearch.api import Library

    with Library.open(library) as opened:
        freed = opened.compact()
    if as_json:
        write_json({"freed": freed})
    else:
        say(f"Freed {amount(freed, 'vector')}.")


def backup(
    target: Annotated[Path, typer.Argument(help="A new folder for the copy.")],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the library, also while it is in use. The copy is a library; photos are not in it."""
    from clipsearch.api import Library
    from clipsearch.paths import to_json

    with Library.open(library) as opened:
        opened.backup(target)
    if as_json:
        write_json({"backup": to_json(bytes(target.absolute()))})
    else:
        say(f"Copied to {shown(bytes(target.absolute()))}.")


def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `clipsearch backup` made.")],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a backup in the place of the library, once it was found whole. What was there is kept beside it."""
    from clipsearch.api import Library
    from clipsearch.config import default_library
    from clipsearch.paths import to_json

    aside = Library.restore(source, library)
    place = (library or default_library()).absolute()
    if as_json:
        kept = None if aside is None else to_json(bytes(aside))
        write_json({"library": to_json(bytes(place)), "replaced": kept})
        return
    say(f"The library at {shown(bytes(place))} is that of the backup.")
    if aside is not None:
        say(f"What was there before lies at {shown(bytes(aside))}; remove it when you need it no more.")
