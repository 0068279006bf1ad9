"""Tables of the database, and migrations between versions.

``PRAGMA user_version`` holds the number of applied migrations. Released migrations are never edited; a change is a new
migration.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from sqlite_utils import Database


class DatabaseVersionError(Exception):
    """Another version of the exporter wrote the database; the message says what to do."""


class DatabaseTooNewError(DatabaseVersionError):
    """A newer exporter wrote the database."""


class DatabaseTooOldError(DatabaseVersionError):
    """An older exporter wrote the database, and it was opened read-only, so it cannot be migrated."""


def _create_tables(db: Database) -> None:
    """Create the tables of series, ledger, digests and evaluations."""
    db["series"].create(  # type: ignore[union-attr]
        {"id": int, "service_name": str, "span_name": str},
        pk="id",
        not_null={"service_name", "span_name"},
    )
    db["series"].create_index(["service_name", "span_name"], unique=True)  # type: ignore[union-attr]
    # The ledger: one row per window that was read, or that could not be read.
    db["windows"].create(  # type: ignore[union-attr]
        {
            "start": int,
            "end": int,
            "state": str,
            "traces": int,
            "stored": int,
            "coverage": float,
            "requests": float,
            "splits": int,
            "duration_seconds": float,
            "attempts": int,
            "retry_at": float,
            "error": str,
            "read_at": float,
        },
        pk="start",
        not_null={"end", "state", "read_at"},
    )
    # WITHOUT ROWID and with the series first in the key, so that the windows of one series, which a baseline needs, are
    # on neighbouring pages. The second index is for replacing windows and for retention.
    db.execute(
        """CREATE TABLE digests (
            series_id INTEGER NOT NULL REFERENCES series(id),
            window_start INTEGER NOT NULL REFERENCES windows(start),
            traces INTEGER NOT NULL,
            digest BLOB NOT NULL,
            marks BLOB,
            PRIMARY KEY (series_id, window_start)
        ) WITHOUT ROWID"""
    )
    db["digests"].create_index(["window_start"], index_name="digests_by_window")  # type: ignore[union-attr]
    # Results of the evaluation of settled hours, and the state of the evaluation of each series.
    db.execute(
        """CREATE TABLE judgements (
            series_id INTEGER NOT NULL REFERENCES series(id),
            hour_start INTEGER NOT NULL,
            quarantined INTEGER NOT NULL,
            swings BLOB NOT NULL,
            PRIMARY KEY (series_id, hour_start)
        ) WITHOUT ROWID"""
    )
    db.execute(
        """CREATE TABLE suspects (
            series_id INTEGER NOT NULL REFERENCES series(id),
            hour_start INTEGER NOT NULL,
            PRIMARY KEY (series_id, hour_start)
        ) WITHOUT ROWID"""
    )
    db["states"].create({"series_id": int, "state": bytes}, pk="series_id", not_null={"state"})  # type: ignore[union-attr]
    db["flags"].create({"series_id": int, "flag": str}, pk="series_id", not_null={"flag"})  # type: ignore[union-attr]
    # Baseline tables, so that after a restart evaluation need not wait for them.
    db["books"].create({"hour_start": int, "book": bytes}, pk="hour_start", not_null={"book"})  # type: ignore[union-attr]
    # Among others the scope, tenant and filter that the history was read with.
    db["meta"].create({"name": str, "value": str}, pk="name", not_null={"value"})  # type: ignore[union-attr]


def _index_quarantined_hours(db: Database) -> None:
    """Index the few quarantined hours, so that counting them needs no scan of the table."""
    db.execute("CREATE INDEX quarantined_hours ON judgements(hour_start) WHERE quarantined")


def _create_acceptances(db: Database) -> None:
    """Create the table of accepted changes, which stays when history is evaluated again."""
    db.execute(
        """CREATE TABLE acceptances (
            series_id INTEGER NOT NULL REFERENCES series(id),
            changepoint INTEGER NOT NULL,
            PRIMARY KEY (series_id, changepoint)
        ) WITHOUT ROWID"""
    )


MIGRATIONS: Sequence[Callable[[Database], None]] = (_create_tables, _index_quarantined_hours, _create_acceptances)


_TABLES_OF_EVERY_VERSION: Final = frozenset({"series", "windows", "digests"})


def is_exporter_database(connection: sqlite3.Connection) -> bool:
    """Return whether a database was created by any version of the exporter, or is empty.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if tables:
        return tables >= _TABLES_OF_EVERY_VERSION
    return _version(connection) == 0


def migrate(connection: sqlite3.Connection) -> int:
    """Migrate a database to the current version, each step in a transaction. Returns the number of steps.

    Raises:
        DatabaseTooNewError: this exporter does not know its version.
        sqlite3.Error: a statement failed.
    """
    version = _known_version(connection)
    db = Database(connection, execute_plugins=False)
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        with db.atomic():
            step(db)
            connection.execute(f"PRAGMA user_version = {number}")
    return len(MIGRATIONS) - version


def check_version(connection: sqlite3.Connection) -> None:
    """Check that a database has the current version.

    Raises:
        DatabaseTooNewError: this exporter does not know its version.
        DatabaseTooOldError: it needs a migration.
        sqlite3.Error: it cannot be read.
    """
    version = _known_version(connection)
    if version < len(MIGRATIONS):
        raise DatabaseTooOldError(
            f"the database has version {version}, and this exporter reads version {len(MIGRATIONS)}. "
            "Run this exporter on it once to migrate it."
        )


def _known_version(connection: sqlite3.Connection) -> int:
    version = _version(connection)
    if version > len(MIGRATIONS):
        raise DatabaseTooNewError(
            f"the database has version {version}, and this exporter supports versions up to {len(MIGRATIONS)}. "
            "Run the newer exporter again, or set storage.path to another file."
        )
    return version


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
