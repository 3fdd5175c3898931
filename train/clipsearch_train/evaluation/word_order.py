"""Compositional captions: is the true caption nearer than the same words with two nouns exchanged?

After the order tests of ARO (Yuksekgonul et al. 2023, "When and why vision-language models behave like
bags-of-words"). Those come with parsed data sets; here the pairs are made from whatever English captions
there are: "a dog chases a cat" becomes "a cat chases a dog". A model that reads words without their order is
right half of the time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

# fmt: off
_DETERMINERS = frozenset({
    "a", "an", "the", "this", "that", "these", "those", "his", "her", "their", "its", "my", "your", "our",
    "another", "some", "one", "two", "three", "four", "five", "six", "several", "many",
})
# What may follow a noun but hardly an adjective: prepositions, auxiliaries, the end.
_FOLLOWING = frozenset({
    "in", "on", "at", "of", "with", "by", "near", "under", "over", "through", "into", "from", "to", "for",
    "behind", "beside", "between", "along", "across", "around", "during", "while", "onto", "above", "below",
    "against", "inside", "outside", "is", "are", "was", "were", "has", "have", "that", "who", "which", "as",
    ".", ";", "!",
})
# Words that say the same both ways round when nothing else stands between two nouns.
_SYMMETRIC = _DETERMINERS | {
    "and", "or", "with", "near", "beside", "next", "to", "by", "alongside", "together", ",", "&",
}
# fmt: on
_TOKENS = re.compile(r"[\w'’-]+|[^\w\s]")
_LEAST_SEEN = 2
_LEAST_SHARE = 0.2


def find_nouns(captions: Sequence[str]) -> frozenset[str]:
    """Words that these English captions use as nouns: they end a phrase that a determiner began.

    "a brown dog in" speaks for nothing, "a dog in" for "dog". A word counts as a noun that was seen so twice
    and in a fifth of its places behind a determiner.
    """
    behind: Counter[str] = Counter()
    ending: Counter[str] = Counter()
    for caption in captions:
        words = [*_TOKENS.findall(caption.lower()), "."]
        for before, word, after in zip(words, words[1:], words[2:], strict=False):
            if before in _DETERMINERS and word.isalpha() and word not in _FOLLOWING | _DETERMINERS:
                behind[word] += 1
                ending[word] += after in _FOLLOWING
    return frozenset(
        word
        for word, count in ending.items()
        if count >= _LEAST_SEEN and count >= _LEAST_SHARE * behind[word]
    )


def exchange_nouns(caption: str, nouns: frozenset[str]) -> str | None:
    """The caption with its first two nouns in each other's place; None where that means the same, or nothing.

    "a" and "an" follow the noun behind them, upper case stays where it was.
    """
    places = [match for match in _TOKENS.finditer(caption) if match[0].lower() in nouns]
    first = places[0] if places else None
    second = next((p for p in places[1:] if first and p[0].lower() != first[0].lower()), None)
    if first is None or second is None:
        return None
    between = _TOKENS.findall(caption[first.end() : second.start()].lower())
    if all(word in _SYMMETRIC for word in between):
        return None
    swapped = (
        _article(caption[: first.start()], second[0])
        + _cased(second[0], first[0])
        + _article(caption[first.end() : second.start()], first[0])
        + _cased(first[0], second[0])
        + caption[second.end() :]
    )
    return swapped


def _article(before: str, noun: str) -> str:
    """Text before a noun, its last word made "a" or "an" as the noun wants it."""
    right = "an" if noun[0].lower() in "aeiou" else "a"
    return re.sub(r"\b([Aa])n?(\s+)\Z", lambda match: match[1] + right[1:] + match[2], before)


def _cased(word: str, like: str) -> str:
    return word.capitalize() if like[0].isupper() else word.lower()


def true_above_exchanged(image_ND: Vectors, true_ND: Vectors, exchanged_ND: Vectors) -> npt.NDArray[np.bool_]:
    """(N,): whether the true caption scores above the exchanged one with its image; ties count against."""
    hits: npt.NDArray[np.bool_] = (image_ND * true_ND).sum(axis=1) > (image_ND * exchanged_ND).sum(axis=1)
    return hits
