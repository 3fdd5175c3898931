"""Scores as markdown tables, one for each kind of evaluation that was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from clipsearch_train.evaluation.bias import LabelRate
from clipsearch_train.evaluation.calibration import PREVALENCE, Calibration

Metrics = Mapping[str, float]
Results = Mapping[str, Metrics]
"""Metrics by data set; accuracies and recalls in percent."""

SHIFT = "shift_"
SHIFTED, ORIGINAL = "shifted_", "original_"
EFFECTIVE = "effective_"
Cell = Callable[[Metrics], str]


def results_table(results: Results) -> str:
    """Tables of everything that was scored: retrieval, zero-shot classification, and what else there is.

    A data set is a row of each table that it has scores for.
    """
    tables = [
        _table(results, "retrieval", "text_to_image_r1", _RETRIEVAL),
        _table(results, "zero-shot", "top1", _zero_shot_columns(results)),
        _table(results, "linear probe", "probe_top1", _PROBE),
        _table(results, "word order", "word_order", _WORD_ORDER),
        _table(results, "match or not", "auc", _CALIBRATION),
        _shift_table(results),
        _pair_table(results),
        _effective_table(results),
    ]
    return "\n\n".join(table for table in tables if table)


def threshold_table(found: Calibration) -> str:
    """What each cut-off keeps and lets through."""
    rows = [
        [
            f"{row['cutoff']:.2f}",
            f"{row['recall'] * 100:.1f}",
            f"{row['fall_out'] * 100:.2f}",
            f"{row['precision'] * 100:.1f}",
        ]
        for row in found.table()
    ]
    head = [
        "cosine at least",
        "of matches kept, %",
        "of others let through, %",
        f"precision where {PREVALENCE:.0%} match, %",
    ]
    return markdown(head, rows)


def bias_table(rates: Sequence[LabelRate]) -> str:
    """Rates of labels by group with 95% intervals; gaps whose interval leaves out zero are bold."""
    rows = []
    for found in rates:
        gap, score = f"{found.rate_gap}", f"{found.score_gap.value:+.3f}"
        score += f" [{found.score_gap.low:+.3f}, {found.score_gap.high:+.3f}]"
        rows.append(
            [
                found.group,
                found.label,
                str(found.rate),
                f"**{gap}**" if found.rate_gap.is_clear else gap,
                f"**{score}**" if found.score_gap.is_clear else score,
            ]
        )
    head = ["group", "label", "labelled so, % [95%]", "more than other groups, points", "cosine above others"]
    return markdown(head, rows)


def shift_pairs(metrics: Metrics) -> Iterator[tuple[str, str]]:
    """Keys of accuracies under shift, each with the key of the accuracy without."""
    for key in metrics:
        if key.startswith(SHIFT):
            yield key, "top1"
        elif key.startswith(SHIFTED):
            yield key, ORIGINAL + key.removeprefix(SHIFTED)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; bars inside a cell are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(key: str, form: str = ".1f") -> Cell:
    return lambda scores: format(scores[key], form) if key in scores else "–"


def _recalls(way: str) -> Cell:
    keys = [f"{way}_r{k}" for k in (1, 5, 10)]
    return lambda scores: " / ".join(_number(key)(scores) for key in keys)


_RETRIEVAL: dict[str, Cell] = {
    "images": _number("images", ",.0f"),
    "captions": _number("captions", ",.0f"),
    "text→image R@1/5/10": _recalls("text_to_image"),
    "median rank": _number("text_to_image_median_rank", ",g"),
    "image→text R@1/5/10": _recalls("image_to_text"),
    "its median rank": _number("image_to_text_median_rank", ",g"),
}
_PROBE: dict[str, Cell] = {
    "trained on": _number("probe_train_images", ",.0f"),
    "top-1": _number("probe_top1"),
    "mean per class": _number("probe_mean_per_class"),
    "λ": _number("probe_strength", ".2g"),
}
_WORD_ORDER: dict[str, Cell] = {
    "captions": _number("word_order_captions", ",.0f"),
    "true one above its exchanged (chance 50)": _number("word_order"),
}
_CALIBRATION: dict[str, Cell] = {
    "AUC": _number("auc", ".3f"),
    "cosine of matches, median": _number("matching_median", ".3f"),
    "of others": _number("others_median", ".3f"),
    "suggested cut-off": _number("cutoff", ".3f"),
    "precision / recall there": lambda scores: (
        f"{_number('cutoff_precision')(scores)} / {_number('cutoff_recall')(scores)}"
    ),
    "precision / recall of the search's own": lambda scores: (
        f"{_number('search_precision')(scores)} / {_number('search_recall')(scores)}"
    ),
}


def _zero_shot_columns(results: Results) -> dict[str, Cell]:
    columns: dict[str, Cell] = {
        "images": _number("images", ",.0f"),
        "classes": _number("classes", ",.0f"),
        "top-1": _number("top1"),
        "top-5": _number("top5"),
        "mean per class": _number("mean_per_class"),
    }
    if any("ensemble_gain" in scores for scores in results.values()):
        columns["one template"] = _number("one_template_top1")
        columns["ensembling gains"] = _number("ensemble_gain", "+.1f")
    return columns


def _table(results: Results, name: str, needed: str, columns: Mapping[str, Cell]) -> str:
    rows = [
        [source, *(cell(scores) for cell in columns.values())]
        for source, scores in results.items()
        if needed in scores
    ]
    return markdown([name, *columns], rows) if rows else ""


def _shift_table(results: Results) -> str:
    """Top-1 under each shift, a row a shift, a column a data set."""
    sources = [name for name, scores in results.items() if any(key.startswith(SHIFT) for key in scores)]
    if not sources:
        return ""
    keys = [key for source in sources for key in results[source] if key.startswith(SHIFT)]
    rows = [["none", *(_number("top1")(results[source]) for source in sources)]]
    for key in dict.fromkeys(keys):
        told = key.removeprefix(SHIFT).replace("_", " ")
        rows.append([told, *(_number(key)(results[source]) for source in sources)])
    return markdown(["top-1 under shift", *sources], rows)


def _pair_table(results: Results) -> str:
    """Originals and the user's own shifted sets, on the classes that both have."""
    rows = []
    for source, scores in results.items():
        for key in scores:
            if key.startswith(SHIFTED):
                name = key.removeprefix(SHIFTED)
                before, after = scores[ORIGINAL + name], scores[key]
                rows.append([f"{source} → {name}", f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"])
    return markdown(["top-1 on common classes", "original", "shifted", "difference"], rows) if rows else ""


def _effective_table(results: Results) -> str:
    """Accuracy under shift beyond the baselines' trend."""
    rows = [
        [
            source,
            key.removeprefix(EFFECTIVE + SHIFT).removeprefix(EFFECTIVE + SHIFTED).replace("_", " "),
            f"{value:+.1f}",
        ]
        for source, scores in results.items()
        for key, value in scores.items()
        if key.startswith(EFFECTIVE)
    ]
    return markdown(["effective robustness", "shift", "points beyond the trend"], rows) if rows else ""
