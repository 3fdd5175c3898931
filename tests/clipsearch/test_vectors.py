import errno
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.errors import LibraryDamaged, ModelInvalid, StorageError
from clipsearch.vectors import VectorError, VectorFile

DIM = 6


def unit(count, seed=0, dim=DIM):
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    return VectorFile(tmp_path / "vectors.f16", DIM)


def test_row_i_is_slot_i_in_little_endian_halves(file):
    vectors = unit(3)
    assert file.append(vectors[:2], 0)[0] == 0
    assert file.append(vectors[2:], 2)[0] == 2
    data = file.path.read_bytes()
    assert len(data) == 3 * DIM * 2
    for slot, vector in enumerate(vectors):
        row = struct.unpack_from(f"<{DIM}e", data, slot * DIM * 2)
        assert np.allclose(row, vector, atol=5e-4)


def test_the_checksums_are_those_of_the_bytes_on_disk(file):
    _, checksums = file.append(unit(3), 0)
    data, size = file.path.read_bytes(), file.row_bytes
    assert checksums == [zlib.crc32(data[i * size : (i + 1) * size]) for i in range(3)]


def test_append_cuts_what_was_never_committed(file):
    file.append(unit(3), 0)
    file.append(unit(1, seed=1), 1)
    assert file.rows_on_disk() == 2
    assert np.allclose(file.open_read(2)[1], unit(1, seed=1)[0], atol=5e-4)


def test_read_is_a_read_only_view_of_the_committed_rows(file):
    file.append(unit(3), 0)
    rows = file.open_read(2)
    assert rows.shape == (2, DIM)
    assert rows.dtype == np.float16
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 0
    file.append(unit(5, seed=1), 3)
    assert rows.shape == (2, DIM)
    assert np.allclose(rows, unit(3)[:2], atol=5e-4)


def test_no_rows_need_no_file(file):
    assert file.open_read(0).shape == (0, DIM)
    assert file.rows_on_disk() == file.size() == file.cut(0) == 0


def bad_rows():
    zero, short, long = np.zeros(DIM), unit(1)[0] * 0.99, unit(1)[0] * 1.01
    nan, infinite, huge = unit(1)[0].copy(), unit(1)[0].copy(), np.full(DIM, 3e38)
    nan[2], infinite[2] = np.nan, -np.inf
    return {"zero": zero, "short": short, "long": long, "nan": nan, "infinite": infinite, "huge": huge}


@pytest.mark.parametrize("kind", list(bad_rows()))
def test_rows_that_are_no_embeddings_are_rejected_with_their_numbers(file, kind):
    vectors = unit(4)
    vectors[[1, 3]] = bad_rows()[kind]
    with pytest.raises(VectorError, match="2 of 4 embeddings") as caught:
        file.append(vectors, 0)
    assert caught.value.rows == (1, 3)
    assert isinstance(caught.value, ModelInvalid)
    assert isinstance(caught.value, ValueError)
    assert not file.path.exists()


@pytest.mark.parametrize("shape", [(2, DIM + 1), (DIM,), (1, 2, DIM)])
def test_a_wrong_shape_is_rejected(file, shape):
    with pytest.raises(VectorError, match="do not fit"):
        file.append(np.ones(shape, np.float32), 0)


def test_lost_rows_are_counted_and_never_filled_up(file):
    file.append(unit(5), 0)
    with file.path.open("r+b") as raw:
        raw.truncate(2 * file.row_bytes + 3)
    for use in (lambda: file.open_read(5), lambda: file.append(unit(1), 5)):
        with pytest.raises(LibraryDamaged, match="lost 3 of its 5 embeddings"):
            use()
    assert file.size() == 2 * file.row_bytes + 3


@settings(max_examples=200)
@given(bit=st.integers(0, 20 * DIM * 16 - 1))
def test_every_flipped_bit_is_found_in_its_row(tmp_path_factory, bit):
    file = VectorFile(tmp_path_factory.getbasetemp() / "flipped.f16", DIM)
    _, checksums = file.append(unit(20), 0)
    pairs = list(enumerate(checksums))
    assert list(file.verify(pairs, 20)) == []
    data = bytearray(file.path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.path.write_bytes(data)
    assert list(file.verify(pairs, 20)) == [bit // 8 // file.row_bytes]


def test_verify_names_rows_that_are_gone(file):
    _, checksums = file.append(unit(4), 0)
    with file.path.open("r+b") as raw:
        raw.truncate(2 * file.row_bytes)
    assert list(file.verify(enumerate(checksums), 4)) == [2, 3]


def test_copy_rows_keeps_the_bytes(file, tmp_path):
    file.append(unit(6), 0)
    file.copy_rows(np.array([5, 0, 3]), tmp_path / "copy", 6)
    assert (tmp_path / "copy").read_bytes() == file.open_read(6)[[5, 0, 3]].tobytes()


def test_a_file_that_goes_away_while_it_is_mapped_is_told_like_a_missing_one(file, monkeypatch):
    """A compaction removes it between the look at its length and the mapping; readers then look again."""
    file.append(unit(3), 0)

    def gone(*_args, **_kwargs):
        file.path.unlink()
        raise FileNotFoundError(2, "No such file", str(file.path))

    monkeypatch.setattr(np, "memmap", gone)
    with pytest.raises(LibraryDamaged, match="has lost 3 of its 3"):
        file.open_read(3)


def test_vectors_that_may_not_be_looked_at_are_a_sentence(tmp_path, monkeypatch):
    def forbidden(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(StorageError, match="Permission denied"):
        VectorFile(tmp_path / "vectors.f16", 8).rows_on_disk()
