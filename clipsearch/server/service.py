"""One library, kept open for all clients: its model, its index, its decoders."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from clipsearch.api import Library
from clipsearch.browse import Photo
from clipsearch.decode_lane import DecodeLane
from clipsearch.errors import LibraryEmpty, ModelMismatch
from clipsearch.paths import to_json
from clipsearch.preprocess import Preprocess
from clipsearch.search import Hit
from clipsearch.search.compose import compose
from clipsearch.server.questions import Page, Question
from clipsearch.thumbnails import Thumbnails

if TYPE_CHECKING:
    from clipsearch.encoder import Encoder

Size = Literal["grid", "preview"]


class Service:
    """Answers questions from any number of threads; close it.

    Searches take turns: each has all processors for its few milliseconds, and memory does not grow with the
    number of clients. Pictures are decoded, and the whole model is loaded, while others search.
    """

    def __init__(self, path: Path) -> None:
        """Open the library and load its text tower. Raises what `Library.open` and `encode_text` raise."""
        self._path = path
        self._turn = threading.Lock()
        self._loading = threading.Lock()
        self._opening = threading.Lock()
        self._opened: tuple[Library, Thumbnails] | None = None
        self._lanes: dict[Preprocess, DecodeLane] = {}
        try:
            library = self.library
            library.status()  # what it loads is what a search needs
            library.encode_text(["a photo"])
        except LibraryEmpty:
            pass  # it may be filled while we run

    @property
    def library(self) -> Library:
        """The library; the one that lies at the path now, if another was put there (`clipsearch restore`)."""
        return self._current()[0]

    def search(self, question: Question) -> list[Hit]:
        """The photos that match best. Raises what `Library.search` raises."""
        for last in (False, True):
            try:
                return self._search(question)
            except ModelMismatch:  # the library has just been switched to another model
                if last:
                    raise
        raise AssertionError("unreachable")

    def similar(self, photo: Photo, page: Page) -> list[Hit]:
        """The photos most like one of the library, without it. Raises LibraryEmpty, UsageError."""
        with self._turn:
            return self.library.similar(photo, page.n, page=page.page, where=page.where)

    def photo(self, image_id: int) -> Photo | None:
        """What is known of a photo; None where there is none of that id. Raises LibraryEmpty."""
        return self.library.photo(image_id)

    def thumbnail(self, photo: Photo, size: Size) -> bytes:
        """A photo as a small WebP. Raises ImageError."""
        return self._current()[1].get(photo.content_hash, photo.paths, size)

    def status(self) -> dict[str, Any]:
        """What ``clipsearch status --json`` tells."""
        return self.library.status().to_dict()

    def close(self) -> None:
        """Close the library and end the decoders."""
        for lane in self._lanes.values():
            lane.close()
        if self._opened is not None:
            library, thumbnails = self._opened
            thumbnails.close()
            library.close()

    def _current(self) -> tuple[Library, Thumbnails]:
        with self._opening:
            if self._opened is None or self._opened[0].is_replaced:
                library = Library.open(self._path, resident=True)
                # The one before is left to whoever still reads it.
                self._opened = library, Thumbnails(library.thumbs)
            return self._opened

    def _search(self, question: Question) -> list[Hit]:
        library, page = self.library, question.page
        if not question.pictures:
            with self._turn:
                return library.search(question.query, page.n, page=page.page, where=page.where)
        encoder = self._encoder(library)
        decoded = [self._pixels(encoder.preprocess, data) for data in question.pictures]

        def embed(places: Sequence[str]) -> npt.NDArray[np.float32]:
            return np.concatenate([encoder.encode_pixels(decoded[int(place)]) for place in places])

        with self._turn:
            vector, kind = compose(question.query, encoder.encode_text, embed)
            return library.nearest(
                vector, page.n, kind=kind, made_by=encoder.fingerprint, page=page.page, where=page.where
            )

    def _encoder(self, library: Library) -> Encoder:
        with self._loading:  # two clients must not load it twice
            return library.encoder

    def _pixels(self, preprocess: Preprocess, data: bytes) -> npt.NDArray[np.uint8]:
        """The pixels of an uploaded picture, decoded apart: (1, size, size, 3). Raises ImageError."""
        with self._loading:
            if preprocess not in self._lanes:  # decoded whole, as `Encoder.encode_images` does
                self._lanes[preprocess] = DecodeLane(1, preprocess.pixels, None)
            lane = self._lanes[preprocess]
        return lane.decode_bytes(data).pixels[None]


def photo_dict(photo: Photo) -> dict[str, Any]:
    """A photo for JSON; paths as `paths.to_json` writes them."""
    return {
        "id": photo.image_id,
        "path": to_json(photo.path),
        "paths": [to_json(path) for path in photo.paths],
        "content_hash": photo.content_hash.hex(),
        "size": photo.size,
        "width": photo.width,
        "height": photo.height,
        "format": photo.format,
        "taken_at": photo.taken_at,
        "latitude": photo.latitude,
        "longitude": photo.longitude,
        "camera": photo.camera,
        "lens": photo.lens,
        "caption": photo.caption,
        "keywords": list(photo.keywords),
    }


def hit_dict(hit: Hit) -> dict[str, Any]:
    """A hit for JSON as ``query --json`` has it, with every digit of its score."""
    return {**hit.to_dict(), "score": hit.score}
