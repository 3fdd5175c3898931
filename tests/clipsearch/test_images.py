import io
import os
import signal
import socket
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image, ImageCms, ImageFile, PngImagePlugin

from clipsearch import files, images
from clipsearch.errors import ImageError
from clipsearch.files import SUFFIXES
from clipsearch.images import DCT_MARGIN, ImageFileError, PhotoMetadata, decode, read_file

Array = npt.NDArray[Any]


def encoded(image: Image.Image, file_format: str = "PNG", **save: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **save)
    return stream.getvalue()


def decoded(data: bytes) -> Array:
    image, _ = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def quarters(width: int = 64, height: int = 48) -> Image.Image:
    """Red, green, blue and white quarters, smooth enough for JPEG: every orientation looks different."""
    small = Image.new("RGB", (2, 2))
    small.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)])
    return small.resize((width, height), Image.Resampling.NEAREST)


# What a camera stores for an upright scene, by the orientation it then notes: the inverse of the turn.
STORED: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_every_orientation_comes_out_upright(turn: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    options = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {"lossless": True}
    image, metadata = decode(encoded(STORED[turn](quarters()), file_format, exif=exif, **options))
    assert (metadata.width, metadata.height) == image.size == (64, 48)
    close = np.abs(np.asarray(image).astype(int) - np.asarray(quarters()).astype(int)) < 40
    assert close.mean() > 0.9
    assert file_format in ("JPEG", "AVIF") or close.all()


@pytest.mark.parametrize("turn", [1, 6])
def test_the_scaled_decode_of_a_jpeg_is_upright_and_large_enough(turn: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    data = encoded(STORED[turn](quarters(1600, 1200)), "JPEG", exif=exif)
    image, metadata = decode(data, cover=140)
    assert (metadata.width, metadata.height) == (1600, 1200)
    assert image.size == (400, 300)  # a quarter: an eighth would be 150 px, below the margin
    assert min(image.size) >= 140 * DCT_MARGIN
    assert np.asarray(image)[10, 10] == pytest.approx([255, 0, 0], abs=5)
    assert decode(data, cover=4000)[0].size == (1600, 1200)


def test_only_jpegs_are_scaled() -> None:
    assert decode(encoded(quarters(1600, 1200)), cover=64)[0].size == (1600, 1200)


def grey(values: list[Any], dtype: str) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=dtype))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(grey([0, 32768, 65535, 255], "<u2")), [0, 128, 255, 1]),
        (encoded(grey([0, 32768, 65535, 255], "<u2"), "TIFF"), [0, 128, 255, 1]),
        (encoded(grey([0, 100, 255], "<i4"), "TIFF"), [0, 100, 255]),
        (encoded(grey([0, 257, 65535], "<i4"), "TIFF"), [0, 1, 255]),
        (encoded(grey([-100, 0, 100], "<i4"), "TIFF"), [0, 128, 255]),
        (encoded(grey([0, 0.5, 1], "<f4"), "TIFF"), [0, 128, 255]),
        (encoded(grey([0, 100.4, 255], "<f4"), "TIFF"), [0, 100, 255]),
        (encoded(grey([np.nan, np.inf, 1], "<f4"), "TIFF"), [0, 0, 255]),
        (encoded(grey([5, 5, 5], "<f4"), "TIFF"), [5, 5, 5]),
        (encoded(Image.fromarray(np.array([[False, True]]))), [0, 255]),
        (encoded(grey([0, 127, 255], "u1")), [0, 127, 255]),
    ],
)
def test_grey_of_any_depth(data: bytes, expected: list[int]) -> None:
    assert decoded(data)[0].tolist() == [[value] * 3 for value in expected]


def test_big_endian_grey() -> None:
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 3, 200), (278, 3, 1)]
    entries = b"".join(struct.pack(">HHIHH", tag, kind, 1, value, 0) for tag, kind, value in tags)
    count = struct.pack(">HHII", 279, 4, 1, 4)
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags) + 1) + entries + count + b"\0\0\0\0"
    data = head.ljust(200, b"\0") + struct.pack(">HH", 0x8000, 0xFFFF)
    assert decoded(data).tolist() == [[[128] * 3, [255] * 3]]


def alpha_pixels(mode: str, *values: Any) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    image.putdata(list(values))
    return image


def palette(transparency: int | bytes | None = None) -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


