import hashlib
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import create_engine, inspect

from clipsearch.errors import LibraryVersion
from clipsearch.store import catalog as catalog_module
from clipsearch.store import migrations
from clipsearch.store.catalog import Store
from clipsearch.store.connect import open_writer
from clipsearch.store.engine import engine_over
from clipsearch.store.link import Link
from clipsearch.store.migrations import m001_initial
from clipsearch.store.models import Base

# A released step is never edited: a library made by it would not have the edit.
RELEASED = {1: "71faaefeab6d91e5297eb09cf6906908c40009cc61c28ab24db28dea4c303cc0"}


def schema(engine):
    """Tables, columns and indexes as the database itself describes them."""
    found = {}
    inspector = inspect(engine)
    for table in inspector.get_table_names():
        key = inspector.get_pk_constraint(table)["constrained_columns"]
        columns = {
            # SQLite calls a primary key nullable unless it is declared otherwise.
            c["name"]: (str(c["type"]), c["nullable"] and c["name"] not in key)
            for c in inspector.get_columns(table)
        }
        indexes = {
            (i["name"], tuple(i["column_names"]), bool(i["unique"])) for i in inspector.get_indexes(table)
        }
        unique = {tuple(u["column_names"]) for u in inspector.get_unique_constraints(table)}
        foreign = {
            (tuple(f["constrained_columns"]), f["referred_table"]) for f in inspector.get_foreign_keys(table)
        }
        found[table] = (columns, key, indexes, unique, foreign)
    return found


def generic(described):
    """The same with SQLite's names for the types of the models."""
    names = {"VARCHAR": "TEXT", "BOOLEAN": "INTEGER", "JSON": "TEXT", "FLOAT": "REAL", "DOUBLE": "REAL"}
    return {
        table: ({name: (names.get(kind, kind), null) for name, (kind, null) in columns.items()}, *rest)
        for table, (columns, *rest) in described.items()
    }


def test_released_steps_are_as_they_were_released():
    for number, digest in RELEASED.items():
        text = "\n".join(" ".join(statement.split()) for statement in migrations.STEPS[number - 1])
        assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_the_migrated_schema_is_that_of_the_models(tmp_path):
    Store(tmp_path / "catalog.db", "create").close()
    with closing(open_writer(tmp_path / "catalog.db")) as driver:
        migrated = generic(schema(engine_over(driver)))
    models = create_engine(f"sqlite:///{tmp_path / 'models.db'}")
    Base.metadata.create_all(models)
    assert migrated == generic(schema(models))
    models.dispose()


@pytest.fixture
def original(tmp_path):
    """A library made by the first schema, with a row in it."""
    path = tmp_path / "original.db"
    connection = sqlite3.connect(path)
    for statement in m001_initial.STATEMENTS:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('generation', '7'), ('library_id', 'abc')")
    connection.execute("INSERT INTO roots (path) VALUES (X'2F70')")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    return path


def test_a_library_of_the_first_schema_opens(original):
    with Store(original, "write") as store, store.reading() as catalog:
        assert store.version == migrations.CURRENT_VERSION
        assert catalog.generation() == 7
        assert [root.path for root in catalog.roots.all()] == [b"/p"]


NEXT = (
    m001_initial.STATEMENTS,
    ["ALTER TABLE roots ADD COLUMN colour TEXT", "UPDATE roots SET colour = 'red'"],
)


def test_later_steps_are_done_once_and_keep_the_rows(original):
    with closing(Link(open_writer(original))) as link:
        assert migrations.migrate(link, original, NEXT) == 1
        assert migrations.migrate(link, original, NEXT) == 0
        assert migrations.version_of(link.driver) == 2
        assert link.driver.execute("SELECT path, colour FROM roots").fetchall() == [(b"/p", "red")]


def test_a_step_that_fails_leaves_the_step_before(original):
    broken = (*NEXT, ["CREATE TABLE half (x)", "no SQL at all"])
    with closing(Link(open_writer(original))) as link:
        with pytest.raises(sqlite3.OperationalError, match="syntax error"):
            migrations.migrate(link, original, broken)
        assert migrations.version_of(link.driver) == 2
        assert link.driver.execute("SELECT * FROM sqlite_master WHERE name = 'half'").fetchall() == []


@pytest.mark.parametrize("access", ["read", "write"])
def test_a_newer_library_is_refused_untouched(original, access):
    connection = sqlite3.connect(original)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    # The switch to a write-ahead log is a write as well: it must not come before the look at the version.
    before = original.read_bytes()
    with pytest.raises(LibraryVersion, match=r"newer clipsearch \(format 99"):
        Store(original, access)
    assert original.read_bytes() == before


def test_a_store_that_cannot_migrate_says_that_it_is_not_current(original, monkeypatch):
    monkeypatch.setattr(catalog_module.migrations, "CURRENT_VERSION", 2)
    monkeypatch.setattr(catalog_module.migrations, "STEPS", NEXT)
    with Store(original) as store:
        assert not store.is_current
