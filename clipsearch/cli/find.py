"""`clipsearch query` and `clipsearch similar`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsearch.cli.console import DeviceOption, JsonOption, LibraryOption, results, say, shown, write_json
from clipsearch.cli.light import LightCommand
from clipsearch.config import expanded
from clipsearch.errors import UsageError

if TYPE_CHECKING:
    from clipsearch.search import Hit, Where

NumberOption = Annotated[int, typer.Option("--number", "-n", min=1, help="Photos a page.")]
PageOption = Annotated[int, typer.Option("--page", min=1, help="Page of the results.")]
UnderOption = Annotated[
    list[Path] | None, typer.Option("--under", help="Only below this folder (may be given again).")
]
AfterOption = Annotated[
    str | None, typer.Option("--after", help="Taken on or after: 2024, 2024-05 or 2024-05-31.")
]
BeforeOption = Annotated[str | None, typer.Option("--before", help="Taken before that date.")]
ScoreOption = Annotated[
    float | None, typer.Option("--min-score", min=-1.0, max=1.0, help="Lowest cosine shown.")
]
PathsOption = Annotated[bool, typer.Option("--paths", help="Write paths only, one a line.")]
NullOption = Annotated[bool, typer.Option("-0", "--null", help="Write paths only, each ended by a NUL byte.")]


class DashedWords(LightCommand):
    """A command whose words may begin with a dash, if they stand behind "--"; says so where they do not."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; raises BadParameter for words that look like an option and are none."""
        takes_value = {
            name: not getattr(parameter, "is_flag", False)
            for parameter in self.params
            for name in parameter.opts
            if name.startswith("-")
        }
        rest = iter(args)
        for argument in rest:
            name = argument.partition("=")[0] if argument.startswith("--") else argument[:2]
            if argument == "--":
                break
            if takes_value.get(name) and argument == name:
                next(rest, None)
            elif argument[:1] == "-" and len(argument) > 1 and name not in {*takes_value, "--help", "-h"}:
                raise typer.BadParameter(
                    f"{argument!r} begins with a dash and is no option. Words that do so go behind --, "
                    "as in: clipsearch query -- '- fruit'"
                )
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("query", cls=DashedWords)(query)
    app.command("similar", cls=LightCommand)(similar)


def query(
    words: Annotated[
        list[str],
        typer.Argument(help="What to look for: words, an image file, or several with + and - between them."),
    ],
    number: NumberOption = 20,
    page: PageOption = 1,
    under: UnderOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    min_score: ScoreOption = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
    paths: PathsOption = False,
    null: NullOption = False,
    device: DeviceOption = None,
) -> None:
    """Find photos by words, by an image, or by arithmetic of both.

    clipsearch query "a dog on a beach"

    clipsearch query 'horse + stripes - "tall grass"'

    clipsearch query 'holiday.jpg + 0.5:"at night"' --after 2023
    """
    line = " ".join(words)
    hits = None
    if device is None:
        filters = {"after": after, "before": before, "min_score": min_score, "under": _absolute(under)}
        hits = _from_server(library, line, {"n": number, "page": page, **filters})
    if hits is None:
        from clipsearch.api import Library

        with Library.open(library, device=device) as opened:
            where = _where(under, after, before, min_score)
            hits = opened.search(line, number, page=page, where=where)
    _write(hits, as_json=as_json, paths=paths, null=null)


def similar(
    photo: Annotated[Path, typer.Argument(help="A photo of the library, or any image file.")],
    number: NumberOption = 20,
    page: PageOption = 1,
    under: UnderOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    min_score: ScoreOption = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
    paths: PathsOption = False,
    null: NullOption = False,
    device: DeviceOption = None,
) -> None:
    """Find photos like a given one, which is itself left out."""
    from clipsearch.api import Library

    with Library.open(library, device=device) as opened:
        where = _where(under, after, before, min_score)
        hits = opened.similar(photo, number, page=page, where=where)
    _write(hits, as_json=as_json, paths=paths, null=null)


def _from_server(library: Path | None, line: str, asked: dict[str, Any]) -> list[Hit] | None:
    """The answer of the server that serves the library; None where there is none, or it has no answer."""
    from clipsearch.config import default_library
    from clipsearch.server.entry import find

    entry = find(default_library() if library is None else expanded(library))
    if entry is None:
        return None
    from clipsearch.paths import to_json
    from clipsearch.search.query import Query, is_image_path
    from clipsearch.server.client import ask

    try:
        query = Query.parse(line, is_image=is_image_path)
    except UsageError:
        return None
    return ask(entry, query, {**asked, "under": [to_json(folder) for folder in asked["under"]]})


def _absolute(paths: Sequence[Path] | None) -> tuple[bytes, ...]:
    return tuple(os.path.abspath(os.path.expanduser(os.fsencode(path))) for path in paths or ())  # noqa: PTH100, PTH111


def _where(
    under: Sequence[Path] | None, after: str | None, before: str | None, min_score: float | None
) -> Where:
    from clipsearch.search import Where, parse_date

    return Where(
        under=_absolute(under),
        after=None if after is None else parse_date(after),
        before=None if before is None else parse_date(before),
        min_score=min_score,
    )


def _write(hits: Sequence[Hit], *, as_json: bool, paths: bool, null: bool) -> None:
    if as_json:
        write_json([hit.to_dict() for hit in hits])
        return
    if not (hits or paths or null):
        say("Nothing found.")
        return
    with results():
        if paths or null:
            end = b"\0" if null else b"\n"
            sys.stdout.buffer.write(b"".join(os.fsencode(hit.path) + end for hit in hits))
        elif sys.stdout.isatty():
            _table(hits)
        else:
            for hit in hits:
                typer.echo(f"{hit.score:.3f}\t{shown(hit.path)}")


def _table(hits: Sequence[Hit]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from clipsearch.tar_shards import shard_of

    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("score", justify="right", style="cyan")
    table.add_column("photo", overflow="fold")
    table.add_column("taken", style="dim", no_wrap=True)
    table.add_column("camera", style="dim", no_wrap=True)
    for hit in hits:
        copies = f" (+{len(hit.copies)})" if hit.copies else ""
        path = Text(shown(hit.path) + copies)
        plain = hit.path.isascii() and hit.path.isprintable() and " " not in hit.path  # rich escapes no link
        if plain:
            shard = shard_of(hit.path.encode())  # for other programs there is nothing in it
            path.stylize(f"link file://{hit.path if shard is None else shard.decode()}")
        table.add_row(f"{hit.score:.3f}", path, (hit.taken_at or "")[:10], Text((hit.camera or "")[:24]))
    Console().print(table)
