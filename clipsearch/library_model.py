"""The model of a library: which one it is, where it is, and how much of it a question needs.

Words need only the text tower, which runs without torch (`clipsearch.text_encoder`); pictures need it all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clipsearch.devices import may_have_gpu
from clipsearch.errors import ModelInvalid, ModelMismatch, ModelNotFound
from clipsearch.store import SpaceRow

if TYPE_CHECKING:
    from clipsearch.encoder import Encoder
    from clipsearch.preprocess import Preprocess
    from clipsearch.text_encoder import TextEncoder


class Deferred:
    """A model that is there, and is loaded when the first pictures want to be embedded.

    An indexing run that finds nothing new needs to know which model it would have used, and no more.
    """

    def __init__(self, space: SpaceRow, preprocess: Preprocess, load: Callable[[], Encoder]) -> None:
        self.name = space.model_name
        self.source = space.model_source
        self.fingerprint = space.fingerprint
        self.dim = space.dim
        self.preprocess = preprocess
        self._load = load

    @property
    def device(self) -> str:
        """The torch device that encodes; loads the model where that may be a GPU."""
        return self._load().device if may_have_gpu() else "cpu"

    def encode_pixels(self, pixels_NYXC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (n, size, size, 3) -> float32 (n, dim), unit rows; raises what loading the model raises."""
        return self._load().encode_pixels(pixels_NYXC)


class LibraryModel:
    """What is loaded of the model that made a library; `device` is a torch device, None the best there is.

    `resident`: what embeds texts is made ready for many of them, one after another.
    """

    def __init__(self, device: str | None, encoder: Encoder | None, *, resident: bool = False) -> None:
        self.device = device
        self.loaded = encoder
        """The whole model, as soon as there is one."""
        self._given = encoder
        self._resident = resident
        self._words: TextEncoder | None = None
        self._words_of = ""  # the fingerprint that `_words` was looked for with

    def whole(self, space: SpaceRow) -> Encoder:
        """The model that made `space`, loaded at first use and again when the library has changed to another.

        Raises ModelNotFound, ModelInvalid, ModelMismatch.
        """
        if self.loaded is None or self.loaded.fingerprint != space.fingerprint:
            self.loaded = self._load(space)
        return self.loaded

    def words(self, space: SpaceRow) -> Encoder | TextEncoder:
        """What embeds texts: the text tower alone, or the whole model if it was given or a device was named.

        Not the whole model because it happens to be loaded: the last digits of a text's vector would then
        depend on what was asked before. Raises as `whole`.
        """
        if self._given is not None and self._given.fingerprint == space.fingerprint:
            return self._given
        if self._words_of != space.fingerprint:
            words = self._load_words(space) if self.device is None else None
            self._words_of, self._words = space.fingerprint, words
        return self._words or self.whole(space)

    def for_indexing(self, space: SpaceRow, name: str | None = None) -> Encoder | Deferred | None:
        """What embeds the pictures of `space`; None if the model called `name` did not make it.

        Without a name it is the library's own, and raises as `whole`.
        """
        if self.loaded is None and self.device is None:
            found = self._defer(space, (space.model_source, space.model_name) if name is None else (name,))
            if found is not None:
                return found
        return self.whole(space) if name is None else None

    def _defer(self, space: SpaceRow, names: Sequence[str]) -> Deferred | None:
        from clipsearch.mapped_model import map_model
        from clipsearch.zoo import resolve

        for name in names:
            with suppress(ModelNotFound, ModelInvalid):  # loading the whole model says what is wrong
                model = map_model(resolve(name).folder)
                if model is not None and model.fingerprint == space.fingerprint:
                    return Deferred(space, model.preprocess, lambda: self.whole(space))
        return None

    def _load(self, space: SpaceRow) -> Encoder:
        """The model that made a space: from where it was then, else by its name."""
        from clipsearch.encoder import load_model

        mismatch: Encoder | None = None
        broken: ModelInvalid | None = None
        for name in (space.model_source, space.model_name):
            try:
                loaded = load_model(name, device=self.device)
            except ModelNotFound:
                continue
            except ModelInvalid as error:
                broken = broken or error
                continue
            if loaded.fingerprint == space.fingerprint:
                return loaded
            mismatch = loaded
        if mismatch is None and broken is not None:
            raise ModelInvalid(
                f"The library was made with the model {space.model_name}. {broken}"
            ) from broken
        if mismatch is None:
            raise ModelNotFound(
                f"The library was made with the model {space.model_name}, which is no longer on this machine "
                f"(it was at {space.model_source}). Put it back, or run `clipsearch index --model NAME`."
            )
        raise ModelMismatch(
            f"The library was made with {space.model_name} ({space.fingerprint}), and the {mismatch.name} on "
            f"this machine is another ({mismatch.fingerprint}). `clipsearch index --model {mismatch.name}` "
            "embeds the photos anew."
        )

    def _load_words(self, space: SpaceRow) -> TextEncoder | None:
        """The text tower of the model that made a space; None where only the whole model can answer."""
        from clipsearch.text_encoder import load_text_encoder

        for name in (space.model_source, space.model_name):
            with suppress(ModelNotFound, ModelInvalid):  # loading the whole model says what is wrong
                found = load_text_encoder(name, space.fingerprint, resident=self._resident)
                if found is not None:
                    return found
        return None
