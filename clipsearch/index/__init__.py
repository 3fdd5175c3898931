"""Vector search over a matrix of slots: exact, or by a derived IVF-PQ index with exact re-ranking.

This package knows vectors and slots, no paths of photos and no SQL. FAISS is imported when a search needs it.
"""

from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import Effort, IvfPq, IvfPqParams, build
from clipsearch.index.searcher import EXACT_LIMIT, Searcher
from clipsearch.index.storage import Loaded, load, save
from clipsearch.index.tuning import tune

__all__ = [
    "EXACT_LIMIT",
    "Effort",
    "ExactSearch",
    "IvfPq",
    "IvfPqParams",
    "Loaded",
    "Searcher",
    "build",
    "load",
    "save",
    "tune",
]
