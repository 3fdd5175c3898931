"""Every error a user can meet, each one sentence with the way out and an exit code.

::

    ClipsearchError                 3  (base; never raised itself)
     ├── UsageError                 2  a query, option or recipe that cannot be understood
     ├── LibraryNotFound            4  no library at that place yet
     ├── LibraryEmpty               5  a library with nothing to search
     ├── LibraryLocked              6  another process is writing
     ├── LibraryDamaged             7  a file of the library is not what was written
     ├── LibraryVersion             8  made by a newer clipsearch
     ├── StorageError               9  disk full, read-only or failing; the machine has no room
     ├── ImageError                10  an image that cannot be read
     ├── ModelNotFound             11  no such model here
     ├── ModelInvalid              12  files that are not a CLIP model, or a damaged one
     ├── ModelMismatch             13  the library was made with another model
     ├── NetworkUnavailable        14  a download was asked for and there is no network
     ├── MissingExtra              15  an optional package is not installed
     ├── TrainingError             16  training data or a loss that cannot be used
     └── ServerError               17  a server that cannot be started

0 is success, 1 "done, but some files failed or a root was offline"; 129, 130 and 143 are SIGHUP, SIGINT
and SIGTERM.
"""

from __future__ import annotations


class ClipsearchError(Exception):
    """Base of all errors that clipsearch raises on purpose; `exit_code` is what the CLI returns."""

    exit_code = 3


class UsageError(ClipsearchError):
    """A query, option or recipe that cannot be understood."""

    exit_code = 2


class LibraryNotFound(ClipsearchError):
    """There is no library at the given place."""

    exit_code = 4


class LibraryEmpty(ClipsearchError):
    """The library holds nothing that could be found."""

    exit_code = 5


class LibraryLocked(ClipsearchError):
    """Another process is writing to the library."""

    exit_code = 6


class LibraryDamaged(ClipsearchError):
    """A file of the library is not what was written to it."""

    exit_code = 7


class LibraryVersion(ClipsearchError):
    """The library was written by a newer clipsearch than this one."""

    exit_code = 8


class StorageError(ClipsearchError):
    """The disk is full, read-only or failing."""

    exit_code = 9


class ImageError(ClipsearchError):
    """An image that cannot be read; `str(error)` is the reason shown to the user."""

    exit_code = 10


class ModelNotFound(ClipsearchError):
    """No model of that name or folder on this machine."""

    exit_code = 11


class ModelInvalid(ClipsearchError):
    """Files that are not a CLIP model, or not a whole one."""

    exit_code = 12


class ModelMismatch(ClipsearchError):
    """Vectors of one model were asked to meet vectors of another."""

    exit_code = 13


class NetworkUnavailable(ClipsearchError):
    """A download was asked for and the network, or the hub, did not answer."""

    exit_code = 14


class MissingExtra(ClipsearchError):
    """An optional package is needed and not installed."""

    exit_code = 15


class TrainingError(ClipsearchError):
    """Training data, a checkpoint or a loss that cannot be used."""

    exit_code = 16


class ServerError(ClipsearchError):
    """A server cannot be started: its port is taken, or one for the same library runs already."""

    exit_code = 17