RGB_KEYED = alpha_pixels("RGB", (9, 9, 9), (1, 2, 3))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            encoded(alpha_pixels("RGBA", (255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51))),
            [[255, 0, 0], [255, 255, 255], [204, 204, 204]],
        ),
        (encoded(alpha_pixels("LA", (100, 255), (100, 0))), [[100] * 3, [255] * 3]),
        (encoded(palette()), [[255, 0, 0], [0, 255, 0], [0, 0, 255]]),
        (encoded(palette(), transparency=1), [[255, 0, 0], [255, 255, 255], [0, 0, 255]]),
        (encoded(palette(), transparency=b"\xff\x00\x66"), [[255, 0, 0], [255, 255, 255], [153, 153, 255]]),
        (encoded(palette(), "GIF", transparency=2), [[255, 0, 0], [0, 255, 0], [255, 255, 255]]),
        (encoded(RGB_KEYED, transparency=(9, 9, 9)), [[255, 255, 255], [1, 2, 3]]),
        (encoded(alpha_pixels("L", 7, 8), transparency=7), [[255] * 3, [8] * 3]),
        (encoded(alpha_pixels("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), "TIFF"), [[255, 0, 0], [0, 0, 0]]),
    ],
)
def test_colours_and_transparency(data: bytes, expected: list[list[int]]) -> None:
    assert decoded(data)[0].tolist() == expected


def test_premultiplied_alpha() -> None:
    image = alpha_pixels("RGBA", (255, 0, 0, 255), (255, 0, 0, 0)).convert("RGBa")
    assert np.asarray(images.to_rgb(image)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_palette_with_alpha() -> None:
    image = Image.new("PA", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([(1, 255), (0, 0)])
    assert np.asarray(images.to_rgb(image)).tolist() == [[[0, 0, 255], [255, 255, 255]]]


def test_the_cmyk_of_a_jpeg_is_not_inverted() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert decoded(data)[8, 8] == pytest.approx([255, 0, 0], abs=6)


def test_lab() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    source = Image.new("RGB", (4, 4), (200, 30, 60))
    data = encoded(ImageCms.buildTransform(srgb, lab, "RGB", "LAB").apply(source), "TIFF")
    assert decoded(data)[0, 0] == pytest.approx([200, 30, 60], abs=3)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_frame(file_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert decoded(data)[8, 8] == pytest.approx([255, 0, 0], abs=6)


def test_heif() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = pillow_heif.from_pillow(quarters())
    stream = io.BytesIO()
    pixels.save(stream, quality=95)
    image, metadata = decode(stream.getvalue())
    assert metadata.format == "HEIF"
    assert np.asarray(image)[10, 10] == pytest.approx([255, 0, 0], abs=12)


def test_every_kind_of_source(tmp_path: Path) -> None:
    data = encoded(quarters())
    path = tmp_path / "a.png"
    path.write_bytes(data)
    (tmp_path / "link.png").symlink_to("a.png")
    for source in (data, path, str(path), io.BytesIO(data), tmp_path / "link.png"):
        assert np.array_equal(np.asarray(decode(source)[0]), np.asarray(quarters()))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int = 8, colour: int = 2, body: bytes = b"", extra: bytes = b""
) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + data + chunk(b"IEND", b"")


def huge_jpeg(width: int, height: int) -> bytes:
    data = encoded(quarters(), "JPEG")
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize(
    "data",
    [
        huge_jpeg(65500, 65500),
        png(20000, 20000),
        png(60000, 60000, 1, 0),
        png(1, 0x7FFFFFFF, 8, 0),
        b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
    ],
)
def test_bombs_are_refused_before_they_are_decoded(data: bytes) -> None:
    with pytest.raises(ImageFileError, match=r"too many pixels \(\d+ MP; the limit is 179 MP\)") as caught:
        decode(data)
    assert caught.value.kind == "too-large"


def test_our_own_limit_holds_below_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "PIXEL_LIMIT", 64 * 48 - 1)
    with pytest.raises(ImageError, match="too many pixels"):
        decode(encoded(quarters()))


def test_a_photo_above_pillows_warning_is_read() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    image = Image.new("1", (10000, limit // 10000 + 100))
    assert decode(encoded(image))[0].size == image.size


def test_a_decompression_bomb_in_the_metadata_is_refused() -> None:
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"A" * 100_000_000))
    with pytest.raises(ImageError):
        decode(png(1, 1, body=b"\0\0\0\0", extra=bomb))


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
        b"8BPS\0\1\0\0\0\0\0\0\0\3" + struct.pack(">IIHH", 30, 30, 8, 3) + b"\0" * 100,
        b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        b"P6 2 2 255\n" + b"\0" * 12,
        b'/* XPM */\nstatic char * x[] = {\n"1 1 1 1",\n"a c #000000",\n"a"};',
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"not a picture" * 9,
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    ],
)
def test_other_formats_are_refused_whatever_the_file_is_called(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/run\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "holiday.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageFileError, match=r"^not an image clipsearch can read$"):
        decode(path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("cover", [None, 8])
def test_half_a_file_is_an_error(file_format: str, cover: int | None) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    with pytest.raises(ImageFileError, match=r"^(truncated|damaged|not an image)") as caught:
        decode(data[: len(data) // 2], cover=cover)
    assert caught.value.kind == "corrupt"
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_reasons_name_the_format() -> None:
    data = encoded(quarters(640, 480), "JPEG")
    with pytest.raises(ImageError, match=r"^truncated JPEG$"):
        decode(data[:2000])
    with pytest.raises(ImageError, match=r"^an empty file$"):
        decode(b"")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), struct.error("x"), KeyError(1), RuntimeError("\x1b"), zlib.error("y"), EOFError()],
)
def test_whatever_a_decoder_raises_is_an_image_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ImageFileError) as caught:
        decode(encoded(quarters()))
    assert caught.value.kind == ("memory" if isinstance(error, MemoryError) else "corrupt")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("exif", [b"II*\0garbage", b"garbage of no byte order", b""])
