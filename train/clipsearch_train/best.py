"""Which of a run's models is the best: one number made of the scores on held-out data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from clipsearch.errors import UsageError

Results = Mapping[str, Mapping[str, float]]
RESULTS = ("last", "best")
# What speaks for a data set where the recipe names nothing: the mean of those it has.
LEADING = ("text_to_image_r1", "image_to_text_r1", "top1")


@dataclass(frozen=True)
class Best:
    """How models of a run are compared, and which becomes its result.

    `by` is a score, "SOURCE/METRIC" as in `eval.jsonl`, higher is better; "" is the mean over all held-out
    data sets of recall@1 in both directions or top-1 accuracy. `result` says whether `model/` is the "last"
    model or the "best".
    """

    by: str = ""
    result: str = "last"


def check_best(best: Best, where: str) -> None:
    """Raise UsageError for settings that make no sense."""
    if best.result not in RESULTS:
        raise UsageError(f"{where}: best: result must be 'last' or 'best', not {best.result!r}.")
    if best.by and not all(best.by.partition("/")):
        raise UsageError(f'{where}: best: by must look like "SOURCE/METRIC", not {best.by!r}.')


def check_sources(best: Best, sources: Mapping[str, Collection[str]]) -> None:
    """Raise UsageError where the held-out data (source → what it is scored by) cannot say what is best."""
    named, _, metric = best.by.rpartition("/")
    if named and named not in sources:
        raise UsageError(
            f"The recipe's best.by names the source {named!r}; the validation shards hold "
            f"{', '.join(repr(source) for source in sorted(sources)) or 'none'}."
        )
    if metric and metric not in sources[named]:
        raise UsageError(
            f"The recipe's best.by names {metric!r}; {named!r} is scored by {', '.join(sources[named])}."
        )
    if best.result == "best" and not sources:
        raise UsageError("best.result = 'best' needs validation shards: set data.val.")


def overall(results: Results, best: Best) -> float | None:
    """The number that models are compared by, in percent; None where nothing was scored.

    Raises UsageError where `by` names a metric that its source is not scored by.
    """
    source, _, metric = best.by.rpartition("/")
    if metric:
        scores = results.get(source, {})
        if metric not in scores:
            raise UsageError(
                f"The recipe's best.by names {metric!r}; {source!r} is scored by {', '.join(scores)}."
            )
        return scores[metric]
    led = [[scores[name] for name in LEADING if name in scores] for scores in results.values()]
    means = [sum(values) / len(values) for values in led if values]
    return sum(means) / len(means) if means else None


def compared(first: Mapping[str, Any], last: Results) -> dict[str, Mapping[str, float]]:
    """Scores beside those that a run began with, a line of `eval.jsonl`: `SOURCE, at the start`."""
    beside: dict[str, Mapping[str, float]] = {}
    for source, scores in last.items():
        if first["step"] == 0 and source in first:
            beside[f"{source}, at the start"] = first[source]
        beside[source] = scores
    return beside
