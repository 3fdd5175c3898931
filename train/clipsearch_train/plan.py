"""What `clipsearch train` was asked for: which recipe, on which data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsearch.errors import UsageError
from clipsearch_train import recipe as recipes
from clipsearch_train.data import Sample, ShardReport
from clipsearch_train.distributed import asked_processes
from clipsearch_train.from_library import library_samples, own_photos_recipe
from clipsearch_train.recipe import load_recipe

SMOKE_SAMPLES = 64


@dataclass(frozen=True)
class Run:
    """A recipe, the folder that its paths are relative to, and samples beside those of that folder."""

    recipe: recipes.Recipe
    data: Path
    extra: tuple[Sequence[Sample], ShardReport] | None


def plan_run(recipe: Path | None, data: Path | None, library: Path | None, *, smoke: bool) -> Run:
    """Read what the options name.

    Without `data` a recipe's shards and folders are left out and only the library is trained on; without a
    recipe the library's own model is adapted to its photos. Raises UsageError where too little is named, and
    what reading a recipe or a library raises.
    """
    if library is None and (recipe is None or data is None):
        raise UsageError(
            "Name a recipe and its data (`clipsearch train RECIPE --data DIR --out RUN`), or a library to "
            "train on (`clipsearch train --from LIBRARY --out RUN`)."
        )
    if library is None:
        assert recipe is not None
        assert data is not None
        loaded = load_recipe(recipe)
        return Run(loaded.smoke(asked_processes()) if smoke else loaded, data, None)
    if recipe is None and data is not None:
        raise UsageError(
            f"Only a recipe says what to do with {data}: name one beside --data, or leave --data out and "
            "train on the library alone."
        )
    samples, report = library_samples(library)
    loaded = own_photos_recipe(library, len(samples)) if recipe is None else load_recipe(recipe)
    if data is None:
        hold_out = loaded.data.hold_out or 0.1
        settings = dataclasses.replace(
            loaded.data, train=(), val=(), folders=(), texts=(), hold_out=hold_out, stream=False
        )
        loaded = dataclasses.replace(loaded, data=settings)
    if smoke:
        return Run(loaded.smoke(asked_processes()), data or Path(), (samples[:SMOKE_SAMPLES], report))
    return Run(loaded, data or Path(), (samples, report))
