"""The tables as SQLAlchemy models. Queries are written against these; the schema is made by the migrations.

A test compares the two. `docs/storage-format.md` says what each column means.
"""

from __future__ import annotations

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of the models."""

    type_annotation_map = {bytes: LargeBinary}  # noqa: RUF012 - SQLAlchemy's own protocol


class Meta(Base):
    """Single values: `generation`, `library_id`."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Root(Base):
    """A folder that is indexed."""

    __tablename__ = "roots"

    id: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[bytes] = mapped_column(unique=True)
    filesystem_id: Mapped[str | None]
    online: Mapped[bool]
    last_scanned: Mapped[str | None]


class Image(Base):
    """A content; `hidden` is kept equal to "no file of it is there" by every change of `files`."""

    __tablename__ = "images"
    __table_args__ = (
        Index("images_dated_at", "dated_at"),
        Index("images_place", "latitude", "longitude", sqlite_where=text("latitude IS NOT NULL")),
        Index("images_hidden", "id", sqlite_where=text("hidden = 1")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[bytes] = mapped_column(unique=True)
    size: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    format: Mapped[str]
    taken_at: Mapped[str | None]
    taken_offset: Mapped[int | None]
    dated_at: Mapped[str | None]
    latitude: Mapped[float | None]
    longitude: Mapped[float | None]
    camera: Mapped[str | None]
    lens: Mapped[str | None]
    caption: Mapped[str | None]
    keywords: Mapped[list[str]] = mapped_column(JSON)
    added_at: Mapped[str]
    hidden: Mapped[bool]


class File(Base):
    """A path at which a content was found."""

    __tablename__ = "files"
    __table_args__ = (
        Index("files_image_id", "image_id", "missing_since"),
        Index("files_root_id", "root_id"),
        Index("files_missing", "image_id", sqlite_where=text("missing_since IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    root_id: Mapped[int] = mapped_column(ForeignKey("roots.id"))
    path: Mapped[bytes] = mapped_column(unique=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    size: Mapped[int]
    mtime_ns: Mapped[int]
    ctime_ns: Mapped[int]
    inode: Mapped[int]
    device: Mapped[int]
    missing_since: Mapped[str | None]
    verified_at_ns: Mapped[int]


class Run(Base):
    """A run of the indexer."""

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[str]
    ended_at: Mapped[str | None]
    status: Mapped[str]
    counts: Mapped[dict[str, int]] = mapped_column(JSON)


class Failure(Base):
    """A file that gave no image."""

    __tablename__ = "failures"

    path: Mapped[bytes] = mapped_column(primary_key=True)
    root_id: Mapped[int | None] = mapped_column(ForeignKey("roots.id"))
    size: Mapped[int]
    mtime_ns: Mapped[int]
    reason: Mapped[str]
    kind: Mapped[str]
    attempts: Mapped[int]
    last_run: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))


class Shard(Base):
    """A tar shard of which all images are known."""

    __tablename__ = "shards"

    path: Mapped[bytes] = mapped_column(primary_key=True)
    root_id: Mapped[int] = mapped_column(ForeignKey("roots.id"))
    size: Mapped[int]
    mtime_ns: Mapped[int]
    ctime_ns: Mapped[int]
    inode: Mapped[int]
    rule: Mapped[str]
    files: Mapped[int]


class Space(Base):
    """The embeddings of one model."""

    __tablename__ = "spaces"
    __table_args__ = (Index("spaces_one_active", "active", unique=True, sqlite_where=text("active = 1")),)

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(unique=True)
    model_name: Mapped[str]
    model_source: Mapped[str]
    dim: Mapped[int]
    active: Mapped[bool]
    created_at: Mapped[str]
    slots: Mapped[int]
    epoch: Mapped[int]


class Embedding(Base):
    """Slot `slot` of a space holds the embedding of an image."""

    __tablename__ = "embeddings"
    __table_args__ = (UniqueConstraint("image_id", "space_id"),)

    space_id: Mapped[int] = mapped_column(ForeignKey("spaces.id"), primary_key=True)
    slot: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    crc32: Mapped[int]


class Tombstone(Base):
    """A committed slot that no image uses any more."""

    __tablename__ = "tombstones"

    space_id: Mapped[int] = mapped_column(ForeignKey("spaces.id"), primary_key=True)
    slot: Mapped[int] = mapped_column(primary_key=True)
