"""The command line: one Typer application, errors as sentences, documented exit codes."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated

import typer

from clipsearch import __version__
from clipsearch.cli.console import drop_output, make_errors_lossy, say_error
from clipsearch.cli.light import LightGroup
from clipsearch.durable import FULL, too_many_files
from clipsearch.errors import ClipsearchError, StorageError

# Of libraries that say it in words: ONNX Runtime, torch, the system while it loads a library, and mmap.
_NO_MEMORY = ("bad_alloc", "allocate memory", "failed to map segment")

PARTS = {
    "ingest": ("index",),
    "find": ("query", "similar"),
    "manage": ("status", "prune"),
    "care": ("check", "repair", "compact", "backup", "restore"),
    "index_report": ("eval-index",),
    "training": ("train",),
    "evaluation": ("eval",),
    "ui": ("ui",),
    "serve": ("serve",),
    "models": ("models",),
    "shards": ("shards",),
}
"""Modules beside this one and their commands, in the order of the help."""


def application(words: Sequence[str] = ()) -> typer.Typer:
    """The application; where `words` begin with a command, with no more than that command needs.

    All of them take as long to load and to build as a search does.
    """
    app = typer.Typer(
        name="clipsearch",
        cls=LightGroup,
        help="Find photos by what is in them, offline.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Exit codes: 0 done, 1 done but some files failed or a folder was offline, 2 wrong usage, "
        "3 and up one for each kind of error (see docs/cli.md), 130 interrupted.",
    )
    app.callback()(_options)
    wanted = [part for part, names in PARTS.items() if words and words[0] in names]
    for part in wanted or PARTS:
        import_module(f"clipsearch.cli.{part}").register(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipsearch {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _terminate(number: int, _frame: FrameType | None) -> None:
    """End in order; at once where a module is being loaded.

    What is raised there may be swallowed by a callback, and the signal with it, or abort in a C++ library.
    """
    if _is_importing():
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _is_importing() -> bool:
    """Whether an import was interrupted. Not by the handler's frame: `Shield` may deliver it later."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _end_in_order() -> None:
    """Let SIGTERM, and SIGHUP of a closed terminal, end a run as Ctrl-C does; `nohup` stays what it is."""
    if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler):
        signal.signal(signal.SIGINT, _terminate)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)


def _of_the_machine(error: Exception) -> str | None:
    """What to say of an error that no command foresaw, where it is the machine that has no room."""
    if too_many_files(error):
        return "Too many files are open (`ulimit -n` allows more)."
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return "There is not enough memory: a smaller model needs less, and so does a smaller --batch."
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{error.filename or 'The output'} cannot be written ({error.strerror})."
    return None


def run() -> None:
    """The console script: run the application and turn its errors into sentences and exit codes."""
    make_errors_lossy()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal need not know every letter
    try:
        app = application(sys.argv[1:])
        _end_in_order()  # until here Ctrl-C ends it at once
        app()
    except ClipsearchError as error:
        say_error(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        sentence = _of_the_machine(error)
        if sentence is None:
            raise
        drop_output()
        say_error(f"{sentence} What was committed before is safe.")
        sys.exit(StorageError.exit_code)
    except KeyboardInterrupt:  # before Typer, which knows it, came to anything
        sys.exit(128 + signal.SIGINT)
