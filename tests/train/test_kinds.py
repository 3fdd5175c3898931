"""General words for special labels and classes."""

import itertools

import torch

from clipsearch_train.data import Sample
from clipsearch_train.kinds import IMAGENET_CLASSES, broadened, kinds, members, words_of_kinds
from clipsearch_train.teachers import imagenet_classes


def kind(word: str) -> tuple[int, int]:
    """The group and the column of a kind."""
    return next(
        (g, k) for g, group in enumerate(kinds()) for k, kind in enumerate(group) if word in kind.words
    )


def test_kinds_of_a_group_share_no_class() -> None:
    for group in kinds():
        table = members(group)
        assert table.shape == (IMAGENET_CLASSES, len(group))
        assert table.sum(dim=1).max() == 1
        assert set(table.unique().tolist()) == {0.0, 1.0}


def test_classes_are_those_of_their_names() -> None:
    names = [names for names, _ in imagenet_classes()]
    for word, inside, outside in (
        ("dog", ["golden retriever", "Chihuahua"], ["timber wolf", "tabby"]),
        ("flower", ["daisy"], ["banana"]),
        ("airplane", ["airliner"], ["plane", "carpenter's plane"]),
        ("ship", ["container ship", "canoe"], ["space shuttle"]),
        ("animal", ["tench", "puffer"], ["abacus"]),
    ):
        group, column = kind(word)
        covered = members(kinds()[group])[:, column]
        for name in inside:
            assert covered[next(k for k, listed in enumerate(names) if name in listed)] == 1, (word, name)
        for name in outside:
            assert covered[next(k for k, listed in enumerate(names) if name in listed)] == 0, (word, name)


def test_no_word_and_no_label_stands_twice_in_a_group() -> None:
    for group in kinds():
        for field in ("words", "labels"):
            listed = list(itertools.chain.from_iterable(getattr(kind, field) for kind in group))
            assert len(listed) == len(set(listed)), field
        assert all(label == label.lower() for kind in group for label in kind.labels)
    assert len(set(words_of_kinds())) == len(words_of_kinds())


def test_a_sample_is_told_by_the_general_word_too() -> None:
    sample = Sample("k", b"", "caltech101", (), ("Sunflower", "field"))
    broad = broadened(sample)
    assert broad.labels == ("Sunflower", "field", "flower")
    assert broadened(broad) is broad
    untouched = Sample("k", b"", "caltech101", ("a sunflower",), ("brain",))
    assert broadened(untouched) is untouched


def test_shares_of_kinds_are_those_of_their_classes() -> None:
    group, column = kind("cat")
    shares = torch.zeros(1, IMAGENET_CLASSES)
    shares[0, 281], shares[0, 285], shares[0, 151] = 0.5, 0.25, 0.25
    assert (shares @ members(kinds()[group]))[0, column] == 0.75
