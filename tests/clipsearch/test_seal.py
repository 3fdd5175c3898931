import random

import numpy as np
import pytest

from clipsearch.errors import StorageError
from clipsearch.folder import seal
from clipsearch.folder.seal import Seal, Sealed, differs, read_seal, seal_of, word_sum, write_seal


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(0).bytes(4099))
    return path


def test_the_sum_is_that_of_64_bit_words(tmp_path):
    path = tmp_path / "file"
    words = np.array([1, 2**63, 2**63, 7], "<u8")
    path.write_bytes(words.tobytes() + b"\x05")
    assert word_sum(path, 0, 33) == 1 + 7 + 5
    assert word_sum(path, 1, 2) == 0  # the second byte of the first word


def test_sums_of_adjoining_parts_add_up_wherever_they_are_cut(file, monkeypatch):
    whole = word_sum(file, 0, 4099)
    for cut in [0, 1, 7, 8, 9, 2048, 4098, 4099, *random.Random(0).sample(range(4099), 30)]:
        assert (word_sum(file, 0, cut) + word_sum(file, cut, 4099)) % 2**64 == whole
        assert seal.sum_in_memory(np.fromfile(file, np.uint8, count=cut)) == word_sum(file, 0, cut)
    monkeypatch.setattr(seal, "_CHUNK", 40)
    assert word_sum(file, 0, 4099) == whole


def test_every_flipped_bit_and_every_zeroed_block_changes_the_sum(file):
    data, sealed = file.read_bytes(), seal_of(file, 4099)
    chance = random.Random(1)
    for _ in range(300):
        changed = bytearray(data)
        changed[chance.randrange(4099)] ^= 1 << chance.randrange(8)
        file.write_bytes(changed)
        assert differs(file, sealed, whole=True)
    for start in range(0, 4099, 512):
        file.write_bytes(data[:start] + bytes(512) + data[start + 512 :])
        assert differs(file, sealed, whole=False)
    file.write_bytes(data)
    assert not differs(file, sealed, whole=True)


def test_only_a_whole_file_may_have_nothing_behind_it(file):
    sealed = seal_of(file, 4000)
    assert not differs(file, sealed, whole=False)
    assert differs(file, sealed, whole=True)
    file.write_bytes(file.read_bytes()[:3999])
    assert differs(file, sealed, whole=False)
    file.unlink()
    assert differs(file, sealed, whole=False)
    with pytest.raises(StorageError):
        seal_of(file, 4000)


def test_what_is_sealed_is_not_read_again(file, monkeypatch):
    first, whole = seal_of(file, 1003), seal_of(file, 4099)
    read = []
    monkeypatch.setattr(
        seal, "word_sum", lambda path, start, stop: read.append(start) or word_sum(path, start, stop)
    )
    assert seal_of(file, 4099, first).sum == whole.sum
    assert read == [1003]
    assert seal_of(file, 500, first).sum == word_sum(file, 0, 500)  # cut since


def test_a_large_file_is_summed_only_where_it_was_written_to(file, monkeypatch):
    sealed = seal_of(file, 4099)
    monkeypatch.setattr(seal, "ALWAYS", 4000)
    with monkeypatch.context() as patch:
        patch.setattr(seal, "word_sum", lambda *_: pytest.fail("it was read"))
        assert not differs(file, sealed, whole=True)
    file.write_bytes(bytes(4099))
    assert differs(file, sealed, whole=True)


def test_a_seal_that_is_not_legible_is_none(tmp_path):
    path = tmp_path / "SEAL"
    assert read_seal(path) is None
    wanted = Seal(7, {"catalog.db": Sealed(10, 11, 12, 13)})
    write_seal(path, wanted)
    assert read_seal(path) == wanted
    text = path.read_bytes()
    chance = random.Random(2)
    for _ in range(200):
        changed = bytearray(text)
        changed[chance.randrange(len(text))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        assert read_seal(path) in (None, wanted)  # a blank may have become another blank
    for other in (b"", b"[]", b"null", b"{}", b"[" * 100_000, text[:-1]):
        path.write_bytes(other)
        assert read_seal(path) is None