@pytest.mark.parametrize("xmp", [b"<broken", b"\xff\0", b"<a>" * 5000])
def test_broken_metadata_costs_no_pixels(exif: bytes, xmp: bytes) -> None:
    image = quarters()
    profile = b"icc\0\0" + zlib.compress(b"no profile")
    packet = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
    data = encoded(image)
    broken = chunk(b"eXIf", exif) + chunk(b"iCCP", profile) + chunk(b"iTXt", packet)
    pixels, metadata = decode(data[:33] + broken + data[33:])
    assert np.array_equal(np.asarray(pixels), np.asarray(image))
    assert metadata == PhotoMetadata(64, 48, "PNG")


def test_the_callers_warnings_stay_as_they_were() -> None:
    """Many threads decode at once, and the filters are one for the whole process."""
    tiff = encoded(quarters(), "TIFF")
    odd = tiff.replace(struct.pack("<HHI", 278, 3, 1), struct.pack("<HHI", 278, 99, 1))
    before = list(warnings.filters)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                decode(tiff)
                with pytest.raises(ImageError):
                    decode(odd[:40])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(warnings.filters) == before


def test_read_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * 70_000)
    data, status = read_file(os.fsencode(path))
    assert data == b"x" * 70_000
    assert status.st_size == 70_000
    assert read_file(str(path))[0] == data


@pytest.fixture
def impatient() -> Iterator[None]:
    """What waits for ever fails instead."""

    def stop(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def special(folder: Path, what: str) -> Path:
    path = folder / "x.jpg"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)  # the path of a socket must be short
            server.bind(path.name)
    elif what == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # one that never ends
        except PermissionError:
            pytest.skip("no right to make a device here")
    elif what == "directory":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "link":
        (folder / "real.jpg").write_bytes(b"x")
        path.symlink_to("real.jpg")
    return path


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("fifo", "unreadable"),
        ("socket", "unreadable"),
        ("device", "unreadable"),
        ("directory", "unreadable"),
        ("loop", "unreadable"),
        ("link", "unreadable"),
        ("nothing", "missing"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_what_is_no_file_is_refused_without_blocking(tmp_path: Path, what: str, kind: str) -> None:
    with pytest.raises(ImageFileError) as caught:
        read_file(special(tmp_path, what))
    assert caught.value.kind == kind


@pytest.mark.parametrize("path", ["/dev/zero", b"/proc/self/mem", "/photos/a\0b.jpg", "/etc/passwd/x.jpg"])
def test_odd_paths_are_refused(path: str | bytes) -> None:
    with pytest.raises(ImageFileError):
        read_file(path)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ImageFileError, match="permission denied") as caught:
        read_file(tmp_path / "a.jpg")
    assert caught.value.kind == "permission"


def test_a_file_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = tmp_path / "sparse.jpg"
    with sparse.open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(ImageFileError, match="10240 MiB; the limit is 256 MiB") as caught:
        read_file(sparse)
    assert caught.value.kind == "too-large"


@pytest.mark.parametrize("change", ["grow", "shrink", "touch"])
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * 100)
    read = files._read_all

    def read_and_change(file: io.FileIO, size: int) -> bytes:
        data = read(file, size)
        if change == "touch":
            os.utime(path, ns=(1, 1))
        else:
            os.truncate(path, 200 if change == "grow" else 50)
        return data

    monkeypatch.setattr(files, "_read_all", read_and_change)
    with pytest.raises(ImageFileError) as caught:
        read_file(path)
    assert caught.value.kind == "changed"


def test_suffixes_are_lower_case_with_their_dot() -> None:
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in SUFFIXES)
    assert {".jpg", ".heic", ".avif", ".tiff"} <= SUFFIXES


@pytest.mark.shared
def test_the_eight_photographed_orientations_agree(shared: Path) -> None:
    """The same scene, stored in eight ways."""
    folder = shared / "photos/rotated"
    thumbs = []
    for number in range(8):
        image, metadata = decode(folder / f"Landscape_{number}.jpg", cover=128)
        assert (metadata.width, metadata.height) == (1800, 1200)
        thumbs.append(np.asarray(image.resize((60, 40)), dtype=float))
    for thumb in thumbs[1:]:
        # The number of the orientation is printed into each photo; the rest is the same.
        assert np.corrcoef(thumbs[0].ravel(), thumb.ravel())[0, 1] > 0.95
