"""FAISS, imported when a search first needs it."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from clipsearch.errors import MissingExtra

FOR_CPU, FOR_GPU = "faiss-cpu", "faiss-gpu-cu12"
"""Packages that both bring the module `faiss`: whichever is installed last has overwritten the other's files,
and removing either takes the module from both."""


def faiss() -> Any:
    """The `faiss` module. Untyped on purpose: the stubs it ships leave out much that it has.

    Raises MissingExtra where no package brings it, or two do.
    """
    _only_one()
    try:
        module = importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise _none() from error
    if not hasattr(module, "Index"):  # what is left of a folder of two
        raise _none()
    return module


@cache
def _only_one() -> None:
    if all(_installed(name) for name in (FOR_CPU, FOR_GPU)):
        raise MissingExtra(
            f"{FOR_CPU} and {FOR_GPU} are both installed and overwrite each other: "
            f"`pip uninstall -y {FOR_CPU}`, then `pip install --force-reinstall --no-deps {FOR_GPU}`."
        )


def _none() -> MissingExtra:
    package = FOR_GPU if _installed(FOR_GPU) else FOR_CPU
    return MissingExtra(f"FAISS is missing: `pip install --force-reinstall --no-deps {package}`.")


def _installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and few queries ask FAISS

    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False
