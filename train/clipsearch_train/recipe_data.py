"""The part of a recipe that says where samples come from and what is made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from clipsearch.errors import UsageError

ORDERS = ("resampled", "epochs")


@dataclass(frozen=True)
class Folder:
    """A folder of images, relative to `--data`.

    `captions` is a csv, tsv or jsonl file; without it, what is said of `a.jpg` stands in `a.txt` beside it.
    With `folder_labels` the name of the folder that an image is in is a label of it. `source` names the
    samples in weights, tables and the model card; None means the folder's own name.
    """

    images: str
    captions: str | None = None
    folder_labels: bool = False
    source: str | None = None


@dataclass(frozen=True)
class Data:
    """Where samples come from and how they are drawn; globs are relative to `--data`.

    `order` is "resampled" (every batch is drawn anew) or "epochs" (each sample exactly once an epoch).
    `stream` reads shards as they are needed instead of keeping them in memory; it mixes about `shuffle`
    samples at a time. `weights` says how often a source is drawn relative to its size (1.0 if unnamed).
    `hold_out` is the share of the training samples that is kept for validation. `workers` threads decode
    (0: as many as the machine has processors, eight at most). `limit` caps samples a shard or folder and
    lines of text, to try things out.

    `min_crop` is the least share of the largest square that a random crop has, `max_aspect` how far it may
    be from a square, `crop_size` its edge in pixels where that is not the model's (0: it is): things are
    larger in crops than in whole images, so a convolutional tower learns at fewer pixels for images of more
    (FixRes: Touvron et al. 2019, arXiv 1906.06423). `low_res` is the share of images that are first shrunk to
    24–96 px, so that small and blurred pictures keep their meaning; `grayscale` the share without colour,
    `jitter` how far brightness, contrast and saturation may go. `templates` make captions of labels;
    `one_sentence` is how often only one sentence of a caption is said, `drop_words` the share of its words
    that is left out. With `kinds` a sample is also labelled with the general words for its labels
    (`clipsearch_train.kinds`).
    """

    train: tuple[str, ...] = ("train/*.tar*",)
    val: tuple[str, ...] = ("val/*.tar*",)
    folders: tuple[Folder, ...] = ()
    texts: tuple[str, ...] = ()
    order: str = "resampled"
    stream: bool = False
    shuffle: int = 4096
    weights: dict[str, float] = field(default_factory=dict)
    hold_out: float = 0.0
    workers: int = 0
    limit: int | None = None
    templates: tuple[str, ...] = ("a photo of a {}",)
    one_sentence: float = 0.0
    drop_words: float = 0.0
    kinds: bool = False
    crop_size: int = 0
    min_crop: float = 0.9
    max_aspect: float = 1.0
    flip: bool = False
    low_res: float = 0.0
    grayscale: float = 0.0
    jitter: float = 0.0


def check_data(data: Data, where: str) -> None:
    """Raise UsageError for a value that makes no sense, named by its key."""
    least: dict[str, tuple[float, float]] = {
        "limit": (1 if data.limit is None else data.limit, 1),
        "shuffle": (data.shuffle, 1),
        "workers": (data.workers, 0),
        "max_aspect": (data.max_aspect, 1),
        **{f"weights: {source}": (weight, 0) for source, weight in data.weights.items()},
    }
    for key, (value, bound) in least.items():
        if not bound <= value < math.inf:  # "not <=" also refuses nan, which TOML can say
            raise UsageError(f"{where}: data: {key} must be a number from {bound} on, not {value}.")
    for key in ("min_crop", "low_res", "grayscale", "jitter", "one_sentence", "drop_words", "hold_out"):
        if not 0 <= getattr(data, key) <= 1:
            raise UsageError(f"{where}: data: {key} must be between 0 and 1, not {getattr(data, key)}.")
    if data.order not in ORDERS:
        raise UsageError(f'{where}: data: order must be "resampled" or "epochs", not {data.order!r}.')
    if data.order == "epochs" and data.weights:
        raise UsageError(
            f'{where}: data: weights draw some sources more often than others, and order = "epochs" takes '
            'each sample exactly once; leave the weights out or say order = "resampled".'
        )
    if data.stream and data.hold_out:
        raise UsageError(
            f"{where}: data: hold_out sets samples aside in memory, which stream avoids; name validation "
            "shards in val instead."
        )
    if not data.templates:
        raise UsageError(f'{where}: data: templates must name one at least, such as "a photo of a {{}}".')
    for template in data.templates:
        rest = template.replace("{}", "", 1)
        if "{}" not in template or "{" in rest or "}" in rest:
            raise UsageError(
                f"{where}: data: templates must each have one {{}} for the label, not {template!r}."
            )


def fill_data(values: dict[str, object]) -> None:
    """Data that come from folders come from no shards unless those are named; likewise held-out ones."""
    if values.get("folders"):
        values.setdefault("train", [])
    if values.get("hold_out") or values.get("folders"):
        values.setdefault("val", [])
