"""Queries about paths: where contents were found, what vanished.

Every change here keeps ``images.hidden`` equal to "no file of this image is there", so that a search need not
look at files to know what may be found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, select, text, update
from sqlalchemy.dialects.sqlite import insert

from clipsearch.store.chunks import chunks
from clipsearch.store.embeddings import bury
from clipsearch.store.models import Embedding, Failure, File, Image, Root, Shard
from clipsearch.store.rows import FoundFile, PruneResult, StoredFile

_LARGEST = (1 << 63) - 1

_REFRESH_HIDDEN = (
    update(Image)
    .values(hidden=~select(File.id).where(File.image_id == Image.id, File.missing_since.is_(None)).exists())
    .execution_options(synchronize_session=False)
)


class Files:
    """The paths, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def stored(self) -> list[StoredFile]:
        """Return every file that should be there, in folders that can be reached, with its content's hash."""
        query = (
            select(File.path, File.size, File.mtime_ns, Image.hash)
            .join(Image, Image.id == File.image_id)
            .join(Root, Root.id == File.root_id)
            .where(File.missing_since.is_(None), Root.online == True)  # noqa: E712 - an SQL expression
            .order_by(File.path)
        )
        return [StoredFile(*row) for row in self._connection.execute(query)]

    def distrust(self) -> None:
        """Have every file read again by the next indexing run, as if it had changed."""
        self._connection.execute(update(File).values(verified_at_ns=0))
        self._connection.execute(delete(Shard))

    def place(self, found: Sequence[tuple[int, FoundFile]]) -> None:
        """Note that each (image id, file) was found: new paths, changed files, copies, touched files.

        A path that held another image now holds this one; a failure noted for it is cleared; it is no longer
        missing.
        """
        affected = {image_id for image_id, _ in found}
        for part in chunks(found):
            paths = [file.stat.path for _, file in part]
            affected.update(self._images_at(paths))
            statement = insert(File)
            columns = {name: statement.excluded[name] for name in _values(0, part[0][1]) if name != "path"}
            self._connection.execute(
                statement.on_conflict_do_update(index_elements=[File.path], set_=columns),
                [_values(image_id, file) for image_id, file in part],
            )
            self._connection.execute(delete(Failure).where(Failure.path.in_(paths)))
        self._backdate(found)
        self._refresh_hidden(affected)

    def move(self, moves: Sequence[tuple[int, FoundFile]]) -> None:
        """Give each file (by id) the path and stat at which it was found again; swaps and chains are fine.

        A file that was known at a target path and does not itself move is overwritten, and forgotten.
        """
        if not moves:
            return
        moving = [file_id for file_id, _ in moves]
        targets = [file.stat.path for _, file in moves]
        overwritten = [file for file in self._ids_at(targets) if file not in set(moving)]
        affected = self._images_of(moving + overwritten)
        for part in chunks(overwritten):
            self._connection.execute(delete(File).where(File.id.in_(part)))
        # No path holds a NUL byte, so these stand for "on its way" without meeting a real one.
        self._connection.execute(
            text("UPDATE files SET path = :path WHERE id = :id"),
            [{"path": b"\0%d" % file_id, "id": file_id} for file_id in moving],
        )
        self._connection.execute(
            text(
                "UPDATE files SET root_id = :root_id, path = :path, size = :size, mtime_ns = :mtime_ns,"
                " ctime_ns = :ctime_ns, inode = :inode, device = :device, missing_since = :missing_since,"
                " verified_at_ns = :verified_at_ns WHERE id = :id"
            ),
            [_values(0, file) | {"id": file_id} for file_id, file in moves],
        )
        for paths in chunks(targets):
            self._connection.execute(delete(Failure).where(Failure.path.in_(paths)))
        self._refresh_hidden(affected)

    def mark_missing(self, file_ids: Sequence[int], when: str | None = None) -> None:
        """Hide files that are no longer there, since `when` (ISO 8601, UTC; now). Nothing is deleted."""
        since = when or datetime.now(UTC).isoformat(timespec="seconds")
        for part in chunks(file_ids):
            condition = File.id.in_(part) & File.missing_since.is_(None)
            self._connection.execute(update(File).where(condition).values(missing_since=since))
        self._refresh_hidden(self._images_of(file_ids))

    def mark_found(self, file_ids: Sequence[int]) -> None:
        """Show files again that were missing and are there, unchanged."""
        for part in chunks(file_ids):
            self._connection.execute(update(File).where(File.id.in_(part)).values(missing_since=None))
        self._refresh_hidden(self._images_of(file_ids))

    def prune(self, root_ids: Sequence[int] | None = None) -> PruneResult:
        """Delete missing files of online roots (of `root_ids`, where given) and images left without a file.

        The slots of those images become tombstones in every space.
        """
        online = select(Root.id).where(Root.online == True)  # noqa: E712 - an SQL expression
        if root_ids is not None:
            online = online.where(Root.id.in_(root_ids))
        condition = File.missing_since.is_not(None) & File.root_id.in_(online)
        files = self._connection.execute(delete(File).where(condition)).rowcount
        orphans = select(Image.id).where(
            Image.hidden == True,  # noqa: E712 - an SQL expression
            ~select(File.id).where(File.image_id == Image.id).exists(),
        )
        images = list(self._connection.execute(orphans).scalars())
        embeddings = 0
        for part in chunks(images):
            embeddings += bury(self._connection, Embedding.image_id.in_(part))
            self._connection.execute(delete(Image).where(Image.id.in_(part)))
        return PruneResult(files=files, images=len(images), embeddings=embeddings)

    def _images_at(self, paths: Sequence[bytes]) -> set[int]:
        return set(self._connection.execute(select(File.image_id).where(File.path.in_(paths))).scalars())

    def _ids_at(self, paths: Sequence[bytes]) -> list[int]:
        found: list[int] = []
        for part in chunks(paths):
            found.extend(self._connection.execute(select(File.id).where(File.path.in_(part))).scalars())
        return found

    def _images_of(self, file_ids: Sequence[int]) -> set[int]:
        images: set[int] = set()
        for part in chunks(file_ids):
            images.update(self._connection.execute(select(File.image_id).where(File.id.in_(part))).scalars())
        return images

    def _backdate(self, found: Sequence[tuple[int, FoundFile]]) -> None:
        """Date images that do not say when they were taken by the oldest time of their files."""
        values = [
            {"image_id": image_id, "date": date}
            for image_id, file in found
            if (date := file_date(file)) is not None
        ]
        if values:
            self._connection.execute(
                text(
                    "UPDATE images SET dated_at = :date WHERE id = :image_id AND taken_at IS NULL"
                    " AND (dated_at IS NULL OR dated_at > :date)"
                ),
                values,
            )

    def _refresh_hidden(self, image_ids: Iterable[int]) -> None:
        for part in chunks(list(image_ids)):
            self._connection.execute(_REFRESH_HIDDEN.where(Image.id.in_(part)))


def file_date(file: FoundFile) -> str | None:
    """Return the time of the last change of a file as local ISO 8601; None for no such year."""
    try:
        return datetime.fromtimestamp(file.stat.mtime_ns // 1_000_000_000).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _values(image_id: int, file: FoundFile) -> dict[str, object]:
    stat = file.stat
    return {
        "root_id": file.root_id,
        "path": stat.path,
        "image_id": image_id,
        "size": stat.size,
        "mtime_ns": _clamped(stat.mtime_ns),
        "ctime_ns": _clamped(stat.ctime_ns),
        "inode": _signed(stat.inode),
        "device": _signed(stat.device),
        "missing_since": None,
        "verified_at_ns": file.verified_at_ns,
    }


def _signed(value: int) -> int:
    """Return an unsigned 64-bit number as the signed one of the same bits: all that SQLite stores."""
    return value - (1 << 64) if value > _LARGEST else value


def _clamped(time_ns: int) -> int:
    """Return a time within SQLite's integers (1677 to 2262); one outside never looks unchanged."""
    return max(-_LARGEST, min(_LARGEST, time_ns))
