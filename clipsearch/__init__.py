"""Find photos by what is in them.

The names below are the public interface; they are loaded at first use, so that importing clipsearch costs
nothing and loads neither torch nor a database.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsearch.api import Hit, Library, Query, Status, Where
    from clipsearch.encoder import Encoder, load_model
    from clipsearch.errors import ClipsearchError

__version__ = "0.1.0"
__all__ = [
    "ClipsearchError",
    "Encoder",
    "Hit",
    "Library",
    "Query",
    "Status",
    "Where",
    "__version__",
    "load_model",
]

_HOMES = {
    "ClipsearchError": "clipsearch.errors",
    "Encoder": "clipsearch.encoder",
    "Hit": "clipsearch.search",
    "Library": "clipsearch.api",
    "Query": "clipsearch.search",
    "Status": "clipsearch.api",
    "Where": "clipsearch.search",
    "load_model": "clipsearch.encoder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clipsearch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
