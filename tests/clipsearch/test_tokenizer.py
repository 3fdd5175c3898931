import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from clipsearch.errors import ModelInvalid
from clipsearch.tokenizer import END, START, ClipTokenizer, clean

CAPTIONS = [
    "a dog runs on the beach",
    "two dogs play in the snow",
    "a child on a red bicycle",
    "the red house by the sea",
    "children playing football in the park",
] * 3


@pytest.fixture(scope="module")
def trained() -> ClipTokenizer:
    return ClipTokenizer.train(CAPTIONS, 600, 16)


def words(tokenizer: ClipTokenizer, ids: np.ndarray) -> str:
    """The text that a row of ids stands for, by the file's own vocabulary."""
    spec = json.loads(tokenizer._tokenizer.to_str())
    names = {rank: token for token, rank in spec["model"]["vocab"].items()}
    inner = [names[int(rank)] for rank in ids[1 : list(ids).index(tokenizer.end)]]
    return "".join(inner).replace("</w>", " ").strip()


@pytest.mark.shared
def test_ids_equal_the_reference_tokenizer(shared: Path) -> None:
    tokenizer = ClipTokenizer.load(shared / "parity" / "clip_tokenizer.json", 77)
    cases = json.loads((shared / "parity" / "clip_tokens.json").read_text())
    rows = tokenizer([case["text"] for case in cases])
    assert tokenizer.vocab_size == 49408
    for case, row in zip(cases, rows, strict=True):
        wanted = case["ids"][:77]
        assert row[: len(wanted)].tolist()[:-1] == wanted[:-1], case["text"]
        assert row[len(wanted) - 1] == tokenizer.end
        assert not row[len(wanted) :].any()


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  a \t dog\n", "a dog"),
        ("cats &amp; dogs", "cats & dogs"),
        ("cats &amp;amp; dogs", "cats & dogs"),
        ("\u201cquoted\u201d", '"quoted"'),
        ("cafÃ©", "café"),
        ("a\x00b\x1b[0m", "ab"),
        ("\ud800x", "\ufffdx"),
        ("", ""),
    ],
)
def test_cleaning_is_the_released_one(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_every_word_of_the_training_texts_comes_back(trained: ClipTokenizer) -> None:
    for row, caption in zip(trained(CAPTIONS), CAPTIONS, strict=True):
        assert words(trained, row) == caption


def test_rows_start_end_and_are_padded_with_zeros(trained: ClipTokenizer) -> None:
    ids = trained(["a dog", ""])
    assert ids.dtype == np.int64
    assert ids.shape == (2, 16)
    assert trained.end == trained.vocab_size - 1 == ids.max()
    assert ids[1].tolist() == [trained.end - 1, trained.end] + [0] * 14
    assert (ids == trained.end).sum(axis=1).tolist() == [1, 1]


def test_a_text_too_long_is_cut_and_still_ends(trained: ClipTokenizer) -> None:
    long, fits = trained(["a dog runs on the beach " * 9, "a dog"])
    assert long[-1] == trained.end
    assert (long == trained.end).sum() == 1
    assert fits[-1] == 0


def test_of_a_book_the_beginning_is_looked_at(
    trained: ClipTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []
    monkeypatch.setattr("clipsearch.tokenizer.clean", lambda text: looked_at.append(text) or clean(text))
    book, page = trained([" " * 200_000 + "a dog runs " * 1_000_000, "a dog runs " * 100])
    assert (book == page).all()
    assert max(map(len, looked_at)) <= 100_000


@pytest.mark.parametrize("text", ["😀🏳️‍🌈", "日本の猫", "мир", "\ud800", "\x00", "a" * 100_000, "é " * 50_000])
def test_any_text_becomes_ids(trained: ClipTokenizer, text: str) -> None:
    row = trained([text])[0]
    assert row[0] == trained.end - 1
    assert (row == trained.end).sum() == 1
    assert ((row >= 0) & (row < trained.vocab_size)).all()


def test_unseen_letters_differ(trained: ClipTokenizer) -> None:
    rows = {tuple(row) for row in trained(["日", "本", "😀", "ж", ""])}
    assert len(rows) == 5


def test_training_is_deterministic_and_survives_the_file(trained: ClipTokenizer, tmp_path: Path) -> None:
    again = ClipTokenizer.train(CAPTIONS, 600, 16)
    again.save(tmp_path / "tokenizer.json")
    loaded = ClipTokenizer.load(tmp_path / "tokenizer.json", 16)
    texts = [*CAPTIONS, "日本の猫 😀", "it's", "DOGS &amp; cats"]
    assert loaded.vocab_size == trained.vocab_size
    assert (loaded(texts) == trained(texts)).all()
    assert (again(texts) == trained(texts)).all()


def test_vocabulary_is_no_larger_than_asked(trained: ClipTokenizer) -> None:
    assert 514 <= trained.vocab_size <= 600
    assert ClipTokenizer.train(CAPTIONS, 530, 16).vocab_size <= 530


def test_padding_and_truncation_of_the_file_are_ignored(trained: ClipTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    trained.save(path)
    raw = Tokenizer.from_file(str(path))
    raw.enable_truncation(4)
    raw.enable_padding(length=9, pad_id=5)
    raw.save(str(path))
    assert (ClipTokenizer.load(path, 16)(CAPTIONS) == trained(CAPTIONS)).all()


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"model": {"type": "BPE"}}', "[" * 2000])
def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ModelInvalid, match=r"tokenizer\.json cannot be read"):
        ClipTokenizer.load(path, 77)


@pytest.mark.parametrize(
    "step",
    [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}, {"type": "Prepend", "prepend": "a"}],
)
def test_a_tokenizer_that_makes_texts_longer_is_refused(
    trained: ClipTokenizer, tmp_path: Path, step: dict[str, object]
) -> None:
    trained.save(path := tmp_path / "tokenizer.json")
    spec = json.loads(path.read_text())
    spec["normalizer"]["normalizers"] += [{"type": "Sequence", "normalizers": [step] * 40}]
    path.write_text(json.dumps(spec))
    with pytest.raises(ModelInvalid, match="normalizer"):
        ClipTokenizer.load(path, 77)


