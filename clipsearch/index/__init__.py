"""Vector search over a matrix of slots: exact, or by a derived IVF-PQ index with exact re-ranking.

This package knows vectors and slots, no paths of photos and no SQL. FAISS is imported when a search needs it.
"""

from clipsearch.index.exact import ExactSearch
from clipsearch.index.ivfpq import Effort, IvfPq, build, extend, has_drifted
from clipsearch.index.params import IvfPqParams
from clipsearch.index.planning import EXACT_LIMIT, IndexPlan, plan_index
from clipsearch.index.runs import OnDisk
from clipsearch.index.searcher import Searcher
from clipsearch.index.storage import Loaded, load, save
from clipsearch.index.tuning import tune, tune_and_measure

__all__ = [
    "EXACT_LIMIT",
    "Effort",
    "ExactSearch",
    "IndexPlan",
    "IvfPq",
    "IvfPqParams",
    "Loaded",
    "OnDisk",
    "Searcher",
    "build",
    "extend",
    "has_drifted",
    "load",
    "plan_index",
    "save",
    "tune",
    "tune_and_measure",
]
