"""Where things live on this machine, and what the environment says about it."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

LIBRARY_VARIABLE = "CLIPSEARCH_LIBRARY"
MODELS_VARIABLE = "CLIPSEARCH_MODELS"
CACHE_VARIABLE = "CLIPSEARCH_CACHE"
OFFLINE_VARIABLE = "HF_HUB_OFFLINE"


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path` with the home folder for a leading "~"; as it is where nobody has such a home.

    `Path.expanduser` raises then, as `Path.home` does for a user without a name or `HOME`.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


def default_library() -> Path:
    """The library used when no other is named: `CLIPSEARCH_LIBRARY`, else the user's data folder."""
    named = os.environ.get(LIBRARY_VARIABLE)
    return expanded(named) if named else platformdirs.user_data_path("clipsearch") / "library"


def models_folder() -> Path:
    """Where pulled models are kept: `CLIPSEARCH_MODELS`, else the user's data folder."""
    named = os.environ.get(MODELS_VARIABLE)
    return expanded(named) if named else platformdirs.user_data_path("clipsearch") / "models"


def cache_folder() -> Path:
    """Where what can be worked out again is kept: `CLIPSEARCH_CACHE`, else the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return expanded(named) if named else platformdirs.user_cache_path("clipsearch")


def bundled_models() -> Path:
    """The models that come inside the package."""
    return Path(__file__).parent / "models"
