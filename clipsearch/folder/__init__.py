"""The library on disk: one owner of the catalog, the vectors and the place of the index.

`LibraryFolder` opens it, `LibraryFolder.writer` changes it, `LibraryFolder.snapshot` reads one state of it.
"""

from clipsearch.folder.disk_usage import DiskUsage
from clipsearch.folder.health import Health, SpaceHealth
from clipsearch.folder.library import LibraryFolder, Snapshot
from clipsearch.folder.rehash import PhotoHealth
from clipsearch.folder.repair import Repaired
from clipsearch.folder.writer import Batch, Recovery, Writer

__all__ = [
    "Batch",
    "DiskUsage",
    "Health",
    "LibraryFolder",
    "PhotoHealth",
    "Recovery",
    "Repaired",
    "Snapshot",
    "SpaceHealth",
    "Writer",
]
