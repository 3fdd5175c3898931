"""Texts to token ids: CLIP's byte-pair encoding, in the `tokenizers` file format.

The released tokenizer first repairs mojibake with ftfy and un-escapes HTML (openai/CLIP,
`simple_tokenizer.py`); that is done here, since the file format has no such step.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from clipsearch.errors import ModelInvalid

START, END = "<|startoftext|>", "<|endoftext|>"
# openai/CLIP, simple_tokenizer.py
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def clean(text: str) -> str:
    """Mend encoding errors and HTML entities; white space runs become one space."""
    if not text.isascii():
        import ftfy

        text = ftfy.fix_text(text)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    return " ".join(text.split())


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

    @classmethod
    def load(cls, path: Path, context_length: int) -> ClipTokenizer:
        """Read a `tokenizer.json`.

        Raises ModelInvalid for a file that is not a CLIP tokenizer.
        """
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises bare Exception
            raise ModelInvalid(f"{path} cannot be read as a tokenizer: {error}") from error
        # Files of the hub may ask for padding or truncation of their own.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer, context_length)

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        return int(self._tokenizer.get_vocab_size())

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Texts -> int64 (N, context_length); a text too long is cut and still ends with the end token."""
        ids = np.zeros((len(texts), self.context_length), dtype=np.int64)
        for row, encoding in enumerate(self._tokenizer.encode_batch([clean(text) for text in texts])):
            tokens = encoding.ids[: self.context_length]
            ids[row, : len(tokens)] = tokens
            if len(encoding.ids) > self.context_length:
                ids[row, -1] = self.end
        return ids

    def save(self, path: Path) -> None:
        """Write a `tokenizer.json`."""
        self._tokenizer.save(str(path))

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
            vocab_size=vocab_size - 2 - len(alphabet),
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
            special_tokens=[],
        )
        tokenizer.train_from_iterator((clean(text) for text in texts), trainer)
        return cls(_with_specials(tokenizer, alphabet), context_length)


def _with_specials(tokenizer: Tokenizer, alphabet: list[str]) -> Tokenizer:
    """Put the start and end of text behind the learnt tokens, and every byte in word-final form before."""
    import json

    spec = json.loads(tokenizer.to_str())
    learnt = spec["model"]["vocab"]
    vocab = {token: rank for rank, token in enumerate(sorted(learnt, key=learnt.__getitem__))}
    for byte in alphabet:
        for form in (byte, byte + "</w>"):
            vocab.setdefault(form, len(vocab))
    start, end = len(vocab), len(vocab) + 1
    vocab |= {START: start, END: end}
    spec["model"]["vocab"] = vocab
    spec["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
    )
    return tokenizer
