from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from clipsearch import durable
from clipsearch.errors import ImageError, StorageError
from clipsearch.thumbnails import Thumbnails


def photo(path: Path, size: tuple[int, int] = (3000, 2000), orientation: int = 1) -> tuple[bytes, bytes]:
    """Write a photo; returns its content hash and path."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (200, 40, 40)).save(path, exif=exif)
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest(), os.fsencode(path)


def size_of(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


def test_sizes_and_uprightness(tmp_path: Path) -> None:
    content, path = photo(tmp_path / "a.jpg", orientation=6)
    with Thumbnails(tmp_path / "thumbs") as thumbnails:
        assert size_of(thumbnails.get(content, [path], "grid")) == (267, 400)
        width, height = size_of(thumbnails.get(content, [path], "preview"))
        assert height == 1600
        assert width == pytest.approx(1067, abs=1)


def test_a_small_photo_is_not_blown_up(tmp_path: Path) -> None:
    content, path = photo(tmp_path / "a.jpg", size=(60, 40))
    with Thumbnails(tmp_path / "thumbs") as thumbnails:
        assert size_of(thumbnails.get(content, [path], "preview")) == (60, 40)


def test_a_thumbnail_outlives_its_file(tmp_path: Path) -> None:
    content, path = photo(tmp_path / "a.jpg", size=(60, 40))
    with Thumbnails(tmp_path / "thumbs") as thumbnails:
        first = thumbnails.get(content, [path], "grid")
        (tmp_path / "a.jpg").unlink()
        assert thumbnails.get(content, [path], "grid") == first
        with pytest.raises(ImageError, match="no such file"):
            thumbnails.get(content, [path], "preview")


def test_a_copy_will_do_and_another_content_will_not(tmp_path: Path) -> None:
    content, path = photo(tmp_path / "a.jpg", size=(60, 40))
    _, other = photo(tmp_path / "b.jpg", size=(80, 40))
    with Thumbnails(tmp_path / "thumbs") as thumbnails:
        with pytest.raises(ImageError, match="changed since"):
            thumbnails.get(content, [other], "grid")
        assert thumbnails.get(content, [b"/nowhere.jpg", other, path], "grid")


def test_a_full_disk_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(durable, "replace", full)
    content, path = photo(tmp_path / "a.jpg", size=(60, 40))
    with Thumbnails(tmp_path / "thumbs") as thumbnails:
        first = thumbnails.get(content, [path], "grid")
        (tmp_path / "a.jpg").unlink()
        assert thumbnails.get(content, [path], "grid") == first
    assert not list((tmp_path / "thumbs").rglob("*.webp"))


def test_many_threads_at_once(tmp_path: Path) -> None:
    made = [photo(tmp_path / f"{n}.jpg", size=(60 + n, 40)) for n in range(24)]
    sizes: dict[int, tuple[int, int]] = {}
    with Thumbnails(tmp_path / "thumbs") as thumbnails:
        threads = [
            threading.Thread(
                target=lambda n=n: sizes.update(
                    {n: size_of(thumbnails.get(made[n][0], [made[n][1]], "grid"))}
                )
            )
            for n in range(24)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sizes == {n: (60 + n, 40) for n in range(24)}


@pytest.mark.parametrize("content", [b"", b"nonsense" * 50, b"\xff\xd8\xff" + b"\0" * 100])
def test_what_is_no_picture_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    with Thumbnails(tmp_path / "thumbs") as thumbnails, pytest.raises(ImageError):
        thumbnails._decoders.decode_bytes(content, "grid")
