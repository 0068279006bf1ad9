"""What stands in an exporter's database once nobody uses it, whatever the order in which it was written."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

Rows = set[tuple[Any, ...]]


def _query(database: Path, query: str) -> Rows:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return set(connection.execute(query))


def windows(database: Path) -> Rows:
    """Start, end and state of every window in the ledger, and the traces in it."""
    return _query(database, "SELECT start, end, state, traces, stored, coverage FROM windows")


def digests(database: Path) -> Rows:
    """What is stored of every series and window."""
    return _query(
        database,
        "SELECT service_name, span_name, window_start, traces, digest, marks FROM digests"
        " JOIN series ON series.id = digests.series_id",
    )


def judgements(database: Path) -> Rows:
    """What was found about every past hour of every series."""
    return _query(
        database,
        "SELECT service_name, span_name, hour_start, quarantined, swings FROM judgements"
        " JOIN series ON series.id = judgements.series_id",
    )
