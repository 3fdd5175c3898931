"""Texts to token ids: CLIP's byte-pair encoding, in the `tokenizers` file format.

The released tokenizer first repairs mojibake with ftfy and un-escapes HTML (openai/CLIP,
`simple_tokenizer.py`); that is done here, since the file format has no such step.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from clipsearch.durable import raise_for_too_many_files, replace
from clipsearch.errors import ModelInvalid

START, END = "<|startoftext|>", "<|endoftext|>"
# openai/CLIP, simple_tokenizer.py
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


_MOST_CHARACTERS = 100_000
_TOKEN_CHARACTERS = 128
"""No token of a released vocabulary is as long."""


_STEPS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents"})
"""Normalizers that a tokenizer may have, beside replacing by one character."""
_MOST_STEPS = 8
"""Of each kind of work on a text, and parts of its frame; CLIP's have three."""
_MOST_OF = {"Replace": 4, "ByteLevel": 1}
"""Each may double a text: a pattern that finds nothing between two letters, a letter that is no byte."""


def clean(text: str) -> str:
    """Mend encoding errors and HTML entities; white space runs become one space."""
    if not (text.isascii() and text.isprintable()):
        import ftfy

        text = ftfy.fix_text(text)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    return " ".join(text.split())


def _is_rust_s(error: BaseException) -> bool:
    """Whether the Rust library raised it: a bare Exception, or a panic, which is no Exception at all."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


@contextmanager
def _as_invalid() -> Iterator[None]:
    """Turn what the Rust library raises, as for a pattern that would search for ever, into ModelInvalid."""
    try:
        yield
    except BaseException as error:
        if not _is_rust_s(error):
            raise
        raise ModelInvalid(f"The model's tokenizer failed: {error}.") from error


class ClipTokenizer:
    """A tokenizer for the text tower: start, tokens, end, zeros."""

    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        self._tokenizer = tokenizer
        self.context_length = context_length
        end = tokenizer.token_to_id(END)
        if end is None or end != tokenizer.get_vocab_size() - 1:
            # The towers read the embedding at the highest id, so the end of text must be it.
            raise ModelInvalid(f"The tokenizer's last token is not {END}: it is not a CLIP tokenizer.")
        self.end = int(end)
        with _as_invalid():
            framed = tokenizer.encode("a").ids
        if framed[0] != tokenizer.token_to_id(START) or framed[-1] != end:
            raise ModelInvalid(f"The tokenizer does not put {START} and {END} around a text.")

    @classmethod
    def load(cls, path: Path, context_length: int) -> ClipTokenizer:
        """Read a `tokenizer.json`.

        Raises ModelInvalid for a file that is not a CLIP tokenizer, StorageError if no file can be opened.
        """
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except BaseException as error:
            if not _is_rust_s(error):
                raise
            raise_for_too_many_files(error, path)
            raise ModelInvalid(f"{path} cannot be read as a tokenizer: {error}") from error
        _check_steps(tokenizer, path)
        # Files of the hub may ask for padding or truncation of their own.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer, context_length)

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        return int(self._tokenizer.get_vocab_size())

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Texts -> int64 (N, context_length); a text too long is cut and still ends with the end token.

        Of a book only the beginning is looked at: to mend and split all of it takes minutes for nothing.
        """
        ids = np.zeros((len(texts), self.context_length), dtype=np.int64)
        seen = self.context_length * _TOKEN_CHARACTERS
        begun = [clean(text.lstrip()[:_MOST_CHARACTERS])[:seen] for text in texts]
        with _as_invalid():
            encodings = self._tokenizer.encode_batch(begun)
        for row, encoding in enumerate(encodings):
            tokens = encoding.ids[: self.context_length]
            ids[row, : len(tokens)] = tokens
            if len(encoding.ids) > self.context_length:
                ids[row, -1] = self.end
        return ids

    def save(self, path: Path) -> None:
        """Write a `tokenizer.json`, whole or not at all. Raises StorageError."""
        replace(path, self._tokenizer.to_str(pretty=True).encode(), name="tokenizer")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, context_length: int) -> ClipTokenizer:
        """Learn a vocabulary of `vocab_size` byte pairs (at least 514) from texts, the way CLIP's was."""
        tokenizer = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            # Named first, every byte has its rank before training: the trainer itself numbers word-final
            # bytes in the order of a hash table, and breaks ties between merges by those numbers.
            special_tokens=[byte + form for form in ("", "</w>") for byte in alphabet],
            end_of_word_suffix="</w>",
            show_progress=False,
        )
        tokenizer.train_from_iterator((clean(text) for text in texts), trainer)
        return cls(_with_specials(tokenizer), context_length)


def _check_steps(tokenizer: Tokenizer, path: Path) -> None:
    """Raise ModelInvalid for steps that can make a text much longer: a dozen of them fill any memory."""
    normalizing = _steps(tokenizer.normalizer)
    for step in normalizing:
        kind = step["type"]
        if kind not in _STEPS and not (kind == "Replace" and len(step["content"]) <= 1):
            raise ModelInvalid(f"{path} asks for the normalizer {kind}, which is not one of CLIP's.")
    for steps in (normalizing, _steps(tokenizer.pre_tokenizer), _steps(tokenizer.post_processor)):
        kinds = Counter(step["type"] for step in steps)
        pieces = max((len(step.get("single", ())) for step in steps), default=0)
        too_often = any(kinds[kind] > most for kind, most in _MOST_OF.items())
        if too_often or max(len(steps), pieces) > _MOST_STEPS:
            raise ModelInvalid(f"{path} asks for more steps than any tokenizer of CLIP's.")


def _steps(part: Any) -> list[dict[str, Any]]:
    """What a normalizer, pre-tokenizer or post-processor does, one after another; nothing for None."""
    found: list[dict[str, Any]] = []
    left = [] if part is None else [json.loads(part.__getstate__())]
    while left:
        step = left.pop()
        if step["type"] == "Sequence":
            left += next(value for value in step.values() if isinstance(value, list))[::-1]
        else:
            found.append(step)
    return found


def _with_specials(tokenizer: Tokenizer) -> Tokenizer:
    """Put the start and the end of text behind the learnt tokens."""
    spec = json.loads(tokenizer.to_str())
    vocab = spec["model"]["vocab"]
    start, end = len(vocab), len(vocab) + 1
    vocab |= {START: start, END: end}
    spec["added_tokens"] = []  # the bytes, which are ordinary tokens
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
    )
    return tokenizer
