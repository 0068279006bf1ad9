"""The only part that touches SQLite."""

from exporter.store.connection import Connection, MissingDatabaseError, StoreError
from exporter.store.corruption import set_aside
from exporter.store.foreign import ForeignFileError
from exporter.store.lock import DatabaseInUseError
from exporter.store.rows import Findings, Pruned, SeriesHistory, SeriesTraffic, Totals
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
    "SeriesHistory",
    "SeriesTraffic",
    "Store",
    "StoreError",
    "Totals",
    "set_aside",
]