NOTHING = {"type": "Replace", "pattern": {"Regex": "(?=.)"}, "content": "b"}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


@pytest.mark.parametrize(
    ("part", "steps", "step"),
    [
        ("normalizer", "normalizers", {"type": "Sequence", "normalizers": [NOTHING] * 40}),
        ("normalizer", "normalizers", {"type": "Sequence", "normalizers": [{"type": "NFKD"}] * 100_000}),
        ("pre_tokenizer", "pretokenizers", {"type": "Sequence", "pretokenizers": [BYTES] * 30}),
        ("post_processor", "single", TEXT),
    ],
)
def test_a_tokenizer_of_many_steps_is_refused(
    trained: ClipTokenizer, tmp_path: Path, part: str, steps: str, step: dict[str, object]
) -> None:
    """Each can double the text, between two letters or by every byte that is none, or repeat all of it."""
    trained.save(path := tmp_path / "tokenizer.json")
    spec = json.loads(path.read_text())
    spec[part][steps][1:1] = [step] * (10_000 if steps == "single" else 1)
    path.write_text(json.dumps(spec))
    with pytest.raises(ModelInvalid, match="more steps than any tokenizer of CLIP's"):
        ClipTokenizer.load(path, 77)


def test_what_the_library_raises_is_the_model_s_fault(trained: ClipTokenizer, tmp_path: Path) -> None:
    trained.save(path := tmp_path / "tokenizer.json")
    spec = json.loads(path.read_text())
    panics = spec | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
    path.write_text(json.dumps(panics))
    with pytest.raises(ModelInvalid, match=r"tokenizer\.json cannot be read"):
        ClipTokenizer.load(path, 77)
    model = {"type": "WordPiece", "vocab": spec["model"]["vocab"], "unk_token": "no such token"}
    model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    path.write_text(json.dumps(spec | {"model": model}))
    with pytest.raises(ModelInvalid, match="tokenizer failed"):
        ClipTokenizer.load(path, 77)(["日本"])


def test_a_pattern_that_searches_for_ever_is_the_model_s_fault(
    trained: ClipTokenizer, tmp_path: Path
) -> None:
    trained.save(path := tmp_path / "tokenizer.json")
    spec = json.loads(path.read_text())
    spec["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": "x"}
    path.write_text(json.dumps(spec))
    tokenizer = ClipTokenizer.load(path, 77)
    with pytest.raises(ModelInvalid, match="tokenizer failed"):
        tokenizer(["a" * 3000 + "b"])


def test_a_tokenizer_without_clip_s_frame_is_refused(trained: ClipTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    trained.save(path)
    spec = json.loads(path.read_text())
    spec["post_processor"] = None
    path.write_text(json.dumps(spec))
    with pytest.raises(ModelInvalid, match="around a text"):
        ClipTokenizer.load(path, 77)
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] != END]
    del spec["model"]["vocab"][END]
    spec["model"]["unk_token"] = START
    path.write_text(json.dumps(spec))
    with pytest.raises(ModelInvalid, match="not a CLIP tokenizer"):
        ClipTokenizer.load(path, 77)


def test_ascii_texts_need_no_ftfy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert clean("a dog on a beach") == "a dog on a beach"
