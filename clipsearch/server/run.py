"""Starting and ending the server."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from clipsearch.errors import ServerError
from clipsearch.patience import PatientProtocol, check_room, tell_of_too_many_files_once
from clipsearch.server.app import build
from clipsearch.server.entry import published
from clipsearch.server.service import Service

ADDRESS = "127.0.0.1"
"""The one address that is listened on: nothing outside this machine reaches it."""

_CLIENTS = 64
"""Connections at once; above that the answer is 503."""
_LAST_SECONDS = 3
"""For requests under way when the server is told to end."""


def serve(library: Path, port: int, ready: Callable[[str, Path], None]) -> None:
    """Serve a library until SIGINT or SIGTERM; port 0 is any free one.

    `ready` is told the address and where port and token are noted. Raises ServerError for a port in use or a
    library that is being served, and what `Library.open` and `Library.encode_text` raise.
    """
    tell_of_too_many_files_once()
    check_room(library)
    with _listen(port) as listener:
        service = Service(library)
        try:
            token = secrets.token_urlsafe(32)
            server = uvicorn.Server(
                uvicorn.Config(
                    build(service, token),
                    http=PatientProtocol,
                    ws="none",
                    lifespan="off",
                    log_level="error",  # a line for each refused connection is a flood
                    access_log=False,
                    server_header=False,
                    limit_concurrency=_CLIENTS,
                    timeout_graceful_shutdown=_LAST_SECONDS,
                )
            )
            chosen = listener.getsockname()[1]
            # uvicorn raises the signal that ended it once more: that is how a server ends.
            with suppress(KeyboardInterrupt, SystemExit), published(library, chosen, token) as note:
                ready(f"http://{ADDRESS}:{chosen}", note)
                server.run(sockets=[listener])
        finally:
            service.close()


def _listen(port: int) -> socket.socket:
    # Named TCP, which asyncio looks for before it sends small answers at once (TCP_NODELAY).
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen()  # who finds the note before the server is ready waits
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ServerError(
                f"Port {port} is in use by another program; without --port a free one is taken."
            ) from error
        raise ServerError(f"Port {port} cannot be listened on ({error.strerror}).") from error
    return listener
