"""Training samples, and how they are read from webdataset shards.

A shard is a tar whose members share a key (the path up to the first dot of the name): `0001.jpg` with
`0001.json` (`source`, `captions`, `labels`) or `0001.txt`. A sample is an encoded image with captions and
labels; decoding and augmentation happen when a batch is drawn. Shards are untrusted input: only local files
are opened, nothing is extracted, no member but images and texts is looked into, and a bad sample is counted
and named.
"""

from __future__ import annotations

import itertools
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from PIL import Image

from clipsearch.errors import ImageError, TrainingError
from clipsearch.files import read_file
from clipsearch.images import decode as decode_image

IMAGE_EXTENSIONS = ("webp", "jpg", "jpeg", "png")
TEXT_EXTENSIONS = ("json", "txt")
MEMBER_LIMIT = 256 << 20
"""Bytes of the largest member that is read."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One training image, still encoded, and what is said about it.

    `image` is the encoded bytes, or the file that holds them, which is read whenever the sample is drawn.
    """

    key: str
    image: bytes | Path
    source: str
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    label_index: int | None = None
    content: str | None = None
    """What stays the same when its file is moved, where that is known."""

    def encoded(self) -> bytes:
        """The encoded image. Raises ImageError where its file cannot be read."""
        return self.image if isinstance(self.image, bytes) else read_file(self.image, follow_symlinks=True)[0]

    @property
    def told(self) -> bool:
        """Whether anything is said about it."""
        return bool(self.captions or self.labels)


@dataclass
class ShardReport:
    """What was left out while reading samples: `skipped[reason]` lists their keys."""

    samples: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, key: str) -> None:
        """Note a sample that cannot be used."""
        self.skipped.setdefault(reason, []).append(key)

    def add(self, other: ShardReport) -> None:
        """Note all that another report has."""
        self.samples += other.samples
        for reason, keys in other.skipped.items():
            self.skipped.setdefault(reason, []).extend(keys)

    def __str__(self) -> str:
        """`3 without an image (a, b, c), 20 with unreadable text (d, e, f, …)`, or `none`."""
        told = [f"{len(keys):,} {reason} ({named(keys)})" for reason, keys in self.skipped.items()]
        return ", ".join(told) or "none"


def named(keys: Sequence[str], most: int = 3) -> str:
    """The first few of some names."""
    return ", ".join([*keys[:most], *(["…"] if len(keys) > most else [])])


def find_shards(data: Path, patterns: Sequence[str]) -> list[Path]:
    """Files that match globs relative to `data`, in order. Raises TrainingError where one matches nothing."""
    found: list[Path] = []
    for pattern in patterns:
        try:
            matching = sorted(data.glob(pattern))
        except (ValueError, NotImplementedError) as error:
            raise TrainingError(f"{pattern!r} is not a pattern of files below {data}: {error}.") from error
        if not matching:
            raise TrainingError(f"No file matches {pattern!r} in {data}.")
        found += matching
    return found


def read_shards(paths: Sequence[Path], limit: int | None = None) -> tuple[list[Sample], ShardReport]:
    """All samples of the given tar shards (`.tar` or `.tar.gz`), in order; at most `limit` of each shard.

    Raises TrainingError when a shard is missing or cannot be read as a tar, or when nothing is left.
    """
    samples: list[Sample] = []
    report = ShardReport()
    for path in paths:
        with open_shard(path) as file, reading(path):
            for _, key, parts in itertools.islice(raw_samples(file), limit):
                sample = parse(key, parts, report)
                if sample is not None:
                    samples.append(sample)
    report.samples = len(samples)
    if not samples:
        raise TrainingError(f"No usable sample in {', '.join(str(path) for path in paths) or 'no shard'}.")
    return samples, report


