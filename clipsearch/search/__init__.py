"""What is asked and what is answered: the query language, filters, and hits in their order.

The names below are loaded at first use. Neither torch nor SQLAlchemy nor FAISS is loaded with any of them,
and NumPy is not with `Query` and `Hit`, which is all that a question to a running server needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsearch.search.cutoff import suggest_cutoff
    from clipsearch.search.hit import Hit
    from clipsearch.search.query import Query, Term
    from clipsearch.search.ranking import rank
    from clipsearch.search.where import Where, parse_date

__all__ = ["Hit", "Query", "Term", "Where", "parse_date", "rank", "suggest_cutoff"]

_HOMES = {
    "Hit": "hit",
    "Query": "query",
    "Term": "query",
    "Where": "where",
    "parse_date": "where",
    "rank": "ranking",
    "suggest_cutoff": "cutoff",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clipsearch.search' has no attribute {name!r}")
    return getattr(import_module(f"clipsearch.search.{_HOMES[name]}"), name)
