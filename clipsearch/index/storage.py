"""An index on disk: `index.faiss` beside `index.json`, the manifest without which it is not believed.

FAISS reads a damaged file without complaint and answers wrongly (one zeroed page: 99 of 100 files), and its
own writer loses up to 4 KiB at the end of a full disk without an error. So the bytes go through Python to a
synced temporary file and are renamed, and nothing is used before its SHA-256 and all that the manifest says
have been compared. An index is derived: one that is missing, foreign, stale or damaged is left aside with a
reason, and exact search answers meanwhile.

Publishing is two renames. The manifest comes first and carries the entry of the index still in place as
`previous`; so at every moment the file is named by one of the two entries, before and after the second one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clipsearch import durable
from clipsearch.errors import StorageError
from clipsearch.index import runs
from clipsearch.index.checks import Vectors
from clipsearch.index.engine import faiss
from clipsearch.index.ivfpq import KINDS, Effort, IvfPq, inner
from clipsearch.index.params import IvfPqParams, factory_key

FORMAT = 2
METRIC = "inner_product"
BLOCK = 1 << 20
SAMPLED_ROWS = 256
UNUSABLE = (KeyError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError, MemoryError)
"""What reading an index of another shape than its manifest states may raise."""


@dataclass(frozen=True)
class Loaded:
    """What `load` found: an index that passed every check, or `None` and the reason."""

    index: IvfPq | None
    reason: str


@dataclass(frozen=True)
class Belonging:
    """What an index was built from.

    Attributes:
        fingerprint: of the model whose vectors it holds.
        space: an id of the library's space, "" where the caller keeps none.
        rows: SHA-256 over rows sampled from the vectors it covers; tells a rewritten matrix from its past.
    """

    fingerprint: str
    space: str
    rows: str


def save(
    index: IvfPq,
    index_path: Path,
    manifest_path: Path,
    *,
    vectors: Vectors,
    fingerprint: str,
    space: str = "",
) -> None:
    """Publish `index`, built over `vectors`, at the two paths; the old one stays whole until the new one is.

    Raises:
        StorageError: the disk is full, failing or read-only; what was there is untouched and still loads.
    """
    belonging = Belonging(fingerprint, space, _rows_digest(vectors, index.covered))
    with durable.replacing(index_path, name="index") as file:
        digest, size = _write(index, file)
        entry = _entry(index, belonging, digest, size)
        entry["previous"] = _entry_in_place(index_path, manifest_path)
        text = json.dumps(entry, indent=1, sort_keys=True, allow_nan=False) + "\n"
        durable.replace(manifest_path, text.encode(), name="index-manifest")


def load(
    index_path: Path,
    manifest_path: Path,
    *,
    fingerprint: str,
    dim: int,
    max_slots: int,
    vectors: Vectors | None = None,
    space: str = "",
) -> Loaded:
    """Read the index at the two paths if it is whole and belongs to this library.

    The file is read twice, once for its SHA-256 (1.5 GB/s: 48 ms for the 72 MB of a million vectors) and once
    by FAISS, from one descriptor: a file published meanwhile under the same name cannot come between.

    Args:
        index_path: the FAISS file.
        manifest_path: its manifest.
        fingerprint: of the library's model.
        dim: width of its vectors.
        max_slots: committed slots; an index that covers more was built on rows that no longer exist.
        vectors: if given, rows sampled from it are compared with those the index was built from.
        space: id of the library's space, as given to `save`.

    Returns:
        the index, or `None` with the reason. Never raises for what is or is not on the disk.
    """
    seen: dict[str, Any] | None = None
    while True:
        manifest = _read_manifest(manifest_path)
        if isinstance(manifest, str):
            return Loaded(None, manifest)
        if manifest == seen:
            return Loaded(None, "the index file is not the one that its manifest describes: it is damaged")
        try:
            with _opened(index_path) as file:
                entry = _entry_of(file, manifest)
                if entry is not None:
                    reason = _foreign(entry, fingerprint, dim, max_slots, vectors, space)
                    return Loaded(None, reason) if reason else _read(file, entry)
        except OSError as error:
            return Loaded(None, f"the index cannot be read: {error.strerror or error}")
        seen = manifest  # a writer may have published between the two files: look once more


class _Hashing:
    """Passes FAISS' bytes on to a file; keeps their hash, their number and the first error."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def __call__(self, data: bytes) -> None:
        if self.error is not None:
            return
        try:
            self.file.write(data)
        except OSError as error:  # must not travel through C++: raised by the caller
            self.error = error
        self.sha256.update(data)
        self.size += len(data)


def _write(index: IvfPq, file: BinaryIO) -> tuple[str, int]:
    """Write `index` to `file`; its SHA-256 and size in bytes."""
    lib = faiss()
    sink = _Hashing(file)
    if index.file is not None:  # lists on the disk would be written as the name of their file
        for block in runs.blocks(index.file):
            sink(block)
    else:
        lib.write_index(index.engine, lib.PyCallbackIOWriter(sink, BLOCK))
    if sink.error is not None:
        raise sink.error
    file.flush()
    if file.tell() != sink.size:
        raise StorageError(f"the index file has {file.tell()} bytes where {sink.size} were written")
    return sink.sha256.hexdigest(), sink.size


