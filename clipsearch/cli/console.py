"""What the commands share: where they write, the options that all take, a progress bar."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsearch.config import expanded
from clipsearch.errors import StorageError, UsageError
from clipsearch.paths import display

if TYPE_CHECKING:
    from rich.progress import Progress
    from typing_extensions import Buffer

LibraryOption = Annotated[
    Path | None,
    typer.Option(
        "--library",
        "-l",
        envvar="CLIPSEARCH_LIBRARY",
        help="The library's folder (default: the user's data folder).",
        readable=False,  # not Typer's to look at: opening it says what is wrong
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="Torch device: cpu, cuda, mps (default: the best there is).")
]
# How often a stage says where it is when there is no terminal to draw a bar on.
_SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def results() -> Iterator[None]:
    """Write results in this block, and nothing else; a reader that has enough (head, less) ends the program.

    Raises StorageError where they cannot be written, as into a file on a full disk.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        drop_output()
        if isinstance(error, BrokenPipeError):
            raise SystemExit(128 + signal.SIGPIPE) from None
        raise StorageError(f"The output cannot be written ({error.strerror}).") from error


def drop_output() -> None:
    """Forget what standard output has not taken, so that the flush at the end does not fail as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class LossyFile(io.FileIO):
    """Standard error, where words that it cannot take, as on a full disk, are no reason to stop the work."""

    def write(self, data: Buffer, /) -> int:
        """Write what can be written; the rest is lost."""
        try:
            return super().write(data) or 0
        except OSError:
            return len(memoryview(data))


def make_errors_lossy() -> None:
    """Let standard error lose what it cannot take. Not where another stream stands in its place."""
    plain = sys.__stderr__
    if plain is not None and sys.stderr is plain:
        raw = LossyFile(plain.fileno(), "wb", closefd=False)
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw), plain.encoding, line_buffering=True)


def end_server_with_its_terminal() -> None:
    """Let SIGHUP, of a closed terminal, end a server as SIGTERM does, which its event loop knows."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: signal.raise_signal(signal.SIGTERM))


def say(text: str = "") -> None:
    """A line for people, on standard error: standard output is for results."""
    typer.echo(text, err=True)


def say_error(text: str) -> None:
    """An error, on standard error."""
    typer.secho("Error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(text, err=True)


def write_json(value: Any) -> None:
    """A JSON document on standard output, in ASCII, so that any path survives."""
    import json

    with results():
        typer.echo(json.dumps(value, indent=2))


def shown(path: str | bytes) -> str:
    """A path for people: relative to the working directory where that is shorter, escapes harmless."""
    raw = os.fsencode(path)
    try:
        relative = os.path.relpath(raw)
    except (OSError, ValueError):
        relative = raw
    if relative.startswith(b"..") or len(relative) >= len(raw):
        home = os.fsencode(expanded("~"))
        relative = b"~" + raw[len(home) :] if raw.startswith(home + b"/") else raw
    return display(relative)


@contextmanager
def progress_bar(unit: str) -> Iterator[Progress]:
    """A bar with counts, rate and time left, on standard error; silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        yield progress


@contextmanager
def stages() -> Iterator[Callable[..., None]]:
    """A bar for each stage of a run; where there is no terminal, a line now and then."""
    with progress_bar("steps") as bar:
        tasks: dict[str, tuple[object, float]] = {}
        said: dict[str, float] = {}
        quiet = not sys.stderr.isatty()

        def report(stage: str, done: int, total: int, detail: str = "") -> None:
            now = time.monotonic()
            if stage not in tasks:
                tasks[stage], said[stage] = (bar.add_task(stage, total=total, rate=""), now), now
            task, started = tasks[stage]
            rate = f"{done / (now - started):.1f}/s" if now - started > 1 else ""
            rate = f"{rate} {detail}".strip()
            bar.update(task, completed=done, total=total, rate=rate)  # type: ignore[arg-type]
            if quiet and (done >= total or now - said[stage] > _SECONDS_BETWEEN_LINES):
                said[stage] = now
                say(f"{stage}: {done:,} of {total:,} {rate}".rstrip())

        yield report


def amount(count: int, one: str, many: str | None = None) -> str:
    """`1 photo`, `2,345 photos`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def parse_size(text: str) -> int:
    """`500MB`, `2 GB`, `1.5TB` or plain bytes -> bytes. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise UsageError(f"{text!r} is no size; write 500MB or 2GB.")
    return int(float(found[1]) * 1000 ** " kmgt".index(found[2].lower() or " "))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
