import numpy as np
import pytest

from clipsearch_train.evaluation.word_order import exchange_nouns, find_nouns, true_above_exchanged

CAPTIONS = (
    "A brown dog runs with a ball in its mouth .",
    "A dog in the snow",
    "The dog on a beach.",
    "a red ball on the beach",
    "a red ball in the snow",
    "An apple on a table",
    "an apple under the table.",
    "two men at a table",
    "men are in a red boat",
    "Two men in a boat",
    "a boat at the beach",
)
NOUNS = find_nouns(CAPTIONS)


def test_nouns_end_a_phrase_that_a_determiner_began() -> None:
    assert {"dog", "snow", "beach", "apple", "table", "men", "boat"} <= NOUNS
    assert not NOUNS & {"a", "the", "brown", "red", "runs", "in", "with"}


@pytest.mark.parametrize(
    ("caption", "exchanged"),
    [
        ("A dog runs in the snow", "A snow runs in the dog"),
        ("An apple on a table.", "A table on an apple."),
        ("the old dog on the red table in a boat", "the old table on the red dog in a boat"),
        ("Dog under a table", "Table under a dog"),
        ("a dog sees a dog on the table", "a table sees a dog on the dog"),
    ],
)
def test_two_nouns_change_places(caption: str, exchanged: str) -> None:
    assert exchange_nouns(caption, NOUNS) == exchanged


@pytest.mark.parametrize(
    "caption",
    ["a dog", "", "a dog and a table", "the dog near the table", "a dog sees a dog", "dog, table in a row"],
)
def test_what_means_the_same_or_nothing_is_left_out(caption: str) -> None:
    assert exchange_nouns(caption, NOUNS) is None


def test_the_true_caption_must_be_above() -> None:
    images = np.eye(3, dtype=np.float32)
    true = np.array([[1, 0, 0], [0, 0.6, 0.8], [0, 1, 0]], np.float32)
    other = np.array([[0, 1, 0], [0, 0.8, 0.6], [0, 1, 0]], np.float32)
    assert true_above_exchanged(images, true, other).tolist() == [True, False, False]  # the last one is a tie
