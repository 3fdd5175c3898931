import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.config import expanded
from clipsearch.paths import display, from_json, to_json


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"/photos/a b.jpg", "/photos/a b.jpg"),
        ("/fotos/año/日本語.jpg".encode(), "/fotos/año/日本語.jpg"),
        ("👩‍👩‍👧.jpg".encode(), "👩‍👩‍👧.jpg"),
        (b"new\nline\r\ttab", r"new\nline\r\ttab"),
        (b"\x1b[31mred\x07\x7f", r"\x1b[31mred\x07\x7f"),
        (b"bad\xff\xfe.jpg", r"bad\xff\xfe.jpg"),
        (b"half\xe2\x82.jpg", r"half\xe2\x82.jpg"),
        ("\u202egpj.exe".encode(), r"\u202egpj.exe"),
        ("zero\u200bwidth".encode(), r"zero\u200bwidth"),
        ("line\u2028sep\u00a0nbsp".encode(), r"line\u2028sep\u00a0nbsp"),
        (rb"back\slash", r"back\\slash"),
    ],
)
def test_display(path: bytes, shown: str) -> None:
    assert display(path) == shown


def test_surrogates_in_a_name_are_bytes_that_are_not_utf8() -> None:
    assert display(b"\xed\xa0\x80.jpg") == r"\xed\xa0\x80.jpg"


@given(st.binary())
def test_display_is_one_printable_line(path: bytes) -> None:
    shown = display(path)
    assert shown.encode("utf-8").decode() == shown
    assert all(char.isprintable() or char in "\u200c\u200d" for char in shown)


@given(st.text("\xa0\\xa0u\x1b\u2028é").map(str.encode) | st.binary(), st.binary())
def test_different_paths_look_different(one: bytes, other: bytes) -> None:
    for pair in ((one, other), (one, one.decode("latin-1").encode())):
        assert (display(pair[0]) == display(pair[1])) == (pair[0] == pair[1])


@given(st.binary())
def test_json_is_reversible(path: bytes) -> None:
    assert from_json(json.loads(json.dumps(to_json(path)))) == path


def test_json_of_text_is_that_text() -> None:
    assert to_json("/fotos/año.jpg".encode()) == "/fotos/año.jpg"
    assert json.dumps(to_json(b"\xff")) == r'"\udcff"'


def test_text_that_no_path_can_give_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        from_json("\ud800")


def test_a_home_that_nobody_has_is_a_name_like_another(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/photos") == Path("/home/me/photos")
    assert expanded("~nobody-of-that-name/photos") == Path("~nobody-of-that-name/photos")
