import io
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin

from clipsearch import metadata
from clipsearch.metadata import CAPTION_LIMIT, PhotoMetadata, clean, parse_date, parse_offset, read_metadata

Base, GPS = ExifTags.Base, ExifTags.GPS
Tags = Mapping[int, Any]


def exif_of(main: Tags | None = None, photo: Tags | None = None, gps: Tags | None = None) -> Image.Exif:
    exif = Image.Exif()
    exif.update(main or {})
    exif.get_ifd(ExifTags.IFD.Exif).update(photo or {})
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps or {})
    return exif


def read(**save: Any) -> PhotoMetadata:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6)).save(stream, "JPEG", **save)
    with Image.open(stream) as image:
        return read_metadata(image, image.size, "JPEG")


def read_exif(main: Tags | None = None, photo: Tags | None = None, gps: Tags | None = None) -> PhotoMetadata:
    return read(exif=exif_of(main, photo, gps))


def test_an_image_without_metadata() -> None:
    assert read() == PhotoMetadata(8, 6, "JPEG")


def test_the_exif_of_a_camera() -> None:
    found = read_exif(
        {Base.Make: "Canon", Base.Model: "Canon EOS 40D", Base.ImageDescription: "Café am Meer".encode()},
        {
            Base.DateTimeOriginal: "2008:05:30 15:56:01",
            Base.OffsetTimeOriginal: "-03:30",
            Base.LensModel: "EF50mm f/1.8",
        },
        {
            GPS.GPSLatitudeRef: "S",
            GPS.GPSLatitude: (33.0, 51.0, 24.0),
            GPS.GPSLongitudeRef: "E",
            GPS.GPSLongitude: (151.0, 12.0, 54.0),
        },
    )
    assert found.taken_at == "2008-05-30T15:56:01"
    assert found.taken_offset == -210
    assert (found.camera, found.lens, found.caption) == ("Canon EOS 40D", "EF50mm f/1.8", "Café am Meer")
    assert found.latitude == pytest.approx(-33.8566667)
    assert found.longitude == pytest.approx(151.215)


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("NIKON CORPORATION", "NIKON D70", "NIKON D70"),
        ("EASTMAN KODAK COMPANY", "KODAK DX4330", "KODAK DX4330"),
        ("CASIO COMPUTER CO.,LTD", "EX-Z3", "CASIO EX-Z3"),
        ("Apple", "iPhone 11 Pro", "Apple iPhone 11 Pro"),
        ("Apple", " ", "Apple"),
        (" ", "X100", "X100"),
    ],
)
def test_make_and_model_are_one_name(make: str, model: str, camera: str) -> None:
    assert read_exif({Base.Make: make, Base.Model: model}).camera == camera


def test_the_time_of_the_last_change_counts_only_for_a_camera() -> None:
    changed: Tags = {Base.DateTime: "2001:02:03 04:05:06"}
    assert read_exif(changed).taken_at is None
    assert read_exif({**changed, Base.Make: "HTC"}).taken_at == "2001-02-03T04:05:06"


@pytest.mark.parametrize(
    "text",
    [
        "0000:00:00 00:00:00",
        "9999:99:99 99:99:99",
        "0001:01:01 00:00:00",
        "2001:02:30 00:00:00",
        "    :  :     :  :  ",
        "-001:13:45 25:61:61",
        "",
        None,
        7,
        b"\xff\xfe",
    ],
)
def test_impossible_dates(text: object) -> None:
    assert parse_date(text) is None


def test_other_spellings_of_dates() -> None:
    assert parse_date("2011-05-06T09:59:48+02:00") == "2011-05-06T09:59:48"
    assert parse_date(b"2011/05/06 09:59\0") == "2011-05-06T09:59:00"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("+02:00", 120),
        ("-0930", -570),
        ("Z", 0),
        ("+14:00", 840),
        ("+15:00", None),
        ("+02:60", None),
        ("", None),
    ],
)
def test_offsets(text: str, minutes: int | None) -> None:
    assert parse_offset(text) == minutes


NAN = TiffImagePlugin.IFDRational(0, 0)


@pytest.mark.parametrize(
    ("latitude", "ref", "longitude"),
    [
        ((91.0, 0.0, 0.0), "N", (10.0, 0.0, 0.0)),
        ((10.0, 0.0, 0.0), "N", (181.0, 0.0, 0.0)),
        ((10.0, 60.0, 0.0), "N", (10.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), "N", (0.0, 0.0, 0.0)),
        ((NAN, NAN, NAN), "N", (10.0, 0.0, 0.0)),
        ((10.0, 0.0, 0.0), "Q", (10.0, 0.0, 0.0)),
    ],
)
def test_impossible_places(latitude: Any, ref: str, longitude: Any) -> None:
    found = read_exif(
        gps={
            GPS.GPSLatitude: latitude,
            GPS.GPSLatitudeRef: ref,
            GPS.GPSLongitude: longitude,
            GPS.GPSLongitudeRef: "W",
        }
    )
    assert (found.latitude, found.longitude) == (None, None)


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
    '<rdf:li xml:lang="de">Der Hund</rdf:li><rdf:li xml:lang="x-default">The dog</rdf:li>'
    "</rdf:Alt></dc:description>"
    "<dc:subject><rdf:Bag><rdf:li>Dog</rdf:li><rdf:li>été</rdf:li><rdf:li>dog</rdf:li></rdf:Bag></dc:subject>"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def test_xmp_caption_and_keywords() -> None:
    found = read(xmp=XMP.encode())
    assert found.caption == "The dog"
    assert found.keywords == ("Dog", "été")


