"""`clipsearch`, and `python -m clipsearch`."""

from __future__ import annotations

import gc
import os
import signal
import sys


def main() -> None:
    """Run the command line. Until it is loaded nothing has to end in order: Ctrl-C ends it at once."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    open_streams()
    gc.set_threshold(50_000, 20, 50)  # rows of a catalog by the hundred thousand are no cycles to look for
    try:
        from clipsearch.cli.main import run

        run()
    finally:
        gc.freeze()  # nor is what goes with the process


def open_streams() -> None:
    """Open on nothing whichever of the three standard streams came closed.

    Else a file of the library gets the free number, and whatever some C code says on standard error is
    written into the catalog.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 (a descriptor)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    main()
