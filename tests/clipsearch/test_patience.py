"""A server whose clients do nothing: each kind of wait ends, and none of our own work does."""

import asyncio
import errno
import logging
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress

import pytest
import uvicorn

from clipsearch import patience

HEAD = b"GET /%s HTTP/1.1\r\nHost: 127.0.0.1\r\n"
LARGE = 64 << 20  # more than the buffers of a socket hold


async def application(scope, receive, send):
    body = b"short"
    if scope["path"] == "/body":
        while (await receive()).get("more_body"):  # or the client has gone
            pass
    elif scope["path"] == "/work":
        await asyncio.sleep(1.5)
    elif scope["path"] == "/large":
        body = bytes(LARGE)
    length = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def server():
    """A server with little patience."""
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listener:
        patch.setattr(patience, "SECONDS", dict.fromkeys(patience.SECONDS, 1.0))
        config = uvicorn.Config(application, http=patience.PatientProtocol, lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield server
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(server):
    wait_until(lambda: server.started)
    return server.servers[0].sockets[0].getsockname()[1]


def wait_until(true):
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connected(port):
    return closing(socket.create_connection(("127.0.0.1", port), timeout=30))


def read_to_its_end(line):
    """Read what there is; a server that goes on waiting is a TimeoutError."""
    with suppress(ConnectionResetError):
        while line.recv(1 << 16):
            pass


def takes(line, data):
    """Whether the other end is still there."""
    try:
        line.sendall(data)
    except (ConnectionResetError, BrokenPipeError):
        return False
    return True


UNFINISHED = [
    b"",
    b"GET /health HT",
    HEAD % b"",
    HEAD % b"" + b"\r\n",
    HEAD % b"" + b"\r\n" + HEAD % b"",
    HEAD % b"body" + b"Content-Length: 10\r\n\r\nhalf",
    HEAD % b"body" + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    HEAD % b"ignored" + b"Content-Length: 10\r\n\r\nhalf",
]


def test_who_does_not_go_on_is_let_go(port):
    with ExitStack() as opened:
        lines = [opened.enter_context(connected(port)) for _ in UNFINISHED]
        for line, sent in zip(lines, UNFINISHED, strict=True):
            line.sendall(sent)
        for line in lines:
            read_to_its_end(line)


def test_a_byte_now_and_then_prolongs_nothing(port):
    with connected(port) as head, connected(port) as body:
        body.sendall(HEAD % b"body" + b"Content-Length: 1000000\r\n\r\n")
        alive = [head, body]
        for _ in range(300):
            alive = [line for line in alive if takes(line, b"G")]
            time.sleep(0.1)
            if not alive:
                return
        raise AssertionError(alive)


@pytest.mark.parametrize("requests", [1, 2])
def test_who_does_not_read_is_let_go(server, port, requests):
    def connections():
        return len(server.server_state.connections)

    with connected(port) as line:
        line.sendall((HEAD % b"large" + b"\r\n") * requests)
        wait_until(connections)
        wait_until(lambda: not connections())  # and nothing has been read


def test_who_waits_for_an_answer_may_wait(port):
    with connected(port) as line:
        line.sendall(HEAD % b"work" + b"\r\n")
        assert line.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_too_many_open_files_are_a_sentence_and_said_once(caplog):
    log = logging.getLogger("asyncio")
    before = list(log.filters)
    patience.tell_of_too_many_files_once()
    try:
        for number in (errno.EMFILE, errno.EMFILE, errno.EIO):
            error = OSError(number, "")
            log.error("socket.accept()", exc_info=(OSError, error, None))
    finally:
        log.filters[:] = before
    full, other = caplog.records
    assert full.exc_info is None
    assert full.getMessage().startswith("Too many files are open")
    assert other.exc_info
