"""Vector search over a matrix of slots: exact, or by a derived IVF-PQ index with exact re-ranking.

This package knows vectors and slots, no paths of photos and no SQL. FAISS is imported when a search needs it.
"""

from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import Effort, IvfPq, IvfPqParams, build, extend, imbalance
from clipsearch.index.plan import EXACT_LIMIT, Plan, make_plan
from clipsearch.index.searcher import Searcher
from clipsearch.index.storage import Loaded, load, save
from clipsearch.index.tuning import TARGET_RECALL, curve, tune

__all__ = [
    "EXACT_LIMIT",
    "TARGET_RECALL",
    "Effort",
    "ExactSearch",
    "IvfPq",
    "IvfPqParams",
    "Loaded",
    "Plan",
    "Searcher",
    "build",
    "curve",
    "extend",
    "imbalance",
    "load",
    "make_plan",
    "save",
    "tune",
]
