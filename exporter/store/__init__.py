"""The only part that touches SQLite."""

from exporter.store.connection import Connection, MissingDatabaseError, StoreError
from exporter.store.corruption import move_corrupt_database
from exporter.store.foreign import ForeignFileError
from exporter.store.lock import DatabaseInUseError
from exporter.store.rows import Findings, Pruned, SeriesTraffic, StoredSeries, Totals
from exporter.store.schema import DatabaseTooNewError, DatabaseTooOldError, DatabaseVersionError
from exporter.store.store import Store

__all__ = [
    "Connection",
    "DatabaseInUseError",
    "DatabaseTooNewError",
    "DatabaseTooOldError",
    "DatabaseVersionError",
    "Findings",
    "ForeignFileError",
    "MissingDatabaseError",
    "Pruned",
    "SeriesTraffic",
    "Store",
    "StoreError",
    "StoredSeries",
    "Totals",
    "move_corrupt_database",
]
