"""Which photos may be found at all: by folder, date, place, camera, format, words and similarity."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from clipsearch.errors import UsageError
from clipsearch.store.rows import SlotFilter

MOST_FOLDERS = 200
"""SQLite refuses a condition of a thousand parts."""

_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:[T ](\d{2}:\d{2}(?::\d{2})?))?)?)?", re.ASCII)


@dataclass(frozen=True)
class Where:
    """A filter. Every field narrows; `None` (or empty) says nothing.

    Attributes:
        under: absolute folders or files as bytes (`os.fsencode`), any of which will do.
        after: the first moment that counts: a date from its start. Photos without a date fall out.
        before: the first moment that counts no longer, so `after=2024, before=2025` is the year 2024. Both
            are compared with the time on the camera's clock, without a zone.
        min_score: lowest cosine, −1 to 1.
        has_gps: with or without a place.
        box: south, west, north, east in degrees; west > east crosses the date line.
        camera: part of the camera's name.
        formats: names of file formats, as JPEG.
        text: part of a caption, keyword or path.

    Raises:
        UsageError: a field that nothing can fulfil: a period that ends before it begins, a box outside the
            globe, a score that is no cosine, a time with a zone, more than `MOST_FOLDERS` folders.
    """

    under: tuple[bytes, ...] = ()
    after: date | datetime | None = None
    before: date | datetime | None = None
    min_score: float | None = None
    has_gps: bool | None = None
    box: tuple[float, float, float, float] | None = None
    camera: str | None = None
    formats: tuple[str, ...] = ()
    text: str | None = None

    def __post_init__(self) -> None:
        if len(self.under) > MOST_FOLDERS:
            raise UsageError(f"a search is in at most {MOST_FOLDERS} folders, not {len(self.under):,}")
        for path in self.under:
            if not path.startswith(b"/"):
                raise UsageError(f"a folder to search in must be an absolute path, not {path!r}")
        _check_period(self.after, self.before)
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise UsageError(f"a score is a cosine between -1 and 1, so it cannot reach {self.min_score}")
        if self.box is not None:
            _check_box(self.box)

    def slot_filter(self) -> SlotFilter:
        """All of it but `min_score`, as the catalog understands it."""
        return SlotFilter(
            under=self.under,
            after=None if self.after is None else self.after.isoformat(),
            before=None if self.before is None else self.before.isoformat(),
            has_gps=self.has_gps,
            box=self.box,
            camera=self.camera,
            formats=self.formats,
            text=self.text,
        )


def parse_date(text: str) -> date | datetime:
    """Read `2024`, `2024-05`, `2024-05-01` or `2024-05-01T18:30[:00]`: the first moment of what it names.

    Used for `after` it includes the year, month or day named; used for `before` it excludes it.

    Raises:
        UsageError: anything else.
    """
    found = _DATE.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        year, month, day, clock = found.groups()
        start = date(int(year), int(month or 1), int(day or 1))
        if clock is None:
            return start
        return datetime.fromisoformat(f"{start.isoformat()}T{clock}")
    except ValueError:
        raise UsageError(f"{text!r} is no date; write 2024, 2024-05 or 2024-05-01") from None


def _check_period(after: date | datetime | None, before: date | datetime | None) -> None:
    for moment in (after, before):
        if isinstance(moment, datetime) and moment.tzinfo is not None:
            raise UsageError("photos are dated by their camera's clock: give a time without a zone")
    if after is not None and before is not None and _start(before) - _start(after) <= timedelta(0):
        raise UsageError(f"no photo was taken after {after.isoformat()} and before {before.isoformat()}")


def _start(moment: date | datetime) -> datetime:
    if isinstance(moment, datetime):
        return moment
    return datetime(moment.year, moment.month, moment.day)


def _check_box(box: tuple[float, float, float, float]) -> None:
    south, west, north, east = box
    if not all(math.isfinite(edge) for edge in box) or not -90 <= south <= north <= 90:
        raise UsageError(f"a box is south, west, north, east in degrees with south below north, not {box}")
    if not (-180 <= west <= 180 and -180 <= east <= 180):
        raise UsageError(f"longitudes lie between -180 and 180 degrees, not at {west} and {east}")
