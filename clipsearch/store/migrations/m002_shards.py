"""Tar shards that were listed whole, so that one that is as it was need not be opened."""

STATEMENTS = (
    """
    CREATE TABLE shards (
        path BLOB PRIMARY KEY,
        root_id INTEGER NOT NULL REFERENCES roots (id),
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        rule TEXT NOT NULL,
        files INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
)
