"""A photo that was found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from clipsearch import paths


@dataclass(frozen=True)
class Hit:
    """A photo that was found.

    Attributes:
        path: absolute; bytes that are not UTF-8 are lone surrogates (`os.fsencode` gives them back).
        score: cosine of query and photo, −1 to 1.
        image_id: of the content in the catalog.
        slot: of its vector.
        width: upright, in pixels.
        height: upright, in pixels.
        format: as "JPEG".
        taken_at: local ISO 8601 time on the camera's clock.
        latitude: degrees north.
        longitude: degrees east.
        camera: make and model.
        lens: model.
        caption: its description.
        keywords: its keywords.
        copies: other paths with the very same content.
    """

    path: str
    score: float
    image_id: int
    slot: int
    width: int
    height: int
    format: str
    taken_at: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    camera: str | None = None
    lens: str | None = None
    caption: str | None = None
    keywords: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields for `json.dumps`; paths are written as `paths.to_json` does, scores to six digits."""
        fields = asdict(self)
        fields["path"] = paths.to_json(os.fsencode(self.path))
        fields["copies"] = [paths.to_json(os.fsencode(copy)) for copy in self.copies]
        fields["keywords"] = list(self.keywords)
        fields["score"] = round(self.score, 6)
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Hit:
        """The hit that `to_dict` wrote, with the score that stands there; TypeError, KeyError for another."""
        path = os.fsdecode(paths.from_json(fields["path"]))
        copies = tuple(os.fsdecode(paths.from_json(copy)) for copy in fields["copies"])
        return cls(**{**fields, "path": path, "copies": copies, "keywords": tuple(fields["keywords"])})
