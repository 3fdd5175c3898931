"""`clipsearch shards make`: a folder of images and its captions, as webdataset shards.

The samples come in an order that has nothing to do with their names, so that every shard is a mixture; the
same images and captions always give the same shards. A shard appears when it is whole. A manifest beside the
shards says which are done, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from clipsearch.durable import TEMPORARY_SUFFIX, make_directory, remove, replace, replacing
from clipsearch.errors import TrainingError, UsageError
from clipsearch_train.chunks import UNTOLD
from clipsearch_train.data import Sample, ShardReport, decode
from clipsearch_train.folders import read_folder
from clipsearch_train.recipe_data import Folder
from clipsearch_train.sources import copies, key_rank

Report = Callable[[str, int, int], None]
UNDECODED = "that cannot be decoded"


@dataclass(frozen=True)
class Packing:
    """How images become shards.

    `size` is the shorter side in pixels that larger images are brought to, `quality` that of the JPEGs, `val`
    the share of the images that is kept for validation, `per_shard` how many images a shard has.
    """

    size: int = 256
    quality: int = 90
    val: float = 0.0
    per_shard: int = 1000

    def check(self) -> None:
        """Raise UsageError for a number that makes no sense."""
        for name, low, high in (
            ("size", 16, 4096),
            ("quality", 1, 100),
            ("val", 0, 0.9),
            ("per_shard", 1, 10**6),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"--{name.replace('_', '-')} must be from {low} to {high}, not {value}.")


@dataclass
class Packed:
    """What was written: samples and shards by part (`train`, `val`), and what was left out."""

    samples: Counter[str] = field(default_factory=Counter)
    shards: Counter[str] = field(default_factory=Counter)
    skipped: ShardReport = field(default_factory=ShardReport)


def pack(folder: Folder, out: Path, packing: Packing, report: Report) -> Packed:
    """Write `out/train/NAME-00000.tar`, … and `out/val/NAME-00000.tar`, …; NAME is that of the source.

    Raises UsageError for numbers that make no sense or an `out` that holds other shards of that name,
    StorageError, TrainingError where the images or captions cannot be read.
    """
    packing.check()
    samples, skips = read_folder(Path(), folder)
    for sample in samples:
        if not sample.told:
            skips.skip(UNTOLD, sample.key)
    told = sorted((sample for sample in samples if sample.told), key=lambda sample: key_rank(sample.key))
    if not told:
        raise TrainingError(
            f"Nothing is said about any image in {folder.images} (left out: {skips}). Name a captions file "
            "with --captions, put text files beside the images, or take the names of their folders with "
            "--folder-labels."
        )
    name = re.sub(r"[^\w-]+", "_", told[0].source) or "images"
    plan = _plan(told, name, packing)
    manifest = _Manifest.open(out / f"{name}.json", _digest(told, name, packing))
    return _write(plan, out, packing, manifest, skips, report)


Plan = dict[str, list[tuple[str, Sample]]]


def _plan(samples: Sequence[Sample], name: str, packing: Packing) -> Plan:
    """The keyed samples of each shard, by its path."""
    held = _held_out(samples, packing.val)
    plan: Plan = {}
    for part in ("train", "val"):
        chosen = [sample for row, sample in enumerate(samples) if (row in held) == (part == "val")]
        for number, sample in enumerate(chosen):
            path = f"{part}/{name}-{number // packing.per_shard:05}.tar"
            plan.setdefault(path, []).append((f"{name}-{part}-{number:08}", sample))
    return plan


def _held_out(samples: Sequence[Sample], share: float) -> set[int]:
    """The samples to validate on; copies of an image are all in it or none."""
    if not share:
        return set()
    wanted = max(1, round(share * len(samples)))
    groups = copies(samples)
    if len(groups) < 2:
        raise TrainingError("A single image is not enough to train on and to validate; leave --val out.")
    held: set[int] = set()
    for rows in groups:
        if len(held) < wanted:
            held.update(rows)
    return held


def _digest(samples: Sequence[Sample], name: str, packing: Packing) -> str:
    """Something that changes with the images, what is said of them, or how they are packed."""
    digest = hashlib.blake2b(json.dumps([name, asdict(packing)]).encode(), digest_size=16)
    for sample in samples:
        assert isinstance(sample.image, Path)
        state = sample.image.stat()
        row = [sample.key, sample.captions, sample.labels, state.st_size, state.st_mtime_ns]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


@dataclass
class _Manifest:
    """`NAME.json`: what the shards of a name were made from, and for each that is done what it holds."""

    path: Path
    made_from: str
    shards: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, path: Path, made_from: str) -> _Manifest:
        """The manifest at `path`, or a new one. Raises UsageError where it is of other shards."""
        shards: dict[str, dict[str, Any]] = {}
        _remove_half_written(path)
        if path.is_file():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
                same, shards = known["made_from"] == made_from, known["shards"]
            except (OSError, ValueError, TypeError, KeyError):
                same = False
            if not same:
                raise UsageError(
                    f"{path} belongs to shards that were made from other images, captions or options; give "
                    "another --out, or delete it and its shards to make them anew."
                )
        return cls(path, made_from, shards)

    def note(self, shard: str, samples: int, skipped: ShardReport) -> None:
        """Write down that a shard is done."""
        self.shards[shard] = {"samples": samples, "skipped": skipped.skipped}
        content = {"made_from": self.made_from, "shards": self.shards}
        replace(self.path, (json.dumps(content, indent=1) + "\n").encode(), name="manifest")


def _write(
    plan: Plan, out: Path, packing: Packing, manifest: _Manifest, skips: ShardReport, report: Report
) -> Packed:
    packed = Packed(skipped=skips)
    done, total = 0, sum(map(len, plan.values()))
    for name, keyed in plan.items():
        path = out / name
        make_directory(path.parent)
        if name not in manifest.shards or not path.is_file():
            _remove_half_written(path)

            def written_so_far(count: int, begun: int = done) -> None:
                report("packing", begun + count, total)

            written = _write_shard(path, keyed, packing, written_so_far)
            manifest.note(name, len(keyed) - sum(map(len, written.skipped.values())), written)
        else:
            report("packing", done + len(keyed), total)
        entry = manifest.shards[name]
        done += len(keyed)
        packed.samples[path.parent.name] += entry["samples"]
        packed.shards[path.parent.name] += 1
        packed.skipped.add(ShardReport(0, entry["skipped"]))
    if not sum(packed.samples.values()):
        raise TrainingError(f"None of the {total:,} images can be used (left out: {packed.skipped}).")
    return packed


def _remove_half_written(path: Path) -> None:
    """Remove what a run that was killed had written towards `path`."""
    for left in path.parent.glob(f".{path.name}.*{TEMPORARY_SUFFIX}"):
        remove(left)


def _write_shard(
    path: Path, keyed: Sequence[tuple[str, Sample]], packing: Packing, report: Callable[[int], None]
) -> ShardReport:
    skips = ShardReport()
    with (
        replacing(path, name="shard") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for count, (key, sample, image) in enumerate(_encoded(keyed, packing), start=1):
            if image is None:
                skips.skip(UNDECODED, sample.key)
            else:
                told = {
                    "source": sample.source,
                    "captions": sample.captions,
                    "labels": sample.labels,
                    "file": sample.key,
                }
                _add(archive, f"{key}.jpg", image)
                _add(archive, f"{key}.json", json.dumps(told).encode())
            report(count)
    return skips


def _encoded(
    keyed: Sequence[tuple[str, Sample]], packing: Packing
) -> Iterator[tuple[str, Sample, bytes | None]]:
    """The samples in their order with their images as JPEG, None where one cannot be decoded."""
    pool = ThreadPoolExecutor()
    try:
        images = pool.map(lambda entry: _jpeg(entry[1], packing), keyed)
        for (key, sample), image in zip(keyed, images, strict=True):
            yield key, sample, image
    finally:
        pool.shutdown(cancel_futures=True)


def _jpeg(sample: Sample, packing: Packing) -> bytes | None:
    """An image upright, small enough and without metadata."""
    try:
        image = decode(sample.image, packing.size)
    except ValueError:
        return None
    factor = packing.size / min(image.size)
    if factor < 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    try:
        image.save(buffer, "JPEG", quality=packing.quality)
    except OSError:  # a side of more than 65,500 pixels
        return None
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


__all__ = ["Packed", "Packing", "pack"]
