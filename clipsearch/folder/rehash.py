"""Reading the photos again: does each file still hold what the library says of it?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clipsearch.files import ImageFileError, read_file
from clipsearch.store.rows import StoredFile

Report = Callable[[str, int, int], None]
"""Is told a stage, how much of it is done, and of how much."""


@dataclass
class PhotoHealth:
    """What became of the files of folders that can be reached.

    `same` hold what was indexed. `changed` hold something else though size and time are as they were: no scan
    can notice that. `newer` have another size or time, and `gone` are not there: the next indexing run sees
    to both. `unreadable` lists path and reason.
    """

    same: int = 0
    newer: int = 0
    gone: int = 0
    changed: list[bytes] = field(default_factory=list)
    unreadable: list[tuple[bytes, str]] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether the library describes every file that looks as it did."""
        return not (self.changed or self.unreadable)


def content_hash(data: bytes) -> bytes:
    """BLAKE2b of a file's bytes, 16 bytes: what the library names a content by."""
    return hashlib.blake2b(data, digest_size=16).digest()


def read_again(files: Sequence[StoredFile], report: Report = lambda *progress: None) -> PhotoHealth:
    """Read every one of `files` and compare it with its hash."""
    found = PhotoHealth()
    for done, file in enumerate(files):
        report("reading photos", done, len(files))
        try:
            data, stat = read_file(file.path, follow_symlinks=True)
        except ImageFileError as error:
            if error.kind == "missing":
                found.gone += 1
            else:
                found.unreadable.append((file.path, str(error)))
            continue
        if content_hash(data) == file.hash:
            found.same += 1
        elif (stat.st_size, stat.st_mtime_ns) == (file.size, file.mtime_ns):
            found.changed.append(file.path)
        else:
            found.newer += 1
    report("reading photos", len(files), len(files))
    return found
