"""FAISS, imported when a search first needs it."""

from __future__ import annotations

import importlib
from typing import Any


def faiss() -> Any:
    """The `faiss` module. Untyped on purpose: the stubs it ships leave out much that it has."""
    return importlib.import_module("faiss")
