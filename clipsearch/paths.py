"""Paths as bytes: how they are shown to people and written to JSON.

A path is bytes everywhere in clipsearch: on Linux a name is any bytes but NUL and "/", and need not be
text at all.
"""

from __future__ import annotations

import unicodedata

# Joiners build emoji and Indic letters; all other invisible characters are escaped.
_JOINERS = "\u200c\u200d"


def display(path: bytes) -> str:
    r"""Show `path` to a person: one line, no terminal escapes, no invisible or reordering characters.

    Bytes that are not UTF-8 become ``\xff``, control and invisible characters ``\n``, ``\x1b`` or
    ``\u202e``, and a backslash ``\\``, so that two different paths never look the same.
    """
    return "".join(_escape(char) for char in path.decode("utf-8", "surrogateescape"))


def _escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    if char == " " or char in _JOINERS or unicodedata.category(char)[0] not in "CZ":
        return char
    if "\x80" <= char <= "\xff":  # spelt otherwise than the byte of that number
        return f"\\u{ord(char):04x}"
    return char.encode("unicode_escape").decode("ascii")


def to_json(path: bytes) -> str:
    r"""`path` as text for a JSON document, reversible by `from_json` whatever its bytes.

    Bytes that are not UTF-8 become lone surrogates (PEP 383): 0xff is ``"\udcff"``. ``json.dumps`` writes
    them in ASCII as it does by default, so the document stays valid; a reader gets the bytes back with
    ``os.fsencode(text)`` in Python. The text itself cannot be encoded as UTF-8 where it holds surrogates:
    print `display` instead.
    """
    return path.decode("utf-8", "surrogateescape")


def from_json(text: str) -> bytes:
    """Give the path that `to_json` wrote as `text`; ValueError for text that no path can give."""
    return text.encode("utf-8", "surrogateescape")
