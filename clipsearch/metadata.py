"""What a photo says about itself: EXIF, IPTC and XMP, read defensively.

Every field is untrusted text or a number written by some camera or editor. A field that is broken,
impossible or hostile becomes ``None``; it never fails the image and never raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar
from xml.etree import ElementTree

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

T = TypeVar("T")
U = TypeVar("U")
_Tags = dict[int, Any]
_Iptc = dict[tuple[int, int], Any]

NAME_LIMIT = 100  # characters of a camera, a lens or one keyword
CAPTION_LIMIT = 2000  # characters of a caption
KEYWORDS_LIMIT = 100  # keywords of one photo
XMP_NODES_LIMIT = 10  # elements of one name in a packet; real ones have one
XMP_ITEMS_LIMIT = 1000  # entries of each
XMP_LIMIT = 1 << 20  # bytes of an XMP packet; real ones stay below 100 KB

# Cameras write these into ImageDescription; they describe nothing and would drown real captions.
_STOCK_CAPTION = re.compile(
    r"(\W*|.*\bdigital ?(still ?)?camera|sony dsc|dcf 1\.0|samsung|default|untitled|screenshot|dcim.*)",
    re.IGNORECASE,
)
_DATE = re.compile(r"(\d{4})[:/.-](\d\d)[:/.-](\d\d)[ T](\d\d):(\d\d)(?::(\d\d))?")
_OFFSET = re.compile(r"([+-])(\d\d):?([0-5]\d)")
# Invisible marks that reorder the text around them: "\u202egpj.exe" displays as "exe.jpg".
_BIDI = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")

# "CASIO COMPUTER CO.,LTD." is "CASIO" to everybody.
_FIRM = re.compile(
    r"[ ,]+(corporation|corp|company|(computer|electric|optical|photo film)?[ ,]*co|inc|ltd)\b.*", re.I
)
_NO_TAGS: _Tags = {}

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_AUX_LENS = "{http://ns.adobe.com/exif/1.0/aux/}Lens"


@dataclass(frozen=True)
class PhotoMetadata:
    """What is known about a photo beside its pixels; a field that is absent or broken is None."""

    width: int
    """Pixels of the stored image, upright."""
    height: int
    format: str
    """Pillow's name of the format: "JPEG", "PNG", "HEIF", …"""
    taken_at: str | None = None
    """Local time of the exposure, ``YYYY-MM-DDTHH:MM:SS``."""
    taken_offset: int | None = None
    """Minutes that the local time is ahead of UTC."""
    latitude: float | None = None
    """Degrees, north positive; given together with the longitude or not at all."""
    longitude: float | None = None
    """Degrees, east positive."""
    camera: str | None = None
    lens: str | None = None
    caption: str | None = None
    keywords: tuple[str, ...] = ()