def _entry(index: IvfPq, belonging: Belonging, digest: str, size: int) -> dict[str, Any]:
    entry = {
        "format": FORMAT,
        "sha256": digest,
        "bytes": size,
        "covered": index.covered,
        "dim": index.dim,
        "metric": METRIC,
        "key": index.key,
        "params": asdict(index.params),
        "seed": index.seed,
        "effort": {kind: asdict(effort) for kind, effort in index.effort.items()},
        "built_at": index.built_at,
        "trained_on": index.trained_on,
        "imbalance": index.imbalance,
        "mapped": index.mapped,
        "budget": index.budget,
        "belonging": asdict(belonging),
    }
    return entry | {"check": _check(entry)}


def _check(entry: dict[str, Any]) -> str:
    """SHA-256 of a manifest entry without its `check` and `previous`: a manifest can be damaged as well."""
    bare = {key: value for key, value in entry.items() if key not in ("check", "previous")}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


def _entry_in_place(index_path: Path, manifest_path: Path) -> dict[str, Any] | None:
    """The manifest entry that describes the index file now in place, without its own `previous`."""
    manifest = _read_manifest(manifest_path)
    if isinstance(manifest, str):
        return None
    try:
        with _opened(index_path) as file:
            entry = _entry_of(file, manifest)
    except OSError:
        return None
    return None if entry is None else {key: value for key, value in entry.items() if key != "previous"}


def _read_manifest(path: Path) -> dict[str, Any] | str:
    """The manifest, or why there is none."""
    try:
        with _opened(path) as file:
            manifest = json.loads(file.read())
    except FileNotFoundError:
        return "there is no index yet"
    except OSError as error:
        return f"the index manifest cannot be read: {error.strerror}"
    except (ValueError, TypeError, RecursionError):
        return "the index manifest is damaged"
    return manifest if isinstance(manifest, dict) else "the index manifest is damaged"


def _opened(path: Path) -> BufferedReader:
    """Open a file for reading; a pipe in its place is not waited for, and is an error or empty."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    return open(descriptor, "rb")  # noqa: PTH123 (a descriptor)


def _entry_of(file: BufferedReader, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """That entry of `manifest`, undamaged, whose size and SHA-256 `file` has; `None` if neither."""
    size = file.seek(0, 2)
    both = (manifest, manifest.get("previous"))
    whole = [entry for entry in both if isinstance(entry, dict) and entry.get("check") == _check(entry)]
    entries = [entry for entry in whole if entry.get("bytes") == size]
    if not entries:
        return None
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return next((entry for entry in entries if entry.get("sha256") == digest), None)


def _foreign(
    entry: dict[str, Any], fingerprint: str, dim: int, max_slots: int, vectors: Vectors | None, space: str
) -> str:
    """Why an index of this manifest entry does not serve this library; "" if it does."""
    if entry.get("format") != FORMAT:
        return f"the index has format {entry.get('format')!r}, and this version reads {FORMAT}"
    belonging, covered = entry.get("belonging"), entry.get("covered")
    if not isinstance(belonging, dict) or not isinstance(covered, int) or covered < 1:
        return "the index manifest is damaged"
    if belonging.get("fingerprint") != fingerprint:
        return "the index was built for another model"
    if belonging.get("space") != space:
        return "the index was built for another library"
    if entry.get("dim") != dim or entry.get("metric") != METRIC:
        return f"the index holds {entry.get('dim')} numbers a vector, not {dim}, or measures differently"
    if covered > max_slots:
        return f"the index covers {covered} slots, of which {max_slots} exist"
    if vectors is not None and belonging.get("rows") != _rows_digest(vectors, covered):
        return "the vectors were rewritten after the index was built"
    return ""


def _read(file: BufferedReader, entry: dict[str, Any]) -> Loaded:
    """Read a verified `file` and check that what is in it is what `entry` says."""
    lib = faiss()
    file.seek(0)
    try:
        params = IvfPqParams(**entry["params"])
        effort = {kind: Effort(**entry["effort"][kind]) for kind in KINDS if kind in entry["effort"]}
        mapped = bool(entry.get("mapped"))
        engine = runs.mapped(file) if mapped else lib.read_index(lib.PyCallbackIOReader(_reader(file), BLOCK))
        ivf = inner(engine)
        found = (
            engine.d,
            engine.ntotal,
            engine.metric_type,
            ivf.nlist,
            ivf.pq.M,
            ivf.pq.nbits,
            ivf.d,
            factory_key(params),
        )
        stated = (
            *(entry["dim"], entry["covered"], lib.METRIC_INNER_PRODUCT),
            *(params.lists, params.parts, params.bits, params.width),
        )
        index = IvfPq(
            engine, params, int(entry["seed"]), entry["covered"], float(entry["built_at"]), effort,
            trained_on=int(entry.get("trained_on", entry["covered"])),
            imbalance=float(entry.get("imbalance", 1.0)), mapped=mapped, budget=int(entry.get("budget", 0)),
        )  # fmt: skip
    except UNUSABLE as error:
        return Loaded(None, f"the index cannot be used: {type(error).__name__}")
    if found != (*stated, entry.get("key")):
        return Loaded(None, "the index is not what its manifest says")
    return Loaded(index, "")


def _reader(file: BufferedReader) -> Callable[[int], bytes]:
    return file.read


def _rows_digest(vectors: Vectors, covered: int) -> str:
    """SHA-256 over up to `SAMPLED_ROWS` rows spread evenly over the first `covered`, both ends included."""
    if covered > len(vectors):
        return ""
    chosen = np.unique(np.linspace(0, covered - 1, min(covered, SAMPLED_ROWS)).astype(np.int64))
    return hashlib.sha256(np.ascontiguousarray(vectors[chosen]).tobytes()).hexdigest()