class _Member(tarfile.TarInfo):
    """A member of a shard that must end as a tar ends: tarfile takes garbage, or a cut, for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def open_shard(path: Path) -> BinaryIO:
    """Open a shard. Raises TrainingError where it is not a file that can be read."""
    if path.is_dir():
        raise TrainingError(f"{path} is a folder; name the shards in it, such as {path}/*.tar.")
    if not path.is_file():
        raise TrainingError(f"There is no shard {path}.")
    try:
        return path.open("rb")
    except OSError as error:
        raise TrainingError(f"The shard {path} cannot be read: {error.strerror}.") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a damaged tar raises in the body into a TrainingError that names it."""
    try:
        yield
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise TrainingError(f"{path} is not a whole tar shard: {error}.") from error


def raw_samples(
    file: BinaryIO, *, seekable: bool = False, with_images: bool = True
) -> Iterator[tuple[int, str, dict[str, bytes]]]:
    """Each sample of a tar, compressed or not: where it starts in the tar, its key, its parts by extension.

    Without `with_images` these parts are left empty. `seekable` skips what is not wanted instead of reading
    it, which only works with a tar that is not compressed. Raises what `reading` translates.
    """
    mode = "r:" if seekable else "r|*"
    with tarfile.open(fileobj=file, mode=mode, tarinfo=_Member) as archive:  # type: ignore[call-overload]
        for key, members in itertools.groupby(_members(archive), lambda member: _split(member.name)[0]):
            yield _gathered(archive, key, members, with_images)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
        if member.isreg():
            yield member


def _split(name: str) -> tuple[str, str]:
    """A member's name at the first dot behind its folder: (key, extension)."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _gathered(
    archive: tarfile.TarFile, key: str, members: Iterator[tarfile.TarInfo], with_images: bool
) -> tuple[int, str, dict[str, bytes]]:
    start: int | None = None
    parts: dict[str, bytes] = {}
    for member in members:
        start = member.offset if start is None else start
        extension = _split(member.name)[1]
        if member.size > MEMBER_LIMIT:
            continue
        if extension in IMAGE_EXTENSIONS and not with_images:
            parts[extension] = b""
        elif extension in IMAGE_EXTENSIONS or extension in TEXT_EXTENSIONS:
            file = archive.extractfile(member)
            assert file is not None  # what is regular has a content
            parts[extension] = file.read()
    assert start is not None
    return start, key, parts


def parse(key: str, parts: Mapping[str, bytes], report: ShardReport) -> Sample | None:
    """A sample from its parts; None, noted in `report`, where there is no image or the text is no text."""
    image = next((parts[extension] for extension in IMAGE_EXTENSIONS if extension in parts), None)
    if image is None:
        report.skip("without an image", key)
        return None
    try:
        text = json.loads(parts["json"]) if "json" in parts else {}
        beside = [parts["txt"].decode("utf-8")] if "txt" in parts else []
        index = text.get("class_index")
        return Sample(
            key=key,
            image=image,
            source=str(text.get("source") or ""),
            captions=texts_in(text.get("captions")) or texts_in(text.get("caption")) or texts_in(beside),
            labels=texts_in(text.get("labels")) or texts_in(text.get("label")),
            label_index=None if index is None else int(index),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        report.skip("with unreadable text", key)
        return None


def texts_in(value: object) -> tuple[str, ...]:
    """A text, or a list of them, without empty ones; TypeError for anything else."""
    values = [value] if isinstance(value, (str, int)) else [] if value is None else value
    if not isinstance(values, list) or any(isinstance(item, (list, dict)) for item in values):
        raise TypeError("neither a text nor a list of texts")
    return tuple(text for item in values if (text := str(item).strip()))


def decode(data: bytes | Path, cover: int | None = None) -> Image.Image:
    """An encoded image, or its file -> RGB, upright; large JPEGs at a scale that still covers `cover` pixels.

    Raises ValueError for what is not an image.
    """
    try:
        return decode_image(data, cover=cover)[0]
    except ImageError as error:
        raise ValueError(f"not an image: {error}") from error
