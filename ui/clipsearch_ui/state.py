"""Everything the app remembers: open libraries, their models and thumbnails, runs of the indexer.

One `Shelf` is shared by all visitors (`st.cache_resource`), so that a library and its model are loaded once.
What belongs to a visitor is in the page's address (the query, filters, page and open photo) and in
`st.session_state`.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import streamlit as st
from PIL import Image, ImageDraw

from clipsearch.api import Library
from clipsearch.browse import Photo
from clipsearch.config import default_library, expanded
from clipsearch.errors import ClipsearchError, ImageError, LibraryEmpty, UsageError
from clipsearch.thumbnails import Decoders, Kind, Thumbnails, webp
from clipsearch_ui import address
from clipsearch_ui.indexing import IndexRun
from clipsearch_ui.searches import Searches

UPLOAD_LIMIT = 20 << 20
Floats = npt.NDArray[np.float32]
T = TypeVar("T")


class Recent(OrderedDict[Hashable, T]):
    """A dictionary that keeps the `size` entries used last; safe to use from threads."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._mutex = threading.Lock()

    def remember(self, key: Hashable, value: T) -> T:
        """Put an entry in, and give it back."""
        with self._mutex:
            self[key] = value
            self.move_to_end(key)
            while len(self) > self._size:
                self.popitem(last=False)
        return value

    def recall(self, key: Hashable) -> T | None:
        """The entry, now the last used; None where it is gone."""
        with self._mutex:
            if key not in self:
                return None
            self.move_to_end(key)
            return self[key]

    def get_or(self, key: Hashable, make: Callable[[], T]) -> T:
        """The entry, made where it is missing."""
        found = self.recall(key)
        return self.remember(key, make()) if found is None else found


class Opened:
    """A library in use: its model, thumbnails, answers and indexer."""

    def __init__(self, key: str, library: Library, decoders: Decoders) -> None:
        self.key = key
        self.library = library
        self.thumbnails = Thumbnails(library.thumbs, decoders)
        self.searches = Searches(library.path)
        self.run: IndexRun | None = None
        self.answers: Recent[object] = Recent(24)
        self._seen: Recent[tuple[bytes, tuple[bytes, ...]]] = Recent(20_000)
        self._model_lock = threading.Lock()
        self._warmed = False

    def encode_text(self, texts: list[str]) -> Floats:
        """Texts to unit vectors. Raises ModelNotFound, ModelMismatch, ModelInvalid."""
        with self._model_lock:  # two visitors must not load it twice
            return self.library.encode_text(texts)

    def encode_image(self, image: Image.Image) -> Floats:
        """A picture to a unit vector (dim,); loads the whole model. Raises as `encode_text`."""
        with self._model_lock:
            encoder = self.library.encoder
        vector: Floats = encoder.encode_images([image])[0]
        return vector

    def warm(self) -> None:
        """Load the model in the background, once there is a page to look at, before it is searched in."""
        if not self._warmed:
            self._warmed = True
            threading.Thread(target=self._warm, name="warm-up", daemon=True).start()

    def _warm(self) -> None:
        try:
            self.encode_text(["a photo"])
        except ClipsearchError:  # the search that needs it will say it
            logging.getLogger(__name__).info("no model to warm up", exc_info=True)

    def address(self, photo: Photo, kind: Kind) -> str:
        """Where the browser gets a photo's thumbnail: by id, with a version that changes with the content."""
        self._seen.remember(photo.image_id, (photo.content_hash, photo.paths))
        return self._address(photo.image_id, photo.content_hash, kind)

    def _address(self, image_id: int, content_hash: bytes, kind: Kind) -> str:
        return f"/photos/{self.key}/{image_id}/{kind}.webp?v={content_hash.hex()[:8]}"

    def picture_address(self, image_id: int) -> str | None:
        """Where the browser gets the thumbnail of the photo with that id; None where there is none."""
        found = self.content(image_id)
        return None if found is None else self._address(image_id, found[0], "grid")

    def download(self, photo: Photo) -> str:
        """Where the browser gets the photo's file."""
        return f"/photos/{self.key}/{photo.image_id}/file"

    def content(self, image_id: int) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Hash and paths of a photo; None where the library has none of that id."""
        found = self._seen.recall(image_id)
        if found is None:
            with self.library.look() as view:
                photo = view.photo(image_id)
            if photo is None:
                return None
            found = self._seen.remember(image_id, (photo.content_hash, photo.paths))
        return found

    def start_index(self, folders: list[Path], model: str | None = None) -> IndexRun:
        """Start the indexer in the background, unless it runs already."""
        if self.run is None or not self.run.running:
            self.run = IndexRun(self.library, folders, model)
            self.run.start()
        return self.run


def _key(path: Path) -> str:
    return hashlib.blake2b(bytes(expanded(path).absolute()), digest_size=6).hexdigest()


class Shelf:
    """The libraries in use, and the pictures that visitors search with. One for all visitors."""

    def __init__(self) -> None:
        self.decoders = Decoders()
        self._opened: dict[str, Opened] = {}
        self._pictures: Recent[tuple[Image.Image, bytes]] = Recent(200)
        self._lock = threading.Lock()

    def open(self, path: Path, *, create: bool = False) -> Opened:
        """The library at `path`. Raises LibraryNotFound and the other errors of `Library.open`."""
        place = expanded(path).absolute()
        key = _key(place)
        with self._lock:
            if key not in self._opened or self._opened[key].library.is_replaced:
                # The one before, that `restore` put aside, is left to whoever still reads it.
                library = Library.open(place, create=create, resident=True)
                self._opened[key] = Opened(key, library, self.decoders)
            return self._opened[key]

    def opened(self, key: str) -> Opened | None:
        """The open library of that key."""
        return self._opened.get(key)

    def at(self, path: Path) -> Opened | None:
        """The library at `path`, if it is open."""
        return self._opened.get(_key(path))

    def paths(self) -> list[Path]:
        """Where the open libraries are."""
        return [opened.library.path for opened in self._opened.values()]

    def take_picture(self, data: bytes) -> str:
        """Decode an uploaded picture in the sandbox and keep it; returns the term of a query that names it.

        Raises ImageError.
        """
        if len(data) > UPLOAD_LIMIT:
            raise ImageError(f"too large (the limit is {UPLOAD_LIMIT >> 20} MB)")
        image = self.decoders.decode_bytes(data, "grid")
        name = f"picture:{hashlib.blake2b(data, digest_size=8).hexdigest()}"
        self._pictures.remember(name, (image, webp(image)))
        return name

    def picture(self, name: str) -> bytes | None:
        """The WebP of an uploaded picture; None where it is no longer kept."""
        found = self._pictures.recall(name)
        return None if found is None else found[1]

    def picture_vector(self, opened: Opened, name: str) -> Floats:
        """The vector of an uploaded picture. Raises UsageError where it is no longer kept."""
        found = self._pictures.recall(name)
        if found is None:
            raise UsageError("That picture is no longer kept; add it again.")
        return opened.encode_image(found[0])


@st.cache_resource(show_spinner=False)
def shelf() -> Shelf:
    """The one shelf of this server."""
    return Shelf()


@st.cache_resource(show_spinner=False)
def icon() -> Image.Image:
    """The page's icon: a lens on a picture."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((2, 2, 61, 61), radius=14, fill="#0b6bcb")
    draw.ellipse((14, 14, 42, 42), outline="white", width=6)
    draw.line((39, 39, 50, 50), fill="white", width=7)
    return image


