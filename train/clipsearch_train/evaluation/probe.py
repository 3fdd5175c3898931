"""Linear probe: logistic regression on frozen embeddings (Radford et al. 2021, appendix A.3)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.errors import MissingExtra, TrainingError

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

STEPS_PER_DECADE = 8
STRENGTHS = tuple(10 ** (-6 + step / STEPS_PER_DECADE) for step in range(12 * STEPS_PER_DECADE + 1))
"""λ, the strength of the L2 penalty: 96 logarithmic steps from 1e-6 to 1e6 (97 values), as in the paper."""
COARSE = 2 * STEPS_PER_DECADE
"""The search begins with every second decade: 1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6."""
MAX_ITERATIONS = 1000
HELD_OUT = 5
"""One in so many training images of each class is held out while λ is chosen."""


@dataclass(frozen=True)
class Probe:
    """What a probe reached on the test images, in percent, and the λ that was best on the held-out ones.

    `tried` maps every λ that was tried to its accuracy on the held-out images, in percent. `hits` (N,) are
    the test images that were classified rightly.
    """

    top1: float
    mean_per_class: float
    strength: float
    tried: dict[float, float]
    train_images: int
    hits: npt.NDArray[np.bool_]


def linear_probe(
    train_ND: Vectors,
    train_labels_N: Rows,
    test_MD: Vectors,
    test_labels_M: Rows,
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Probe:
    """Fit a classifier on training embeddings and score it on test embeddings, all unit rows.

    L-BFGS of scikit-learn, at most 1,000 iterations. λ is chosen on a part of the training images
    (`strongest`), then all of them are fitted. The paper probes the features before the projection into the
    common space; this probes the embeddings themselves, which is what a search has. Raises TrainingError for
    fewer than two classes or a class of the test images that was not trained on, MissingExtra.
    """
    if len(np.unique(train_labels_N)) < 2:
        raise TrainingError("A linear probe needs training images of two classes at least.")
    unseen = np.setdiff1d(test_labels_M, train_labels_N)
    if len(unseen):
        raise TrainingError(
            f"{len(unseen)} classes of the test images have no training image, so no probe can know them."
        )
    held = held_out(train_labels_N, seed)
    tried: dict[float, float] = {}

    def accuracy(step: int) -> float:
        found = _fit(train_ND[~held], train_labels_N[~held], STRENGTHS[step])(train_ND[held])
        tried[STRENGTHS[step]] = float((found == train_labels_N[held]).mean() * 100)
        progress(len(tried))
        return tried[STRENGTHS[step]]

    strength = STRENGTHS[strongest(accuracy)]
    hits = _fit(train_ND, train_labels_N, strength)(test_MD) == test_labels_M
    classes = np.unique(test_labels_M)
    per_class = [float(hits[test_labels_M == label].mean() * 100) for label in classes]
    return Probe(
        float(hits.mean() * 100),
        float(np.mean(per_class)),
        strength,
        dict(sorted(tried.items())),
        len(train_ND),
        hits,
    )


def strongest(accuracy: Callable[[int], float], last: int = len(STRENGTHS) - 1, coarse: int = COARSE) -> int:
    """The step of the sweep with the best accuracy, by the paper's parametric binary search.

    Every `coarse`-th step is tried, then the two half-way to the neighbours of the best so far, and so on
    until the steps are next to each other. Of equally good ones the strongest penalty is taken.
    """
    seen: dict[int, float] = {}

    def best_of(steps: list[int]) -> int:
        for step in steps:
            if 0 <= step <= last and step not in seen:
                seen[step] = accuracy(step)
        return max(seen, key=lambda step: (seen[step], step))

    best = best_of(list(range(0, last + 1, coarse)))
    while coarse > 1:
        coarse //= 2
        best = best_of([best - coarse, best + coarse])
    return best


def held_out(labels_N: Rows, seed: int) -> npt.NDArray[np.bool_]:
    """(N,): a fifth of each class at random; a class with one image keeps it for training.

    Raises TrainingError where no class has two images.
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels_N), dtype=bool)
    for label in np.unique(labels_N):
        own = rng.permutation(np.flatnonzero(labels_N == label))
        count = max(1, len(own) // HELD_OUT) if len(own) > 1 else 0
        held[own[:count]] = True
    if not held.any():
        raise TrainingError("A linear probe needs two training images of some class, to choose λ with.")
    return held


def _fit(rows_ND: Vectors, labels_N: Rows, strength: float) -> Callable[[Vectors], Rows]:
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtra(
            "A linear probe needs scikit-learn; install it with: pip install 'clipsearch[train]'"
        ) from error
    model = LogisticRegression(C=1 / strength, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        # The paper stops after as many iterations, too.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows_ND, labels_N)

    def predict(others_MD: Vectors) -> Rows:
        return np.asarray(model.predict(others_MD), dtype=np.int64)

    return predict
