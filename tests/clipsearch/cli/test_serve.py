"""A server in a process of its own, asked by the command line and by programs, friendly and not."""

import base64
import http.client
import io
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import quote

import fakes
import jsonschema
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipsearch.cli.main import application
from clipsearch.config import CACHE_VARIABLE
from clipsearch.search import Where
from clipsearch.search.query import Query
from clipsearch.server.client import ask
from clipsearch.server.entry import entry_path, find, published
from clipsearch.server.questions import Page, picture_alone
from clipsearch.server.run import _listen
from clipsearch.server.service import Service


@dataclass(frozen=True)
class Served:
    """A server that runs, and how it is asked."""

    process: subprocess.Popen
    port: int
    token: str

    def ask(self, method, address, body=None, **headers):
        """Status, headers and body of the answer; a header of None is left out."""
        sent = {"Authorization": f"Bearer {self.token}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as line:
            line.request(method, address, body, {name: value for name, value in sent.items() if value})
            answer = line.getresponse()
            return answer.status, answer.headers, answer.read()

    def get(self, address, status=200, **headers):
        """The JSON of an answer with that status."""
        found, _, body = self.ask("GET", address, **headers)
        assert found == status, body
        return json.loads(body)

    def post(self, address, body, status=200, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        found, _, answer = self.ask("POST", address, data, **headers)
        assert found == status, answer
        return json.loads(answer)


@contextmanager
def serving(process, cache, library):
    """Wait until `process` serves the library, and end it afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(cache))
        deadline = time.monotonic() + 60
        while (entry := find(library)) is None:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    try:
        yield Served(process, entry.port, entry.token)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def started(library, cache="cache", **extra):
    """A server of the library, with the fake model."""
    cache = library.cwd / cache
    process = library.start("serve", CLIPSEARCH_CACHE=str(cache), **extra)
    with serving(process, cache, library.library) as server:
        yield server


@pytest.fixture(scope="module")
def library(indexed, tmp_path_factory):
    """A library that no test changes."""
    return indexed(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(library):
    """Its server."""
    with started(library) as server:
        yield server


@pytest.fixture
def photos(library):
    return library.cwd / "photos"


def asked(library, *words, **options):
    """A command that finds the server, and cannot do without: the model is not there for itself."""
    return library(*words, CLIPSEARCH_CACHE=str(library.cwd / "cache"), FAKE_MODELS="none", **options)


QUERIES = [
    ["red", "--json"],
    ["blue - green", "-n", "2", "--page", "2", "--min-score", "-0.9"],
    ["red", "--under", "photos/sea", "--under", "photos/green.png", "-0"],
    ["red", "--after", "2020", "--before", "2022"],
    ["photos/red.png - 2:green + 2:blue"],
]


def test_queries_are_answered_by_the_server_and_to_the_byte_as_without_it(library, served):
    alone = [library("query", *words).stdout for words in QUERIES]
    library.error("query", "red", code=11, FAKE_MODELS="none")
    assert [asked(library, "query", *words).stdout for words in QUERIES] == alone


@pytest.mark.parametrize(("words", "code"), [(["red", "--after", "soon"], 2), (["broken.png"], 10)])
def test_errors_are_those_of_the_ordinary_way(library, served, words, code):
    (library.cwd / "broken.png").write_bytes(b"not a picture")
    alone = library.error("query", *words, code=code)
    assert library.error("query", *words, code=code, CLIPSEARCH_CACHE=str(library.cwd / "cache")) == alone


def test_what_is_indexed_meanwhile_and_a_library_put_in_its_place_are_noticed(indexed, tmp_path):
    library = indexed(tmp_path)
    with started(library) as served:
        assert asked(library, "query", "blue", "-n", "1").stdout == "1.000\tphotos/sea/blue.png\n"
        library("backup", tmp_path / "backup")
        (tmp_path / "photos/sea/blue.png").unlink()
        library("index")
        assert "blue" not in asked(library, "query", "blue").stdout
        library("restore", tmp_path / "backup")
        assert asked(library, "query", "blue", "-n", "1").stdout == "1.000\tphotos/sea/blue.png\n"
        shutil.rmtree(library.library)
        assert served.post("/search", {"query": "blue"}, status=409)["code"] == 4


def test_photos_by_id(served, photos):
    hits = served.post("/search", {"query": "red", "n": 1})["hits"]
    assert hits[0]["path"] == str(photos / "red.png")
    number = hits[0]["image_id"]
    photo = served.get(f"/photos/{number}")
    assert (photo["path"], photo["format"], photo["width"]) == (str(photos / "red.png"), "PNG", 8)
    like = served.get(f"/photos/{number}/similar?n=1&under={quote(str(photos))}&min_score=-1")["hits"]
    assert [hit["path"] for hit in like] == [str(photos / "orange.png")]
    for size in ("", "?size=preview"):
        status, headers, body = served.ask("GET", f"/photos/{number}/thumbnail{size}")
        assert (status, headers["content-type"]) == (200, "image/webp")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert Image.open(io.BytesIO(body)).format == "WEBP"
    for number in ("999", "99999999999999999999999999"):
        assert "no photo" in served.get(f"/photos/{number}", status=404)["error"]
    for address in ("/photos/-1", "/photos/..%2f1", "/photos/red.png/thumbnail", "/nowhere", "/search/"):
        served.get(address, status=404)


def test_a_picture_is_searched_for_by_its_bytes(served, photos):
    data = (photos / "sea/blue.png").read_bytes()
    assert served.post("/search/picture?n=1", data)["hits"][0]["path"] == str(photos / "sea/blue.png")
    terms = [
        {"image": base64.b64encode(data).decode()},
        {"weight": -1, "text": "blue"},
        {"weight": 2, "text": "green"},
    ]
    assert served.post("/search", {"terms": terms, "n": 1})["hits"][0]["path"] == str(photos / "green.png")


def test_the_document_tells_what_is_answered(served, photos):
    document = served.get("/openapi.json")
    number = served.post("/search", {"query": "red"})["hits"][0]["image_id"]
    picture = (photos / "red.png").read_bytes()
    bodies = {"/search": b'{"query": "red", "after": null}', "/search/picture": picture}
    for address, methods in document["paths"].items():
        (method,) = set(methods) & {"get", "post"}
        place = address.format(id=number)
        status, headers, body = served.ask(method.upper(), place, bodies.get(address))
        (kind,) = methods[method]["responses"]["200"]["content"].items()
        assert (status, headers["content-type"]) == (200, kind[0]), address
        if kind[0] == "application/json":
            schema = {**kind[1]["schema"], "components": document["components"]}
            jsonschema.Draft202012Validator(schema).validate(json.loads(body))
        _, _, refused = served.ask("PUT", place)
        assert json.loads(refused)["error"]
    question = {**document["components"]["schemas"]["Question"], "components": document["components"]}
    jsonschema.Draft202012Validator.check_schema(question)
    for wrong in ({}, {"query": 1}, {"query": "red", "terms": []}, {"query": "red", "k": 3}, {"terms": [{}]}):
        assert not jsonschema.Draft202012Validator(question).is_valid(wrong)
        served.post("/search", wrong, status=400)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": None}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic {token}"}, 401),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "evil.example:80@127.0.0.1"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
    ],
    ids=str,
)
def test_who_is_no_program_of_this_user_is_refused(served, headers, status):
    headers = {name: value and value.format(token=served.token) for name, value in headers.items()}
    for address in ("/status", "/openapi.json", "/photos/1/thumbnail", "/nowhere"):
        assert served.get(address, status=status, **headers)["error"]
    served.post("/search", {"query": "red"}, status=status, **headers)
    assert served.get("/health", status=200 if status == 401 else status, **headers)


def hostile_bodies():
    yield b"", 400
    yield b"\xff\xfe", 400
    yield b"[1]", 400
    yield b'{"query": "red", "n": ' + b"9" * 5000 + b"}", 400
    yield b"[" * 100_000, 400
    for fields in (
        {"n": 0}, {"n": 1.5}, {"n": True}, {"n": 10**6}, {"page": 0}, {"page": 10**20}, {"under": "/"},
        {"under": ["relative"]}, {"under": ["/\ud800"]}, {"after": 2020}, {"after": "soon"},
        {"min_score": "1"}, {"min_score": float("nan")}, {"min_score": 2}, {"path": "/etc/passwd"},
    ):  # fmt: skip
        yield json.dumps({"query": "red", **fields}).encode(), 400
    yield json.dumps({"query": "red", "under": ["/"] * 201}).encode(), 400
    for line in ("", "+", '"', "\ud800", "/etc/passwd.png", "red" + " + red" * 100, "red " * 100_000):
        yield json.dumps({"query": line}).encode(), 400
    for term in (
        1, {"text": 1}, {"image": "/etc/passwd"}, {"image": "ü"}, {"text": "a", "weight": 0},
        {"text": "a", "weight": 10**400}, {"text": "a", "image": ""}, {"text": "a", "path": "/"},
    ):  # fmt: skip
        yield json.dumps({"terms": [term]}).encode(), 400
    for terms in ([{"text": "red"}] * 101, [{"text": "red " * 20_000}] * 2):
        yield json.dumps({"terms": terms}).encode(), 400
    for picture in (b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(100), bomb()):
        yield json.dumps({"terms": [{"image": base64.b64encode(picture).decode()}]}).encode(), 422


def bomb():
    """A small file that says it is 60,000 pixels square."""
    data = bytearray(io_png())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(data)


def io_png():
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


def test_what_cannot_be_understood_is_refused_with_a_sentence(served):
    for body, status in hostile_bodies():
        sentence = served.post("/search", body, status=status)["error"]
        assert sentence
        assert "Traceback" not in sentence
    for address in ("/search/picture?n=x", "/search/picture?path=/etc", "/search/picture?min_score=nan"):
        served.post(address, io_png(), status=400)
    served.post("/search/picture", b"not a picture", status=422)
    for name in ("9" * 5000, "9" * 19, "-1", "1e3", "²"):
        assert served.get(f"/photos/{quote(name)}", status=404)["error"]
    assert served.post("/search", {"query": "red", "n": 1, "under": ["/"] * 200})["hits"]


def test_a_picture_that_is_sent_is_decoded_in_another_process(library, photos, monkeypatch):
    stand_in = types.ModuleType("clipsearch.encoder")
    stand_in.load_model = lambda name, device=None: fakes.ColourEncoder("colours")
    monkeypatch.setitem(sys.modules, "clipsearch.encoder", stand_in)
    monkeypatch.setattr(Image, "open", None)  # nobody decodes here
    with closing(Service(library.library)) as service:
        question = picture_alone((photos / "sea/blue.png").read_bytes(), Page(1, 1, Where()))
        assert [hit.path for hit in service.search(question)] == [str(photos / "sea/blue.png")]


def test_what_is_too_large_is_not_read(served):
    for address in ("/search", "/search/picture"):
        with closing(socket.create_connection(("127.0.0.1", served.port), timeout=30)) as line:
            head = f"POST {address} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {served.token}\r\n"
            line.sendall(f"{head}Content-Length: 10000000000\r\n\r\n".encode())
            assert b" 413 " in line.recv(100)
        parts = (bytes(1 << 20) for _ in range(40))  # no length is told
        with suppress(BrokenPipeError, ConnectionResetError):  # it may hang up while we go on
            assert served.ask("POST", address, parts)[0] == 413
    assert served.get("/health") == {"status": "ok"}


def test_noise_on_the_line_ends_the_line_alone(served):
    noise = random.Random(0)
    for _ in range(30):
        with closing(socket.create_connection(("127.0.0.1", served.port), timeout=10)) as line:
            line.sendall(noise.randbytes(200) + b"\r\n\r\n")
    assert served.get("/health") == {"status": "ok"}


def test_clients_that_do_nothing_shut_nobody_out_for_long(library):
    with started(library, "other", FAKE_PATIENCE="0.5") as served, ExitStack() as idle:
        for _ in range(70):
            idle.enter_context(socket.create_connection(("127.0.0.1", served.port)))
        deadline = time.monotonic() + 30
        while served.ask("GET", "/health")[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_many_at_once_get_what_each_gets_alone(served, photos):
    bodies = [{"query": words} for words in ("red", "green", "blue - red", "1.5:red + blue")]
    bodies.append({"terms": [{"image": base64.b64encode((photos / "green.png").read_bytes()).decode()}]})
    alone = [served.post("/search", body) for body in bodies]
    wrong = []

    def client(turn):
        for step in range(10):
            which = (turn + step) % len(bodies)
            number = 1 + step % 4
            if served.post("/search", bodies[which]) != alone[which]:
                wrong.append(which)
            if served.ask("GET", f"/photos/{number}/thumbnail")[0] != 200:
                wrong.append(f"thumbnail {number}")

    threads = [threading.Thread(target=client, args=(turn,)) for turn in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_in_order(library, monkeypatch, tmp_path, number):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    process = library.start("serve", CLIPSEARCH_CACHE=str(tmp_path / "cache"))
    with serving(process, tmp_path / "cache", library.library) as server:
        assert server.get("/health") == {"status": "ok"}
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "")
        assert re.fullmatch(
            r"Serving library at http://127\.0\.0\.1:\d+; .*\nPrograms find the token in .*\.json\.\n", err
        )
        note = entry_path(library.library)
        assert note.read_bytes() == b""
        assert note.stat().st_mode & 0o777 == 0o600


def test_one_server_a_library_and_one_a_port(library, served, commands):
    sentence = library.error("serve", code=17, CLIPSEARCH_CACHE=str(library.cwd / "cache"))
    assert f"process {served.process.pid}, at http://127.0.0.1:{served.port}" in sentence
    sentence = library.error("serve", "--port", str(served.port), code=17)
    assert sentence == f"Port {served.port} is in use by another program; without --port a free one is taken."
    assert "clipsearch index" in commands.error("serve", code=4)


def test_small_answers_do_not_wait_for_the_acknowledgement_of_the_one_before():
    # asyncio sets TCP_NODELAY on connections of sockets that are said to be of TCP, and on no others.
    with closing(_listen(0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_note_that_nobody_holds_or_that_does_not_fit_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    library = tmp_path / "library"
    assert find(library) is None
    with published(library, 1, "secret") as note:
        assert find(library).token == "secret"
        assert find(tmp_path / "other") is None
        kept = note.read_bytes()
        for change in ({"version": "0.0.0"}, {"library": "/elsewhere"}, {"port": None, "more": 1}):
            note.write_text(json.dumps(json.loads(kept) | change))
            assert find(library) is None
        note.write_bytes(kept)
        note.chmod(0o644)  # anyone could have read the token, or written the port
        assert find(library) is None
        note.chmod(0o600)
        assert find(library) is not None
    note.write_bytes(kept)  # as a server leaves it that was killed
    assert find(library) is None


def test_a_server_that_has_stopped_answering_does_not_stop_queries(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr("clipsearch.server.client._GREETING_SECONDS", 0.2)
    listener = socket.create_server(("127.0.0.1", 0))
    with published(tmp_path, listener.getsockname()[1], "secret"):
        with listener:
            assert ask(find(tmp_path), Query.text("red"), {}) is None
        assert ask(find(tmp_path), Query.text("red"), {}) is None  # and one that is gone


def test_asking_a_server_loads_nothing_heavy(library, served):
    script = (
        "import sys; sys.argv[1:] = ['query', 'red', '-n', '1']\n"
        "from clipsearch.cli.main import run\n"
        "run.__globals__['application']()(standalone_mode=False)\n"
        "print(sorted({'numpy', 'torch', 'sqlalchemy', 'PIL', 'tokenizers', 'sqlite3'} & set(sys.modules)))"
    )
    done = asked(library.by(sys.executable, "-c", script))
    assert done.stdout == "1.000\tphotos/red.png\n[]\n"


def test_with_a_real_model_to_the_byte(tiny_model, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSEARCH_LIBRARY", str(tmp_path / "library"))
    monkeypatch.setenv("CLIPSEARCH_MODELS", str(tiny_model))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    Image.effect_noise((300, 200), 80).convert("RGB").save(photos / "noise.jpg")

    def run(*words):
        done = CliRunner().invoke(application(), list(words))
        assert done.exit_code == 0, done.stderr
        return done.stdout_bytes

    queries = [
        ["query", "a dog on a beach", "--json"],
        ["query", f'{photos / "noise.jpg"} - 0.5:"a red flower"', "--json"],
        ["query", "a dog on a beach", "--json"],  # again, when the server has loaded the whole model
        ["query", str(photos / "noise.jpg"), "-0", "--after", "2020"],
    ]
    run("index", str(photos), "-m", "tiny")
    alone = [run(*query) for query in queries]
    process = subprocess.Popen(
        [sys.executable, "-m", "clipsearch", "serve"], stderr=subprocess.PIPE, text=True
    )
    with serving(process, tmp_path / "cache", tmp_path / "library"):
        monkeypatch.setattr("clipsearch.api.Library.search", None)  # nobody but the server answers
        assert [run(*query) for query in queries] == alone