def read_metadata(image: ImageFile.ImageFile, size: tuple[int, int], file_format: str) -> PhotoMetadata:
    """Read what `image` says about itself; `size` is its upright (width, height). Never raises."""
    exif = _attempt(lambda: dict(image.getexif()), _NO_TAGS)
    photo = _attempt(lambda: image.getexif().get_ifd(ExifTags.IFD.Exif), _NO_TAGS)
    gps = _attempt(lambda: image.getexif().get_ifd(ExifTags.IFD.GPSInfo), _NO_TAGS)
    iptc: _Iptc = _attempt(lambda: _read_iptc(image), {})
    xmp = _attempt(lambda: _parse_xmp(image.info), None)
    camera = _attempt(lambda: _camera(exif), None)
    taken_at, offset = _attempt(lambda: _taken(exif, photo, camera), (None, None))
    latitude, longitude = _attempt(lambda: _position(gps), (None, None))
    return PhotoMetadata(
        width=size[0],
        height=size[1],
        format=file_format,
        taken_at=taken_at,
        taken_offset=offset,
        latitude=latitude,
        longitude=longitude,
        camera=camera,
        lens=_attempt(lambda: _lens(photo, xmp), None),
        caption=_attempt(lambda: _caption(exif, iptc, xmp), None),
        keywords=_attempt(lambda: _keywords(iptc, xmp), ()),
    )


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8 of `image`; 1 where there is none or it is broken."""
    value = _attempt(lambda: image.getexif().get(ExifTags.Base.Orientation), 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def clean(value: object, limit: int) -> str | None:
    """One line of at most `limit` characters, without control characters; None if nothing is left."""
    if isinstance(value, bytes):
        text = _decode(value)
    elif isinstance(value, str):
        # Pillow reads EXIF text as Latin-1, as the standard's ASCII; most writers put UTF-8 there.
        try:
            text = value.encode("latin-1").decode("utf-8")
        except (UnicodeEncodeError, UnicodeDecodeError):
            text = value
    else:
        return None
    text = text.split("\0", 1)[0]
    text = _UNSAFE.sub(" ", _BIDI.sub("", text))
    return " ".join(text.split())[:limit].rstrip() or None


def _read_iptc(image: ImageFile.ImageFile) -> _Iptc:
    return dict(IptcImagePlugin.getiptcinfo(image) or {})


def _attempt(read: Callable[[], T], otherwise: U) -> T | U:
    """`read()`, or `otherwise`: the parsers below raise anything at all on hostile input."""
    try:
        return read()
    except Exception:
        return otherwise


def _decode(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _camera(exif: _Tags) -> str | None:
    make = clean(exif.get(ExifTags.Base.Make), NAME_LIMIT)
    model = clean(exif.get(ExifTags.Base.Model), NAME_LIMIT)
    if make is None or model is None:
        return model or make
    make = _FIRM.sub("", make)
    # "Canon" + "Canon EOS 40D", "EASTMAN KODAK" + "KODAK DC3400": the model names its maker already.
    if model.split()[0].casefold() in make.casefold().split() or model.casefold().startswith(make.casefold()):
        return model
    return f"{make} {model}"[:NAME_LIMIT]


def _lens(photo: _Tags, xmp: ElementTree.Element | None) -> str | None:
    lens = clean(photo.get(ExifTags.Base.LensModel), NAME_LIMIT)
    if lens is None and xmp is not None:
        found = (clean(node.get(_AUX_LENS), NAME_LIMIT) for node in xmp.iter(f"{_RDF}Description"))
        lens = next((name for name in found if name), None)
    return None if lens is None or set(lens) <= set("-0 .") else lens


def _taken(exif: _Tags, photo: _Tags, camera: str | None) -> tuple[str | None, int | None]:
    """Local time and offset of the exposure.

    DateTime (0x0132) is the time of the last change. It counts only where a camera wrote the file and
    gave nothing better, as early phones do; in a scan or a screenshot it would be invented.
    """
    candidates = [
        (photo.get(ExifTags.Base.DateTimeOriginal), photo.get(ExifTags.Base.OffsetTimeOriginal)),
        (photo.get(ExifTags.Base.DateTimeDigitized), photo.get(ExifTags.Base.OffsetTimeDigitized)),
    ]
    if camera is not None:
        candidates.append((exif.get(ExifTags.Base.DateTime), photo.get(ExifTags.Base.OffsetTime)))
    for date, offset in candidates:
        taken = parse_date(date)
        if taken is not None:
            return taken, parse_offset(offset)
    return None, None


def parse_date(value: object) -> str | None:
    """ISO-8601 of an EXIF date, to the second; None for a date that cannot be."""
    match = _DATE.match(clean(value, 40) or "")
    if match is None:
        return None
    try:
        taken = datetime(*(int(part or 0) for part in match.groups()))  # type: ignore[arg-type]
    except ValueError:
        return None
    # No photograph is older than photography; 0001-01-01 and the like are empty clocks.
    return taken.isoformat(timespec="seconds") if 1826 <= taken.year <= 2200 else None


def parse_offset(value: object) -> int | None:
    """Minutes ahead of UTC of an EXIF offset such as "+02:00" or "Z"; None if it cannot be."""
    text = clean(value, 10) or ""
    if text == "Z":
        return 0
    match = _OFFSET.fullmatch(text)
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    if minutes > 14 * 60:  # Kiribati is the farthest
        return None
    return -minutes if match[1] == "-" else minutes


def _position(gps: _Tags) -> tuple[float | None, float | None]:
    latitude = _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), "NS", 90)
    longitude = _degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), "EW", 180)
    # Receivers without a fix write 0°, 0°: a place in the Atlantic where nobody takes photos.
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):
        return None, None
    return latitude, longitude


def _degrees(value: Any, ref: object, signs: str, limit: float) -> float | None:
    sign = clean(ref, 1)
    if sign is None or sign not in signs or not isinstance(value, tuple):
        return None
    parts = [float(part) for part in value[:3]]
    if not parts or not all(math.isfinite(part) and part >= 0 for part in parts):
        return None
    degrees: float = sum(part / 60**power for power, part in enumerate(parts))
    if degrees > limit or any(part >= 60 for part in parts[1:]):
        return None
    return round(-degrees if sign == signs[1] else degrees, 7)


def _parse_xmp(info: dict[Any, Any]) -> ElementTree.Element | None:
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if isinstance(packet, str):
        packet = packet.encode("utf-8", "replace")
    if not isinstance(packet, bytes) or not 0 < len(packet) <= XMP_LIMIT:
        return None
    # Without a DTD there are no entities: nothing to expand a billion-fold, nothing to fetch. XMP has
    # none by its standard. A UTF-16 packet could hide one and is refused by its NUL bytes.
    packet = packet.strip(b"\0 \r\n\t")
    if b"<!DOCTYPE" in packet or b"\0" in packet:
        return None
    return ElementTree.fromstring(packet)  # noqa: S314


def _xmp_items(xmp: ElementTree.Element | None, name: str) -> list[str]:
    """The texts of the rdf:li under each dc:`name`; the default language comes first."""
    if xmp is None:
        return []
    # One within another, thousands deep, each node would be asked for the items of all below it.
    nodes = islice(xmp.iter(_DC + name), XMP_NODES_LIMIT)
    items = [item for node in nodes for item in islice(node.iter(f"{_RDF}li"), XMP_ITEMS_LIMIT)]
    items.sort(key=lambda item: item.get("{http://www.w3.org/XML/1998/namespace}lang") != "x-default")
    return [item.text for item in items if item.text]


def _iptc_texts(iptc: _Iptc, dataset: tuple[int, int]) -> list[bytes]:
    value = iptc.get(dataset)
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, bytes)]


def _caption(exif: _Tags, iptc: _Iptc, xmp: ElementTree.Element | None) -> str | None:
    """XMP before IPTC before EXIF: editors write the first two, cameras fill in the last."""
    candidates: list[object] = [*_xmp_items(xmp, "description"), *_iptc_texts(iptc, (2, 120))]
    candidates.append(exif.get(ExifTags.Base.ImageDescription))
    for candidate in candidates:
        text = clean(candidate, CAPTION_LIMIT)
        if text is not None and not _STOCK_CAPTION.fullmatch(text):
            return text
    return None


def _keywords(iptc: _Iptc, xmp: ElementTree.Element | None) -> tuple[str, ...]:
    """XMP and IPTC keywords, each once whatever its case, in the order in which they were written."""
    raw: Iterable[object] = [*_xmp_items(xmp, "subject"), *_iptc_texts(iptc, (2, 25))]
    unique: dict[str, str] = {}
    for value in raw:
        keyword = clean(value, NAME_LIMIT)
        if keyword is not None:
            unique.setdefault(keyword.casefold(), keyword)
    return tuple(unique.values())[:KEYWORDS_LIMIT]
