"""Photos by id over HTTP, without a browser."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import socket
import struct
import zlib
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.testclient import TestClient

from clipsearch.errors import ImageError
from clipsearch.patience import PatientProtocol
from clipsearch_ui import front, server, state, streamlit_start

pytestmark = pytest.mark.usefixtures("fresh_shelf")


@pytest.fixture
def client() -> TestClient:
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=server.HOSTS)
    middleware = [guard, Middleware(front.Scripts)]
    return TestClient(Starlette(routes=server.ROUTES, middleware=middleware), base_url="http://127.0.0.1")


def test_a_thumbnail_is_a_small_upright_webp_and_is_kept(client: TestClient, filled: Path) -> None:
    opened = state.shelf().open(filled)
    reply = client.get(f"/photos/{opened.key}/1/grid.webp")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "image/webp"
    assert "immutable" in reply.headers["cache-control"]
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert Image.open(io.BytesIO(reply.content)).size in ((64, 96), (96, 64))
    assert list((filled / "thumbs").rglob("*-grid.webp"))


@pytest.mark.parametrize(
    "place",
    [
        "{key}/999999/grid.webp",
        "{key}/1/huge.webp",
        "{key}/../1/grid.webp",
        "{key}/%2e%2e%2f%2e%2e%2fetc%2fpasswd/grid.webp",
        "{key}/%2e%2e%2f%2e%2e%2fetc%2fpasswd/file",
        "{key}/%2fetc%2fpasswd/file",
        "{key}/etc%2fpasswd/file",
        "0123456789ab/1/grid.webp",
        "{key}/99999999999999999999999999/grid.webp",
        "{key}/999999/file",
        pytest.param("{key}/" + "9" * 5000 + "/file", id="thousands of digits"),
        pytest.param("{key}/" + "9" * 5000 + "/grid.webp", id="a thumbnail of thousands of digits"),
    ],
)
def test_what_is_not_a_photo_is_not_found(client: TestClient, filled: Path, place: str) -> None:
    key = state.shelf().open(filled).key
    assert client.get(f"/photos/{place.format(key=key)}").status_code == 404


SEGMENT = st.text(max_size=30) | st.sampled_from(
    ["..", ".", "1", "-1", "0", "grid.webp", "file", "\0", "%2e%2e", "etc/passwd", "/etc/passwd", __file__]
)


@settings(max_examples=60)
@given(st.sampled_from(["photos", "pictures"]), st.booleans(), st.lists(SEGMENT, min_size=1, max_size=5))
def test_any_address_is_a_photo_by_id_or_not_found(
    client: TestClient, filled: Path, photos: Path, start: str, known: bool, rest: list[str]
) -> None:
    key = [state.shelf().open(filled).key] if known else []
    address = "/".join(quote(segment, safe="%") for segment in [start, *key, *rest])
    reply = client.get(f"/{address}", follow_redirects=False)
    if reply.content == front.html().encode():
        return  # ".." led to the page itself
    if reply.status_code == 200:
        assert known
        if reply.headers["content-type"] != "image/webp":
            name = unquote(reply.headers["content-disposition"].partition("UTF-8''")[2])
            assert reply.content in [file.read_bytes() for file in photos.rglob(name)]
    else:
        assert reply.status_code in (307, 404)


def test_a_photo_is_downloaded_under_its_name(client: TestClient, filled: Path) -> None:
    key = state.shelf().open(filled).key
    reply = client.get(f"/photos/{key}/1/file")
    assert reply.status_code == 200
    assert reply.headers["content-disposition"].startswith("attachment; filename*=UTF-8''")
    assert reply.headers["content-type"] == "application/octet-stream"


def test_other_hosts_are_refused(client: TestClient, filled: Path) -> None:
    key = state.shelf().open(filled).key
    reply = client.get(f"/photos/{key}/1/grid.webp", headers={"host": "evil.example"})
    assert reply.status_code == 400


def test_a_deleted_file_is_not_found_but_its_thumbnail_stays(
    client: TestClient, tmp_path: Path, photos: Path
) -> None:
    from tests.ui.conftest import build_library

    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("red-00.jpg", "red-06.jpg"):
        shutil.copy(photos / "travel" / name, folder)
    library = build_library(tmp_path / "library", folder)
    key = state.shelf().open(library).key
    assert client.get(f"/photos/{key}/1/grid.webp").status_code == 200
    shutil.rmtree(folder)
    assert client.get(f"/photos/{key}/1/grid.webp").status_code == 200
    assert client.get(f"/photos/{key}/2/grid.webp").status_code == 404
    assert client.get(f"/photos/{key}/1/file").status_code == 404


def test_what_has_taken_the_place_of_a_photo_is_not_handed_out(
    client: TestClient, tmp_path: Path, photos: Path
) -> None:
    from tests.ui.conftest import build_library

    folder = tmp_path / "photos"
    folder.mkdir()
    photo = Path(shutil.copy(photos / "travel" / "red-00.jpg", folder))
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    key = state.shelf().open(build_library(tmp_path / "library", folder)).key
    whole = photo.read_bytes()
    assert client.get(f"/photos/{key}/1/file").content == whole
    photo.unlink()
    photo.symlink_to(secret)
    for kind in ("file", "grid.webp", "preview.webp"):
        assert client.get(f"/photos/{key}/1/{kind}").status_code == 404
    photo.unlink()
    photo.write_bytes(whole)
    assert client.get(f"/photos/{key}/1/file").content == whole


def test_an_uploaded_picture_is_decoded_in_another_process(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "open", None)  # nobody decodes here
    data = (photos / "travel" / "red-00.jpg").read_bytes()
    assert state.shelf().take_picture(data).startswith("picture:")


def test_an_uploaded_picture(client: TestClient, photos: Path) -> None:
    name = state.shelf().take_picture((photos / "travel" / "red-00.jpg").read_bytes())
    assert client.get(f"/pictures/{name.removeprefix('picture:')}.webp").status_code == 200
    assert client.get("/pictures/0123456789abcdef.webp").status_code == 404


def _png_of(width: int, height: int) -> bytes:
    """A PNG that says it is that large and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_png_of(60000, 60000), "too many pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (bytes(state.UPLOAD_LIMIT + 1), "too large"),
    ],
)
def test_a_bomb_or_a_wrong_type_is_a_sentence_and_not_kept(
    client: TestClient, data: bytes, reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        state.shelf().take_picture(data)
    name = hashlib.blake2b(data, digest_size=8).hexdigest()
    assert client.get(f"/pictures/{name}.webp").status_code == 404


def test_the_page_names_the_scripts_it_will_need_and_brings_its_shortcuts(client: TestClient) -> None:
    for name in server.PAGES:
        reply = client.get(f"/{name}")
        assert reply.headers["cache-control"] == "no-cache"
        assert "st-key-q" in reply.text.partition("</head>")[0]
    named = re.findall(r'rel="modulepreload" crossorigin href="\./(static/js/[^"]+)"', reply.text)
    assert len(set(named)) == len(named)
    for widget in front.WIDGETS:
        assert sum(script.startswith(f"static/js/{widget}.") for script in named) == 1, widget
    for script in named:  # with all that they import
        answered = client.get(f"/{script}")
        assert answered.headers["content-type"].startswith("text/javascript")
        assert "immutable" in answered.headers["cache-control"]
        imported = re.findall(r"""from\s*["']\./([\w.-]+\.js)""", answered.text)
        assert {f"static/js/{other}" for other in imported} <= {*named, *_scripts(reply.text)}


def _scripts(html: str) -> list[str]:
    return re.findall(r'script type="module" crossorigin src="\./(static/js/[^"]+)"', html)


@pytest.mark.parametrize("name", ["", "nothing.js", "..%2f..%2findex.html", "%2e%2e/css", "a/b.js", "%00.js"])
def test_what_is_not_a_script_is_not_served(client: TestClient, name: str) -> None:
    assert client.get(f"/static/js/{name}").status_code == 404


def test_answers_are_sent_at_once() -> None:
    from streamlit.web.server.starlette import starlette_server

    bind = streamlit_start.undelayed(starlette_server._bind_socket)
    with bind("127.0.0.1", 0, 1) as listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        with listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_connections_that_nobody_uses_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlit.web.server.starlette import starlette_server

    settings = starlette_server._get_uvicorn_config_kwargs
    monkeypatch.setattr(starlette_server, "_get_uvicorn_config_kwargs", settings)  # for afterwards
    monkeypatch.setattr(streamlit_start, "tell_of_too_many_files_once", lambda: None)
    streamlit_start.end_waits()
    config = uvicorn.Config(server.build(), **starlette_server._get_uvicorn_config_kwargs())
    config.load()
    assert config.http_protocol_class is PatientProtocol


def test_what_is_hastened_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlit import delta_generator
    from streamlit.components.v2 import manifest_scanner
    from streamlit.web.server.starlette import starlette_server

    told = [
        (manifest_scanner, "scan_component_manifests"),
        (delta_generator, "_maybe_print_use_warning"),
        (starlette_server, "_bind_socket"),
    ]
    before = [getattr(module, name) for module, name in told]
    for (module, name), found in zip(told, before, strict=True):
        monkeypatch.setattr(module, name, found)  # for afterwards
    streamlit_start.hasten()
    assert all(getattr(module, name) is not found for (module, name), found in zip(told, before, strict=True))
    assert manifest_scanner.scan_component_manifests() == []
    monkeypatch.delattr(starlette_server, "_bind_socket")
    streamlit_start.hasten()  # another version of Streamlit


def test_nothing_is_advertised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from streamlit import config
    from streamlit.web import skills

    (tmp_path / ".claude").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    skills._detect_installed_agents_cached.cache_clear()
    looking = config.get_option("server.headless")
    for name in ("agent_harness_present", "are_skills_installed"):
        monkeypatch.setattr(skills, name, getattr(skills, name))  # for afterwards
    config.set_option("server.headless", False)
    try:
        assert skills.nudge_suppression_reason(str(tmp_path)) == "", "a box would be shown"
        streamlit_start.advertise_nothing()
        assert skills.nudge_suppression_reason(str(tmp_path)) != ""
        assert not skills.agent_harness_present(), "and its button would write files"
        assert skills.are_skills_installed()
    finally:
        config.set_option("server.headless", looking)
        skills._detect_installed_agents_cached.cache_clear()
