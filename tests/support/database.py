"""In-memory stores that are closed after each test, and the rows of an exporter's database file."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

from exporter.store import Store

Rows = set[tuple[Any, ...]]

_StoreT = TypeVar("_StoreT", bound=Store)
_opened: Final[list[Store]] = []


def memory_store(kind: type[_StoreT] = Store) -> _StoreT:  # type: ignore[assignment]
    """Open a store in memory that is closed after the test."""
    store = kind.in_memory()
    _opened.append(store)
    return store


def close_memory_stores() -> None:
    """Close the stores that :func:`memory_store` opened."""
    while _opened:
        _opened.pop().close()


def windows(database: Path) -> Rows:
    """Ledger entries: start, end, state, traces, stored traces and coverage of each window."""
    return _query(database, "SELECT start, end, state, traces, stored, coverage FROM windows")


def digests(database: Path) -> Rows:
    """Stored histograms and marks by series and window."""
    return _query(
        database,
        "SELECT service_name, span_name, window_start, traces, digest, marks FROM digests"
        " JOIN series ON series.id = digests.series_id",
    )


def judgements(database: Path) -> Rows:
    """Stored evaluations by series and hour."""
    return _query(
        database,
        "SELECT service_name, span_name, hour_start, quarantined, swings FROM judgements"
        " JOIN series ON series.id = judgements.series_id",
    )


def _query(database: Path, query: str) -> Rows:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return set(connection.execute(query))