def library_path() -> Path:
    """Which library this visitor looks at."""
    return Path(st.session_state.get("library_path") or default_library())


def current() -> Opened:
    """The library that this visitor looks at. Raises what `Library.open` raises."""
    return shelf().open(library_path())


def switch_library(path: Path) -> None:
    """Look at another library from now on."""
    st.session_state["library_path"] = str(path)


def is_empty(opened: Opened) -> bool:
    """Whether there is nothing to search yet."""
    try:
        with opened.library.look() as view:
            return not len(view.slots)
    except LibraryEmpty:
        return True


def ask(words: str) -> None:
    """Search for this from now on, on the first page of results; for callbacks."""
    st.session_state["asked"] = words
    st.session_state["page"] = 1
    close_photo()


def words() -> str:
    """What is searched for: the words and the pictures."""
    asked = st.session_state.get("asked")
    return address.get("q") if asked is None else str(asked)


def by_date() -> bool:
    """Whether the likely matches are wanted in order of date, by the address."""
    return address.get("sort") == "Newest"


def order(*, by_date: bool) -> None:
    """Put the results in order of date, or of similarity; for callbacks of the search page."""
    address.put("sort", "Newest" if by_date else "")


def settle_words() -> str:
    """`words`, which the address holds from now on; for the search page."""
    text = words()
    if st.session_state.pop("asked", None) is not None:
        address.put("q", text)
    return text


def open_photo(image_id: int) -> None:
    """Show a photo large: its id goes into the address."""
    address.put("photo", str(image_id))


def close_photo() -> None:
    """Go back to the results."""
    address.put("photo", "")


def photo_id() -> int | None:
    """The photo that is open, by the address."""
    text = address.get("photo")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def notice(sentence: str) -> None:
    """Say something once, at the top of the page that is shown next."""
    st.session_state["notice"] = sentence


def show_notice() -> None:
    """Say what `notice` was given."""
    sentence = st.session_state.pop("notice", None)
    if sentence:
        st.warning(plain(sentence), icon=":material/info:")


def plain(text: str) -> str:
    """A text that Markdown leaves as it is: names of files and EXIF are never mark-up."""
    escaped = "".join("\\" + char if char in "\\`*_{}[]()<>#+-.!|~$:&" else char for char in text)
    return escaped.replace("\n", "  \n")
