"""The embeddings on disk: one file, one row a slot, nothing else in it.

Row i of ``vectors.f16`` is the embedding of slot i: `dim` little-endian IEEE half floats, unit norm, at byte
``i * dim * 2``. The file has no header and is append-only. How many rows count is not written here but in the
catalog: bytes past the last committed row do not exist, and the next append cuts them.

Shapes: N rows of a batch, D = `dim`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch import durable
from clipsearch.errors import LibraryDamaged, ModelInvalid, StorageError

Halves = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]

ROW_TYPE = np.dtype("<f2")
NORM_TOLERANCE = 1e-3  # float32 normalisation errs by 1e-6; a row beyond this was never normalised

_CHUNK_BYTES = 16 << 20


class VectorError(ModelInvalid, ValueError):
    """Rows that are no embeddings: NaN, infinite, zero or not of unit length. `rows` says which (0-based)."""

    def __init__(self, message: str, rows: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.rows = rows


class VectorFile:
    """The rows at `path`, each of `dim` half floats. Holds nothing open; the caller is the only writer."""

    def __init__(self, path: Path, dim: int) -> None:
        self.path = path
        self.dim = dim
        self.row_bytes = dim * ROW_TYPE.itemsize

    def append(self, vectors: Floats, committed: int) -> tuple[int, list[int]]:
        """Write float32 (N, D) unit rows after the first `committed` ones and wait for the disk.

        Returns the first new slot and the CRC-32 (zlib) of each row's bytes as they stand in the file. The
        rows count once the catalog names them. Raises VectorError before anything is written, LibraryDamaged
        when the file has lost committed rows, StorageError when the disk is full or fails.
        """
        halves = encode_rows(vectors, self.dim)
        self.check_length(committed)
        at = committed * self.row_bytes
        durable.append(self.path, halves.tobytes(), at=at, name="vectors")
        return committed, row_checksums(halves)

    def rows_on_disk(self) -> int:
        """Return how many whole rows the file has, committed or not (0 where there is no file)."""
        return self.size() // self.row_bytes

    def size(self) -> int:
        """Return the size of the file in bytes, 0 where there is none. Raises StorageError."""
        with durable.storage_errors(self.path):
            try:
                return self.path.stat().st_size
            except FileNotFoundError:
                return 0

    def check_length(self, committed: int) -> None:
        """Raise LibraryDamaged, with the number of lost rows, if there are fewer than `committed`."""
        present = self.rows_on_disk()
        if present < committed:
            raise LibraryDamaged(
                f"{self.path} has lost {committed - present:,} of its {committed:,} embeddings (the file is "
                f"shorter than what was written). `clipsearch repair` encodes those photos again."
            )

    def cut(self, committed: int) -> int:
        """Cut what stands after `committed` rows and return how many bytes that was. Raises StorageError."""
        surplus = self.size() - committed * self.row_bytes
        if surplus <= 0:
            return 0
        durable.truncate(self.path, committed * self.row_bytes, name="recovery")
        return surplus

    def open_read(self, count: int) -> Halves:
        """Map the first `count` rows read-only: float16 (count, D), paged in as they are used.

        Raises LibraryDamaged when the file is missing or has fewer rows. Rows that are appended later do not
        change the mapping, and it outlives the removal of the file.
        """
        if count == 0:
            return np.empty((0, self.dim), ROW_TYPE)
        self.check_length(count)
        try:
            with durable.storage_errors(self.path):
                return np.memmap(self.path, ROW_TYPE, mode="r", shape=(count, self.dim))
        except StorageError:
            self.check_length(count)  # a compaction may have removed it just now: the reader looks again
            raise

    def verify(self, checksums: Iterable[tuple[int, int]], count: int) -> Iterator[int]:
        """Yield each slot of `checksums` ((slot, CRC-32) pairs) whose row is missing or not what was written.

        `count` is the number of committed rows. Reads the file once where the pairs come in order of slot.
        """
        rows = self.open_read(min(count, self.rows_on_disk()))
        for slot, crc32 in checksums:
            if slot >= len(rows) or zlib.crc32(rows[slot].data) != crc32:
                yield slot

    def copy_rows(self, slots: npt.NDArray[np.int64], target: Path, count: int) -> None:
        """Write the rows of `slots`, in that order, as a new vector file at `target`, durably."""
        rows = self.open_read(count)
        step = max(1, _CHUNK_BYTES // self.row_bytes)
        with durable.replacing(target, name="compact") as file:
            for start in range(0, len(slots), step):
                file.write(rows[slots[start : start + step]].tobytes())


def encode_rows(vectors: Floats, dim: int) -> Halves:
    """Return float32 (N, D) unit rows as the float16 (N, D) to store; raise VectorError for others."""
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise VectorError(f"embeddings of shape {vectors.shape} do not fit a library of {dim} dimensions")
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
        good = np.abs(norms - 1) <= NORM_TOLERANCE  # False for NaN and infinity as well
    if not good.all():
        bad = tuple(int(row) for row in np.flatnonzero(~good))
        raise VectorError(
            f"{len(bad)} of {len(vectors)} embeddings are not finite or not of unit length (first: row "
            f"{bad[0]}). The model, or the device it runs on, gives wrong numbers.",
            bad,
        )
    return np.ascontiguousarray(vectors, dtype=ROW_TYPE)


def row_checksums(rows: Halves) -> list[int]:
    """Return the CRC-32 (zlib) of the bytes of each row of a contiguous float16 (N, D)."""
    return [zlib.crc32(row.data) for row in rows]