@pytest.mark.parametrize(
    "packet",
    [
        b"<broken",
        b"",
        b"\xff\xfe" + XMP.encode("utf-16-le"),
        XMP.encode() + b" " * (1 << 20),
        b"<!DOCTYPE r [<!ENTITY x 'dog'>]>" + XMP.replace("The dog", "&x;").encode(),
    ],
)
def test_hostile_xmp_gives_nothing(packet: bytes) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6)).save(stream, "PNG")
    with Image.open(stream) as image:
        image.info["xmp"] = packet
        assert read_metadata(image, image.size, "PNG") == PhotoMetadata(8, 6, "PNG")


def test_xmp_within_xmp_costs_no_more_than_reading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = []
    monkeypatch.setattr(metadata, "clean", lambda value, limit: cleaned.append(value))
    items = b"<rdf:li>dog</rdf:li>" * 2000
    packet = XMP.encode().replace(b"<dc:subject>", b"<dc:subject>" * 50 + items, 1)
    packet = packet.replace(b"</dc:subject>", b"</dc:subject>" * 50)
    stream = io.BytesIO()
    Image.new("RGB", (8, 6)).save(stream, "PNG")
    with Image.open(stream) as image:
        image.info["xmp"] = packet
        read_metadata(image, image.size, "PNG")
    assert 2000 < len(cleaned) < 20_000  # of 100,000


def iptc(*records: tuple[int, bytes]) -> bytes:
    """An APP13 segment as Photoshop writes it."""
    data = b"".join(b"\x1c\x02" + bytes([k]) + len(v).to_bytes(2, "big") + v for k, v in records)
    return (
        b"Photoshop 3.0\x008BIM\x04\x04\0\0" + len(data).to_bytes(4, "big") + data + b"\0" * (len(data) % 2)
    )


def test_iptc_caption_and_keywords() -> None:
    payload = iptc((25, "Straße".encode()), (25, b"caf\xe9"), (120, b"By the sea"))
    stream = io.BytesIO()
    Image.new("RGB", (8, 6)).save(stream, "JPEG")
    plain = stream.getvalue()
    segment = b"\xff\xed" + (len(payload) + 2).to_bytes(2, "big") + payload
    with Image.open(io.BytesIO(plain[:2] + segment + plain[2:])) as image:
        found = read_metadata(image, image.size, "JPEG")
    assert found.keywords == ("Straße", "café")
    assert found.caption == "By the sea"


@pytest.mark.parametrize("text", ["OLYMPUS DIGITAL CAMERA", "SONY DSC", "DCIM100GOPRO", " . ", "Untitled"])
def test_what_cameras_write_by_themselves_is_no_caption(text: str) -> None:
    assert read_exif({Base.ImageDescription: text}).caption is None


def test_text_is_made_safe() -> None:
    assert clean("a\x1b[31m\r\nb\u2028c\u202ed", 100) == "a [31m b cd"
    assert clean("abc\0def", 100) == "abc"
    assert clean(b"\xff\xfe\x80", 100) == "ÿþ"
    assert clean("Ã©tÃ©", 100) == "été"  # UTF-8 that was read as Latin-1
    assert clean("A" * 60000, CAPTION_LIMIT) == "A" * CAPTION_LIMIT
    assert clean(" \0x", 10) is None
    assert clean(3, 10) is None


@given(st.one_of(st.text(), st.binary()), st.integers(1, 50))
def test_cleaned_text_can_be_stored_and_shown(value: str | bytes, limit: int) -> None:
    text = clean(value, limit)
    if text is not None:
        assert 0 < len(text) <= limit
        assert text.encode("utf-8").decode() == text
        assert not [char for char in text if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]


@settings(max_examples=400)
@given(st.binary(min_size=1, max_size=300))
def test_broken_exif_never_raises(payload: bytes) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6)).save(stream, "PNG")
    with Image.open(stream) as image:
        image.info["exif"] = b"Exif\0\0II*\0\x08\0\0\0" + payload
        found = read_metadata(image, image.size, "PNG")
    assert (found.width, found.height, found.format) == (8, 6, "PNG")


@pytest.mark.shared
def test_a_phone_photo(shared: Path) -> None:
    with Image.open(shared / "photos/formats/HTC_Desire.webp") as image:
        assert isinstance(image, ImageFile.ImageFile)
        found = read_metadata(image, image.size, "WEBP")
    assert found.camera == "HTC Desire"
    assert found.taken_at == "2011-05-06T09:59:48"
    assert found.latitude == pytest.approx(45.5006667)
    assert found.longitude == pytest.approx(9.1103333)
