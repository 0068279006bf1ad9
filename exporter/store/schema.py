"""The database's tables and how one version of them becomes the next.

``PRAGMA user_version`` holds the number of migrations applied. A migration is never edited once released: a change is
a further one.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from sqlite_utils import Database


class DatabaseVersionError(Exception):
    """Another version of the exporter wrote the database; the message says what to do."""


class DatabaseTooNewError(DatabaseVersionError):
    """The database was written by a newer exporter."""


class DatabaseTooOldError(DatabaseVersionError):
    """The database was written by an older exporter, and who only reads it cannot bring it up to date."""


def _first(db: Database) -> None:
    """Series, the ledger, digests, and what was found about them."""
    db["series"].create(  # type: ignore[union-attr]
        {"id": int, "service_name": str, "span_name": str},
        pk="id",
        not_null={"service_name", "span_name"},
    )
    db["series"].create_index(["service_name", "span_name"], unique=True)  # type: ignore[union-attr]
    # One line per window that was read, or that could not be.
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
    # Without rowid, and by series first: a baseline reads one series over many windows, in one sweep of neighbouring
    # pages. The second index is for replacing a window and for retention.
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
    # What the detector found: about past hours, and where it stands with each series.
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
    # What is usual in an hour, so that a restart need not work it out before it can judge.
    db["books"].create({"hour_start": int, "book": bytes}, pk="hour_start", not_null={"book"})  # type: ignore[union-attr]
    # What the history was read with: another scope or filter makes another history.
    db["meta"].create({"name": str, "value": str}, pk="name", not_null={"value"})  # type: ignore[union-attr]


def _quarantine_index(db: Database) -> None:
    """Count the quarantined hours, of which there are few, without going through all hours of all series."""
    db.execute("CREATE INDEX quarantined_hours ON judgements(hour_start) WHERE quarantined")


MIGRATIONS: Sequence[Callable[[Database], None]] = (_first, _quarantine_index)


_TABLES_OF_EVERY_VERSION: Final = frozenset({"series", "windows", "digests"})


def is_ours(connection: sqlite3.Connection) -> bool:
    """Whether an exporter has made a database, of whatever version, or whether nobody has put anything into it yet.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if tables:
        return tables >= _TABLES_OF_EVERY_VERSION
    return _version(connection) == 0


def migrate(connection: sqlite3.Connection) -> int:
    """Bring a database to the newest version, each step in a transaction; returns how many steps it took.

    Raises:
        DatabaseTooNewError: it is of a version that this exporter does not know.
        sqlite3.Error: the database refused.
    """
    version = _known_version(connection)
    db = Database(connection, execute_plugins=False)
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        with db.atomic():
            step(db)
            connection.execute(f"PRAGMA user_version = {number}")
    return len(MIGRATIONS) - version


def check_version(connection: sqlite3.Connection) -> None:
    """Make sure that a database needs no migration.

    Raises:
        DatabaseTooNewError: it is of a version that this exporter does not know.
        DatabaseTooOldError: it would have to be migrated first.
        sqlite3.Error: it cannot be read.
    """
    version = _known_version(connection)
    if version < len(MIGRATIONS):
        raise DatabaseTooOldError(
            f"the database is of version {version}, this exporter reads version {len(MIGRATIONS)}. "
            "Start this exporter on it once, which brings it up to date."
        )


def _known_version(connection: sqlite3.Connection) -> int:
    version = _version(connection)
    if version > len(MIGRATIONS):
        raise DatabaseTooNewError(
            f"the database is of version {version}, this exporter knows versions up to {len(MIGRATIONS)}. "
            "Run the newer exporter again, or point storage.path at another file."
        )
    return version


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
