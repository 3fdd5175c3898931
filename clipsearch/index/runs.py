"""Inverted lists larger than memory: sorted runs on the disk, merged list by list into one file.

A run is what the lists hold of as many rows as fit into memory, in order of list. Reading all runs side by
side gives each list whole, and every run is read once from its start to its end. The merged file is byte for
byte what FAISS would write of the same lists in memory, and is mapped like any other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from clipsearch import durable
from clipsearch.index.checks import Slots
from clipsearch.index.engine import faiss

_NO_LISTS = 4 + 8 + 8 + 4 + 8
"""Bytes that FAISS writes for lists without a row: the tail of an empty index."""
_COPIED = 1 << 20


@dataclass(frozen=True)
class OnDisk:
    """Where lists are put while they are built, and how many `rows` of them are in memory at once."""

    folder: Path
    rows: int


class Runs:
    """The runs of one index, in files that have no name and are gone with this context, or this process.

    `ivf` is a trained `IndexIVFPQ` that is filled again and again.
    """

    def __init__(self, on_disk: OnDisk, ivf: Any) -> None:
        self.folder, self.rows, self.ivf = on_disk.folder, on_disk.rows, ivf
        self._files: list[IO[bytes]] = []
        self._sizes: list[Slots] = []

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_exception: object) -> None:
        for file in self._files:
            file.close()

    def have_grown(self) -> None:
        """Move what the lists hold to the disk, if that is enough for a run. Raises StorageError."""
        if self.ivf.ntotal >= self.rows:
            self._take()

    def _take(self) -> None:
        lists = faiss().downcast_InvertedLists(self.ivf.invlists)
        sizes = np.array([lists.list_size(each) for each in range(lists.nlist)], np.int64)
        with durable.storage_errors(self.folder):
            file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - stays open for `merged`
            self._files.append(file)
            self._sizes.append(sizes)
            for each in np.flatnonzero(sizes).tolist():
                for part in _contents(lists, each, int(sizes[each])):
                    file.write(part)
            file.flush()
        self.ivf.reset()

    def merged(self, rotation: Any) -> IO[bytes]:
        """The whole index, `rotation` before the lists, as one unnamed file. Raises StorageError."""
        self._take()
        with durable.storage_errors(self.folder):
            out = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - belongs to the index from here on
            for file in self._files:
                file.seek(0)
            out.write(_head(rotation, self.ivf, int(sum(sizes.sum() for sizes in self._sizes))))
            out.write(_table(np.sum(self._sizes, axis=0), self.ivf.invlists.code_size))
            for each in range(self.ivf.nlist):
                self._merge(each, out)
            out.flush()
        return out

    def _merge(self, number: int, out: IO[bytes]) -> None:
        """Put one list together: its codes from all runs, then its numbers."""
        numbers = []
        for file, sizes in zip(self._files, self._sizes, strict=True):
            held = int(sizes[number])
            out.write(file.read(held * self.ivf.invlists.code_size))
            numbers.append(file.read(held * 8))
        out.writelines(numbers)


def mapped(file: IO[bytes]) -> Any:
    """The index with its lists where they lie in `file`, mapped even after it is closed or replaced."""
    lib = faiss()
    # By its descriptor: a file published meanwhile under the same name cannot come between.
    return lib.read_index(f"/dev/fd/{file.fileno()}", lib.IO_FLAG_MMAP | lib.IO_FLAG_READ_ONLY)


def blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The bytes of `file` from its start."""
    file.seek(0)
    while block := file.read(_COPIED):
        yield block


def _contents(lists: Any, number: int, size: int) -> Iterator[memoryview]:
    """The codes of one list of `size` rows, then their numbers."""
    lib = faiss()
    yield lib.rev_swig_ptr(lists.get_codes(number), size * lists.code_size).data
    yield lib.rev_swig_ptr(lists.get_ids(number), size).data


def _head(rotation: Any, ivf: Any, rows: int) -> bytes:
    """What FAISS writes of an index of `rows` rows before its lists."""
    lib = faiss()
    engine = lib.IndexPreTransform(rotation, ivf)
    engine.is_trained = True
    engine.ntotal = ivf.ntotal = rows
    writer = lib.VectorIOWriter()
    lib.write_index(engine, writer)
    engine.ntotal = ivf.ntotal = 0
    head: bytes = lib.vector_to_array(writer.data).tobytes()[:-_NO_LISTS]
    return head


def _table(sizes: Slots, code_bytes: int) -> bytes:
    """What FAISS writes before the contents of lists: how many, how wide, how long each is."""
    filled = np.flatnonzero(sizes)
    if filled.size > len(sizes) // 2:
        kind, table = b"full", sizes
    else:
        kind, table = b"sprs", np.stack([filled, sizes[filled]], axis=1).reshape(-1)
    start = np.array([len(sizes), code_bytes], "<u8").tobytes()
    return b"ilar" + start + kind + np.array([table.size], "<u8").tobytes() + table.astype("<u8").tobytes()
