"""Stored history in SQLite. No other package touches the database."""

from exporter.store.connection import Connection, MissingDatabaseError, StoreError
from exporter.store.database_file import ForeignFileError, move_corrupt_database
from exporter.store.lock import DatabaseInUseError
from exporter.store.records import (
    HistoryTotals,
    PruneResult,
    SeriesEvaluation,
    StoredIncident,
    StoredMark,
    StoredSeries,
    StoredTraffic,
)
from exporter.store.schema import DatabaseTooNewError, DatabaseTooOldError, DatabaseVersionError
from exporter.store.store import Store

__all__ = [
    "Connection",
    "DatabaseInUseError",
    "DatabaseTooNewError",
    "DatabaseTooOldError",
    "DatabaseVersionError",
    "ForeignFileError",
    "HistoryTotals",
    "MissingDatabaseError",
    "PruneResult",
    "SeriesEvaluation",
    "Store",
    "StoreError",
    "StoredIncident",
    "StoredMark",
    "StoredSeries",
    "StoredTraffic",
    "move_corrupt_database",
]
