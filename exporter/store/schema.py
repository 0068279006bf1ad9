"""Tables of the database, and migrations between versions.

``PRAGMA user_version`` holds the number of applied migrations. Released migrations are never edited; a change is a new
migration.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from exporter.store.library import Database


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
    # on neighbouring pages. The second index is for replacing windows and for retention; a later migration drops it.
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


def _add_late_spans(db: Database) -> None:
    """Add when windows are checked for spans that came late, and how many of them the record lacks."""
    db.execute("ALTER TABLE windows ADD COLUMN late_check_at REAL")
    db.execute("ALTER TABLE windows ADD COLUMN late_spans INTEGER DEFAULT 0")


def _add_labels(db: Database) -> None:
    """Add the labels of a series, a JSON object of those it has; empty for none, so that all series stay what they are.

    The names are stored with the values: another configuration may have other labels, or the same in another order.
    """
    db.execute("ALTER TABLE series ADD COLUMN labels TEXT NOT NULL DEFAULT ''")
    db.execute("DROP INDEX idx_series_service_name_span_name")
    db["series"].create_index(["service_name", "span_name", "labels"], unique=True)  # type: ignore[union-attr]


def _delete_evaluations(db: Database) -> None:
    """Delete all evaluations: they lack what the present method needs, or have another encoding.

    So all hours are evaluated again.
    """
    db.execute("DELETE FROM judgements")
    db.execute("DELETE FROM states")
    db.execute("DELETE FROM books")
    db.execute("DELETE FROM meta WHERE name IN ('judging_until', 'judged_until', 'findings_void')")


def _create_incidents(db: Database) -> None:
    """Create the table of incidents, each a JSON document; those without an end last."""
    db.execute(
        """CREATE TABLE incidents (
            id TEXT PRIMARY KEY NOT NULL,
            start REAL NOT NULL,
            end REAL,
            document TEXT NOT NULL
        ) WITHOUT ROWID"""
    )
    db.execute("CREATE INDEX incidents_by_start ON incidents(start, id)")


def _create_shifts(db: Database) -> None:
    """Create the table of past shifts, from which incidents of the past are assembled.

    All hours are evaluated again, because the shifts of those that are evaluated are not known.
    """
    db.execute(
        """CREATE TABLE shifts (
            series_id INTEGER NOT NULL REFERENCES series(id),
            since REAL NOT NULL,
            until REAL,
            peak_score REAL NOT NULL,
            PRIMARY KEY (series_id, since)
        ) WITHOUT ROWID"""
    )
    db.execute("CREATE INDEX shifts_by_beginning ON shifts(since)")
    db.execute("ALTER TABLE incidents ADD COLUMN is_reconstructed INTEGER NOT NULL DEFAULT 0")
    db.execute("CREATE INDEX reconstructed_incidents ON incidents(start) WHERE is_reconstructed")
    _delete_evaluations(db)


def _add_failures(db: Database) -> None:
    """Add how many requests of a window failed, by which rule, and how many Tempo counts.

    They are unknown of all windows that were read before.
    """
    db.execute("ALTER TABLE digests ADD COLUMN failures BLOB")
    db.execute("ALTER TABLE digests ADD COLUMN requests INTEGER")
    db.execute("ALTER TABLE windows ADD COLUMN failure_rule TEXT")


def _create_flag_periods(db: Database) -> None:
    """Create the table of the times in which flags fired in current traffic; those without an end fire still."""
    db.execute(
        """CREATE TABLE flag_periods (
            series_id INTEGER NOT NULL REFERENCES series(id),
            kind TEXT NOT NULL,
            since REAL NOT NULL,
            until REAL,
            PRIMARY KEY (series_id, kind, since)
        ) WITHOUT ROWID"""
    )
    db.execute("CREATE INDEX flag_periods_by_end ON flag_periods(until)")


def _create_time_marks(db: Database) -> None:
    """Create the tables of marks on time, each a JSON document, and of those that evaluations depend on."""
    db.execute(
        """CREATE TABLE time_marks (
            id TEXT PRIMARY KEY NOT NULL,
            source TEXT NOT NULL,
            until INTEGER,
            document TEXT NOT NULL
        ) WITHOUT ROWID"""
    )
    db.execute(
        """CREATE TABLE evaluated_marks (
            series_id INTEGER PRIMARY KEY NOT NULL REFERENCES series(id),
            until INTEGER NOT NULL,
            signature TEXT NOT NULL
        )"""
    )


def _create_past_flag_periods(db: Database) -> None:
    """Create the table of the times in which flags about errors and traffic fired in the evaluated history.

    All hours are evaluated again, because the flags of those that are evaluated are not known.
    """
    db.execute(
        """CREATE TABLE past_flag_periods (
            series_id INTEGER NOT NULL REFERENCES series(id),
            kind TEXT NOT NULL,
            since REAL NOT NULL,
            until REAL,
            PRIMARY KEY (series_id, kind, since)
        ) WITHOUT ROWID"""
    )
    _delete_evaluations(db)


def _create_regression_versions(db: Database) -> None:
    """Create the table of the versions with which the latest regression of each series began, as JSON documents."""
    db.execute(
        """CREATE TABLE regression_versions (
            series_id INTEGER PRIMARY KEY NOT NULL REFERENCES series(id),
            raised_at INTEGER NOT NULL,
            document TEXT NOT NULL
        )"""
    )


def _drop_index_of_windows(db: Database) -> None:
    """Drop the index of digests by window: series are few, and looked up one by one where a window is replaced."""
    db.execute("DROP INDEX IF EXISTS digests_by_window")


MIGRATIONS: Sequence[Callable[[Database], None]] = (
    _create_tables,
    _index_quarantined_hours,
    _create_acceptances,
    _add_late_spans,
    _add_labels,
    _delete_evaluations,
    _create_incidents,
    _create_shifts,
    _add_failures,
    _delete_evaluations,
    _delete_evaluations,
    _create_flag_periods,
    _create_time_marks,
    _create_past_flag_periods,
    _drop_index_of_windows,
    _create_regression_versions,
)


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
