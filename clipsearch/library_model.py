"""The model of a library: which one it is, where it is, and how much of it a question needs.

Words need only the text tower, which runs without torch (`clipsearch.text_encoder`); pictures need it all.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from clipsearch.errors import ModelInvalid, ModelMismatch, ModelNotFound
from clipsearch.store import SpaceRow

if TYPE_CHECKING:
    from clipsearch.encoder import Encoder
    from clipsearch.text_encoder import TextEncoder


class LibraryModel:
    """What is loaded of the model that made a library; `device` is a torch device, None the best there is."""

    def __init__(self, device: str | None, encoder: Encoder | None) -> None:
        self.device = device
        self.loaded = encoder
        """The whole model, as soon as there is one."""
        self._words: TextEncoder | None = None

    def whole(self, space: SpaceRow) -> Encoder:
        """The model that made `space`, loaded at first use and again when the library has changed to another.

        Raises ModelNotFound, ModelInvalid, ModelMismatch.
        """
        if self.loaded is None or self.loaded.fingerprint != space.fingerprint:
            self.loaded = self._load(space)
        return self.loaded

    def words(self, space: SpaceRow) -> Encoder | TextEncoder:
        """What embeds texts: the model where it is loaded or a device was named, else its text tower alone.

        Raises as `whole`.
        """
        for loaded in (self.loaded, self._words):
            if loaded is not None and loaded.fingerprint == space.fingerprint:
                return loaded
        self._words = self._load_words(space) if self.device is None else None
        return self._words or self.whole(space)

    def _load(self, space: SpaceRow) -> Encoder:
        """The model that made a space: from where it was then, else by its name."""
        from clipsearch.encoder import load_model

        mismatch: Encoder | None = None
        for name in (space.model_source, space.model_name):
            try:
                loaded = load_model(name, device=self.device)
            except (ModelNotFound, ModelInvalid):
                continue
            if loaded.fingerprint == space.fingerprint:
                return loaded
            mismatch = loaded
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
                found = load_text_encoder(name, space.fingerprint)
                if found is not None:
                    return found
        return None
