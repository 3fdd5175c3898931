"""The library that people import: index folders of photos, find them by words and by pictures.

from clipsearch import Library

with Library.open("photos.clipsearch", create=True) as library:
    library.index(["~/photos"])
    for hit in library.search("a dog on a beach", k=5):
        print(f"{hit.score:.3f}  {hit.path}")
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipsearch.config import default_library, expanded
from clipsearch.errors import ImageError, LibraryEmpty, ModelMismatch
from clipsearch.folder import Health, LibraryFolder, Repaired, Snapshot
from clipsearch.library_index import LibraryIndex
from clipsearch.library_model import Deferred, LibraryModel
from clipsearch.paths import display, to_json
from clipsearch.reachable import reachable
from clipsearch.search import Hit, Query, Where, rank
from clipsearch.search.compose import compose
from clipsearch.search.query import Kind, is_image_path
from clipsearch.store import FailureRow, PruneResult, RootCounts, RootRow, RunRow, SpaceRow

if TYPE_CHECKING:
    from PIL import Image

    from clipsearch.browse import Photo, View
    from clipsearch.encoder import Encoder
    from clipsearch.index import IndexPlan
    from clipsearch.index.curve import Point
    from clipsearch.store.overview import Overview
    from clipsearch_indexer.ingest import Options, Progress, Summary

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Status:
    """What a library holds: numbers, the model that answers, the index, where the photos are.

    `index` says how a query is answered now; `disk_bytes` is the library's own size.
    """

    path: Path
    images: int
    files: int
    missing: int
    failed: int
    model: str | None
    dim: int | None
    index: dict[str, Any]
    disk_bytes: int
    roots: Sequence[RootRow]
    last_run: RunRow | None

    def to_dict(self) -> dict[str, Any]:
        """The fields for `json.dumps`."""
        return {
            "library": to_json(os.fsencode(self.path)),
            "images": self.images,
            "files": self.files,
            "missing": self.missing,
            "failed": self.failed,
            "model": self.model,
            "dim": self.dim,
            "index": self.index,
            "disk_bytes": self.disk_bytes,
            "roots": [
                {"path": to_json(root.path), "online": root.online, "last_scanned": root.last_scanned}
                for root in self.roots
            ],
            "last_run": None
            if self.last_run is None
            else {
                "started_at": self.last_run.started_at,
                "ended_at": self.last_run.ended_at,
                "status": self.last_run.status,
                "counts": dict(self.last_run.counts),
            },
        }


class Library:
    """A collection of indexed photos. Searching never waits for indexing, in this process or another.

    Open it once and keep it: what a search needs of the model is loaded by the first one and stays. Words
    alone need its text tower, which runs in NumPy; the whole of it is loaded for pictures, for indexing, and
    where a `device` is named.
    """

    def __init__(self, folder: LibraryFolder, model: LibraryModel) -> None:
        """Use `open` instead."""
        self._folder = folder
        self._model = model
        self._index = LibraryIndex(folder)
        self._overview: tuple[tuple[str, int], Overview] | None = None
        self._overview_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        path: PathLike | None = None,
        *,
        create: bool = False,
        device: str | None = None,
        encoder: Encoder | None = None,
        resident: bool = False,
    ) -> Library:
        """Open the library at `path` (None: `CLIPSEARCH_LIBRARY`, else the user's data folder).

        `create` makes one where there is none. `device` is a torch device; None picks the best. `encoder`
        is a model that is loaded already, to be used as long as the library is one of its making. A program
        that answers questions for long is `resident`: its first one takes a third of a second longer, each
        text is embedded in half the time, and the weights of a large text tower are kept twice. Raises
        LibraryNotFound, LibraryVersion, LibraryDamaged, StorageError.
        """
        place = default_library() if path is None else expanded(path)
        folder = LibraryFolder.create(place) if create else LibraryFolder.open(place)
        return cls(folder, LibraryModel(device, encoder, resident=resident))

    @property
    def path(self) -> Path:
        """Where the library is."""
        return self._folder.path

    @property
    def model(self) -> str | None:
        """Name of the model that the library was made with; None before anything was indexed."""
        space = self._folder.active_space()
        return None if space is None else space.model_name

    def __len__(self) -> int:
        """Return the number of photos that can be found."""
        return self._folder.count_images()

    def __bool__(self) -> bool:
        """Say that it is a library, be it empty."""
        return True

    @property
    def thumbs(self) -> Path:
        """Where thumbnails are kept; see `clipsearch.thumbnails`."""
        return self._folder.layout.thumbs

    @property
    def is_replaced(self) -> bool:
        """Whether another library, or none, lies at `path` by now (`clipsearch restore`)."""
        return self._folder.is_replaced

    @contextmanager
    def look(self) -> Iterator[View]:
        """Give one state of the library to look around in, valid within the block; see `clipsearch.browse`.

        Raises LibraryEmpty, LibraryDamaged, StorageError.
        """
        from clipsearch.browse import View

        with self._folder.snapshot() as photos:
            yield View(photos, self._index.searcher(photos), lambda: self._overview_of(photos))

    def _overview_of(self, photos: Snapshot) -> Overview:
        """Read once for each state of the library, by whoever asks first."""
        key = (photos.key, photos.generation)
        with self._overview_lock:
            if self._overview is None or self._overview[0] != key:
                self._overview = key, photos.catalog.overview(photos.space.id)
            return self._overview[1]

    def index(
        self,
        paths: Sequence[PathLike | bytes] = (),
        *,
        model: PathLike | Encoder | None = None,
        options: Options | None = None,
        report: Callable[[Progress], None] = lambda progress: None,
        memory: int | None = None,
    ) -> Summary:
        """Bring the library up to date with folders of photos; no paths means the folders it knows.

        `model` is a name, a folder or a loaded model; None keeps the library's own, and for a new one takes
        the best on this machine. With another model than the library's, everything is embedded anew beside
        the old vectors, which go on answering until that is done. A large library's index is kept up, within
        `memory` bytes (see `plan_index`). Raises UsageError, ModelNotFound,
        ModelInvalid, LibraryLocked, StorageError, LibraryDamaged.
        """
        from clipsearch_indexer.ingest import ingest

        encoder = self._indexing_model(model)
        roots = [path if isinstance(path, bytes) else os.fspath(path) for path in paths]
        summary = ingest(self._folder, encoder, roots, options, report)
        if not isinstance(encoder, Deferred):
            self._model.loaded = encoder  # replaced by `encoder` as long as another one answers
        if not summary.interrupted:
            self._keep_index(memory, report)
        return summary

    def search(
        self,
        query: str | Query | Image.Image | Path,
        k: int = 20,
        *,
        page: int = 1,
        where: Where | None = None,
    ) -> list[Hit]:
        """The photos that match best, best first.

        `query` is words, an image (PIL, or its path), a `Query`, or a text in the query language:
        ``horse + stripes - "tall grass"``, ``1.5:beach``, ``photo.jpg + "at night"``.
        Raises UsageError, ImageError, LibraryEmpty, ModelMismatch, ModelNotFound.
        """
        vector, kind, made_by = self._embed(query)
        return self.nearest(vector, k, kind=kind, made_by=made_by, page=page, where=where)

    def nearest(
        self,
        vector: npt.NDArray[np.float32],
        k: int = 20,
        *,
        kind: Kind,
        made_by: str,
        page: int = 1,
        where: Where | None = None,
    ) -> list[Hit]:
        """The photos nearest to a vector of one's own making, best first.

        `vector` is (dim,) float32, `kind` what it was made from ("text" if any words are in it), `made_by`
        the fingerprint of the model that made it. Raises UsageError, LibraryEmpty, and ModelMismatch where
        the library is of another model.
        """
        with self._folder.snapshot() as photos:
            if photos.space.fingerprint != made_by:
                raise ModelMismatch(
                    f"The library has just been switched to {photos.space.model_name}; search again."
                )
            return rank(photos, self._index.searcher(photos), vector, kind, k=k, page=page, where=where)

    def photo(self, image_id: int) -> Photo | None:
        """What is known of the photo with that id; None where there is none. Raises LibraryEmpty."""
        from clipsearch import browse

        with self._folder.snapshot() as photos:
            return browse.photo(photos, image_id)

    def similar(
        self, photo: PathLike | Hit | Photo, k: int = 20, *, page: int = 1, where: Where | None = None
    ) -> list[Hit]:
        """The photos most like one of the library (by hit or path), or like any other image file.

        The photo itself is left out. Raises ImageError, LibraryEmpty, UsageError.
        """
        with self._folder.snapshot() as photos:
            if not isinstance(photo, str | os.PathLike):  # its slot may be of another epoch or model by now
                path = os.fsencode(photo.path)
                slot = photos.catalog.search.slot_of_image(photos.space.id, photo.image_id)
            else:
                path = os.path.abspath(os.path.expanduser(os.fsencode(photo)))  # noqa: PTH100, PTH111 (bytes)
                slot = photos.catalog.search.slot_of_path(photos.space.id, path)
            if slot is not None:
                vector = np.asarray(photos.vectors[slot], np.float32)
                searcher = self._index.searcher(photos)
                return rank(photos, searcher, vector, "image", k=k, page=page, where=where, without=[slot])
        return self.search(Path(os.fsdecode(path)), k, page=page, where=where)

    def status(self) -> Status:
        """What the library holds; a folder that cannot be reached now is not online."""
        with self._folder.reading() as catalog:
            counts, space = catalog.counts.all(), catalog.active_space()
            runs = catalog.runs.last()
        return Status(
            path=self.path,
            images=counts.images,
            files=counts.files,
            missing=counts.missing,
            failed=counts.failed,
            model=None if space is None else space.model_name,
            dim=None if space is None else space.dim,
            index={"kind": "none"} if space is None else self._index.status(),
            disk_bytes=self._folder.disk_usage().total,
            roots=_as_they_are(counts.by_root),
            last_run=runs[0] if runs else None,
        )

    def failures(self, limit: int | None = None) -> list[FailureRow]:
        """The files that gave no image, with the reason, by path."""
        with self._folder.reading() as catalog:
            return catalog.failures.all(limit)

    def prune(self) -> PruneResult:
        """Forget photos whose files vanished from folders that can be reached; the only thing that deletes.

        Raises LibraryLocked, StorageError.
        """
        with self._folder.writer() as writer:
            return writer.prune()

    def check(self, *, deep: bool = False, report: Callable[[str, int, int], None] | None = None) -> Health:
        """Compare the library with what was written: the sums of its files and the index.

        `deep`: every row with its CRC-32, every rule of the catalog, and every photo, which is read again,
        with its hash; `report` is told a stage, done and total. Raises LibraryDamaged, StorageError.
        """
        return self._folder.check(deep=deep, photos=deep, report=report)

    def repair(
        self, *, reread: bool = False, report: Callable[[Progress], None] = lambda progress: None
    ) -> tuple[Repaired, Summary | None]:
        """Drop what is damaged and embed those photos again, as `index` would; returns what both did.

        `reread` reads every photo again. The summary is None where nothing wants to be read. Raises what
        `index` raises, and LibraryDamaged where the catalog contradicts itself.
        """
        repaired = self._folder.repair(reread=reread)
        wanted = repaired.dropped or repaired.rereads or repaired.lost_generations
        return repaired, self.index(report=report) if wanted else None

    @staticmethod
    def restore(source: PathLike, path: PathLike | None = None) -> Path | None:
        """Put the backup at `source` in the place of the library at `path`; returns where that lies now.

        Raises LibraryNotFound, LibraryLocked, StorageError, and LibraryDamaged for a backup that is; then
        nothing was changed.
        """
        place = default_library() if path is None else expanded(path)
        return LibraryFolder.restore(expanded(source), place)

    def compact(self) -> int:
        """Give back the room of pruned photos; returns the number of vectors freed."""
        with self._folder.reading() as catalog:
            spaces = catalog.spaces.all()
        had_index = bool(spaces) and self._index.status()["kind"] != "exact"
        with self._folder.writer() as writer:
            freed = sum(writer.compact(space.id) for space in spaces)
        if freed and had_index:  # it went with the old slots
            self.build_index()
        return freed

    def backup(self, target: PathLike) -> None:
        """Copy the library to a new folder while it is in use. Raises StorageError."""
        self._folder.backup(expanded(target))

    def _keep_index(self, memory: int | None, report: Callable[[Progress], None]) -> None:
        from clipsearch_indexer.ingest import Progress

        if self._folder.active_space() is not None:
            self._index.keep(
                self.encode_text,
                memory,
                lambda stage, done, total: report(Progress(f"index: {stage}", done, total)),
            )

    def plan_index(self, memory: int | None = None, *, growth: int = 1) -> IndexPlan:
        """Which index this library gets, or would get at `growth` times its size, and why.

        `memory` is the budget in bytes; None means that of the index there is, else a quarter of this
        machine's memory. Raises LibraryEmpty, UsageError.
        """
        return self._index.plan(memory, growth=growth)

    def build_index(
        self, report: Callable[[str, int, int], None] | None = None, *, memory: int | None = None
    ) -> dict[str, Any]:
        """Build the approximate index now, whatever the size of the library, and say what it measured.

        OPQ + IVF-PQ with exact re-ranking, within `memory` bytes (see `plan_index`), tuned on text and on
        image queries against exact search. Raises UsageError for a library too small to train one (256
        photos), LibraryLocked, StorageError.
        """
        self._index.build(self.encode_text, memory, report)
        return self._index.status()

    def eval_index(self, k: int = 10) -> dict[Kind, list[Point]]:
        """Recall and time of the index against exact search, for text and for image queries.

        Raises UsageError where there is no index, LibraryEmpty.
        """
        return self._index.curves(self.encode_text, k)

    def encode_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Texts as this library's model embeds them: float32 (n, dim), unit rows.

        Its text tower is all that is loaded, without torch. Raises LibraryEmpty, ModelNotFound, ModelInvalid,
        ModelMismatch.
        """
        return self._model.words(self._active_space()).encode_text(texts)

    @property
    def encoder(self) -> Encoder:
        """The library's model, loaded at first use, and again when the library has changed to another one.

        Raises LibraryEmpty, ModelNotFound, ModelInvalid, ModelMismatch.
        """
        return self._model.whole(self._active_space())

    def _active_space(self) -> SpaceRow:
        space = self._folder.active_space()
        if space is None:
            raise LibraryEmpty(f"The library at {self.path} is empty; `clipsearch index DIR` fills it.")
        return space

    def _embed(self, query: str | Query | Image.Image | Path) -> tuple[npt.NDArray[np.float32], Kind, str]:
        """The vector to search for, what it is made from, and the fingerprint of the model that made it."""
        space = self._active_space()
        if isinstance(query, str):
            query = Query.parse(query, is_image=is_image_path)
        if isinstance(query, Path):
            query = Query.image(str(query))
        if not isinstance(query, Query):
            return self._model.whole(space).encode_images([query])[0], "image", space.fingerprint
        in_words = all(term.kind == "text" for term in query.terms)
        model = self._model.words(space) if in_words else self._model.whole(space)
        vector, kind = compose(
            query, model.encode_text, lambda paths: _embed_files(self._model.whole(space), paths)
        )
        return vector, kind, space.fingerprint

    def close(self) -> None:
        """Close the library's files."""
        self._folder.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _indexing_model(self, model: PathLike | Encoder | None) -> Encoder | Deferred:
        """The model to index with."""
        if not (model is None or isinstance(model, str | os.PathLike)):
            return model
        name, space = None if model is None else os.fspath(model), self._folder.active_space()
        if space is not None:
            known = self._model.for_indexing(space, name)
            if known is not None:
                return known
        elif name is None and self._model.loaded is not None:
            return self._model.loaded
        from clipsearch.encoder import load_model

        return load_model(name, device=self._model.device)


def _embed_files(encoder: Encoder, paths: Sequence[str]) -> npt.NDArray[np.float32]:
    rows = []
    for path in paths:
        try:
            rows.append(encoder.encode_images([expanded(path)]))
        except ImageError as error:
            raise ImageError(f"{display(os.fsencode(path))} cannot be searched for: {error}.") from error
    return np.concatenate(rows)


__all__ = ["Hit", "Library", "Query", "Status", "Where", "is_image_path"]


def _as_they_are(known: Sequence[RootCounts]) -> list[RootRow]:
    """The roots, online as far as the last run has met their photos and they can be reached now."""
    there = reachable(entry.root.path for entry in known if entry.root.online)
    return [
        replace(entry.root, online=entry.root.online and (entry.root.path in there or not entry.files))
        for entry in known
    ]
