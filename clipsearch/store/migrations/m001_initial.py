"""The first schema."""

STATEMENTS = (
    """
    CREATE TABLE meta (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE roots (
        id INTEGER PRIMARY KEY,
        path BLOB NOT NULL UNIQUE,
        filesystem_id TEXT,
        online INTEGER NOT NULL DEFAULT 1,
        last_scanned TEXT
    )
    """,
    """
    CREATE TABLE images (
        id INTEGER PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        format TEXT NOT NULL,
        taken_at TEXT,
        taken_offset INTEGER,
        dated_at TEXT,
        latitude REAL,
        longitude REAL,
        camera TEXT,
        lens TEXT,
        caption TEXT,
        keywords TEXT NOT NULL DEFAULT '[]',
        added_at TEXT NOT NULL,
        hidden INTEGER NOT NULL DEFAULT 1
    )
    """,
    "CREATE INDEX images_dated_at ON images (dated_at)",
    "CREATE INDEX images_place ON images (latitude, longitude) WHERE latitude IS NOT NULL",
    "CREATE INDEX images_hidden ON images (id) WHERE hidden = 1",
    """
    CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        root_id INTEGER NOT NULL REFERENCES roots (id),
        path BLOB NOT NULL UNIQUE,
        image_id INTEGER NOT NULL REFERENCES images (id),
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        device INTEGER NOT NULL,
        missing_since TEXT,
        verified_at_ns INTEGER NOT NULL
    )
    """,
    "CREATE INDEX files_image_id ON files (image_id, missing_since)",
    "CREATE INDEX files_root_id ON files (root_id)",
    "CREATE INDEX files_missing ON files (image_id) WHERE missing_since IS NOT NULL",
    """
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY,
        started_at TEXT NOT NULL,
        ended_at TEXT,
        status TEXT NOT NULL,
        counts TEXT NOT NULL DEFAULT '{}'
    )
    """,
    """
    CREATE TABLE failures (
        path BLOB PRIMARY KEY,
        root_id INTEGER REFERENCES roots (id),
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        reason TEXT NOT NULL,
        kind TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 1,
        last_run INTEGER REFERENCES runs (id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE spaces (
        id INTEGER PRIMARY KEY,
        fingerprint TEXT NOT NULL UNIQUE,
        model_name TEXT NOT NULL,
        model_source TEXT NOT NULL,
        dim INTEGER NOT NULL,
        active INTEGER NOT NULL DEFAULT 0,
        created_at TEXT NOT NULL,
        slots INTEGER NOT NULL DEFAULT 0,
        epoch INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE UNIQUE INDEX spaces_one_active ON spaces (active) WHERE active = 1",
    """
    CREATE TABLE embeddings (
        space_id INTEGER NOT NULL REFERENCES spaces (id),
        slot INTEGER NOT NULL,
        image_id INTEGER NOT NULL REFERENCES images (id),
        crc32 INTEGER NOT NULL,
        PRIMARY KEY (space_id, slot),
        UNIQUE (image_id, space_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE tombstones (
        space_id INTEGER NOT NULL REFERENCES spaces (id),
        slot INTEGER NOT NULL,
        PRIMARY KEY (space_id, slot)
    ) WITHOUT ROWID
    """,
)
