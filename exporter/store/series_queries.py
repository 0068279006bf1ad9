"""Queries for the history of some series at a time.

Reading rows and converting them are separate functions, so that rows can be converted after the connection was
released and writers need not wait for that.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple, cast

from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.series_hour import MAX_RUN_TRACES, StoredWindow
from exporter.model.span import SeriesKey
from exporter.store.records import StoredSeries, StoredTraffic, deviations_from_row, evaluations_from_rows

_RowsBySeries = Mapping[int, Sequence[tuple[Any, ...]]]


class SeriesRows(NamedTuple):
    """Rows of some series, by series id."""

    windows: _RowsBySeries
    evaluations: _RowsBySeries
    suspects: _RowsBySeries
    states: _RowsBySeries

    def suspected_hours(self, series_id: int) -> frozenset[int]:
        """Return the starts of hours that the flag of a series has touched."""
        return frozenset(hour for (hour,) in self.suspects.get(series_id, ()))

    def state(self, series_id: int) -> bytes | None:
        """Return the encoded evaluation state of a series."""
        return next((state for (state,) in self.states.get(series_id, ())), None)


def query_series(db: sqlite3.Connection, ids: Sequence[int], start: int, end: int, marks_from: int) -> SeriesRows:
    """Read rows for :func:`stored_series`.

    Windows that start before ``marks_from`` come without marks, except those with few traces, whose runs may be needed.
    """
    return _series_rows(
        db,
        ids,
        windows=_by_series(
            db,
            "SELECT window_start, traces, digest,"
            f" CASE WHEN window_start >= ?2 OR traces <= {MAX_RUN_TRACES} THEN marks ELSE x'' END, failures, requests"
            " FROM digests WHERE series_id = ?1 AND window_start >= ?3 AND window_start < ?4 ORDER BY window_start",
            ids,
            (marks_from, start, end),
        ),
        evaluations=_by_series(
            db,
            "SELECT hour_start, quarantined, swings FROM judgements WHERE series_id = ? AND hour_start >= ?",
            ids,
            (start,),
        ),
    )


def newest_failure_rule(db: sqlite3.Connection) -> str | None:
    """Return the rule by which failures were counted in the newest window that has one; None without any."""
    rows = db.execute("SELECT failure_rule FROM windows WHERE failure_rule IS NOT NULL ORDER BY start DESC LIMIT 1")
    return next((str(rule) for (rule,) in rows), None)


def query_other_failures(db: sqlite3.Connection, rule: str | None, start: int, end: int) -> frozenset[int]:
    """Return the starts of windows whose failures were counted by another rule than this one.

    Args:
        db: the connection.
        rule: the rule; None for that of the newest window that has one.
        start: start of the range of windows, Unix seconds.
        end: end of the range.
    """
    if rule is None:
        rule = newest_failure_rule(db)
    rows = db.execute(
        "SELECT start FROM windows WHERE start >= ? AND start < ? AND failure_rule IS NOT ?", (start, end, rule)
    )
    return frozenset(window_start for (window_start,) in rows)


def query_traffic(db: sqlite3.Connection, ids: Sequence[int], start: int, end: int) -> SeriesRows:
    """Read rows for :func:`stored_traffic`: windows with traces, and of the evaluations only quarantined hours."""
    return _series_rows(
        db,
        ids,
        windows=_by_series(
            db,
            "SELECT window_start, traces FROM digests WHERE series_id = ? AND traces > 0"
            " AND window_start >= ? AND window_start < ? ORDER BY window_start",
            ids,
            (start, end),
        ),
        evaluations=_by_series(
            db,
            "SELECT hour_start FROM judgements WHERE series_id = ? AND hour_start >= ? AND quarantined",
            ids,
            (start,),
        ),
    )


def query_deviations(db: sqlite3.Connection, ids: Sequence[int], start: int, end: int) -> _RowsBySeries:
    """Read rows for :func:`stored_deviations`."""
    return _by_series(
        db,
        "SELECT hour_start, swings FROM judgements WHERE series_id = ? AND hour_start >= ? AND hour_start < ?"
        " AND NOT quarantined",
        ids,
        (start, end),
    )


def stored_deviations(rows: Iterable[tuple[Any, ...]], on_damage: Callable[[], None]) -> dict[int, bytes]:
    """Convert rows of one series to its deviations by start of the hour, without hours that have none.

    Args:
        rows: from :func:`query_deviations`.
        on_damage: called for each damaged row.
    """
    found = {}
    for hour, swings in rows:
        try:
            deviations = deviations_from_row(swings)
        except DamagedDigestError:
            on_damage()
            continue
        if deviations:
            found[hour] = deviations
    return found


def stored_series(
    rows: SeriesRows, keys: Mapping[int, SeriesKey], other_failures: Collection[int], on_damage: Callable[[], None]
) -> Iterator[StoredSeries]:
    """Convert rows to the history of each series that has windows.

    Args:
        rows: from :func:`query_series`.
        keys: series by id.
        other_failures: starts of windows whose failures count as unknown, from :func:`query_other_failures`.
        on_damage: called for each damaged row.
    """
    for series_id, windows in rows.windows.items():
        yield StoredSeries(
            key=keys[series_id],
            windows=[_window(row, other_failures) for row in windows]
            if other_failures
            # As StoredWindow._make() does, in half the time.
            else cast("list[StoredWindow]", list(map(tuple.__new__, repeat(StoredWindow), windows))),
            evaluations=evaluations_from_rows(rows.evaluations.get(series_id, ()), on_damage),
            suspects=rows.suspected_hours(series_id),
            state=rows.state(series_id),
        )


def _window(row: tuple[Any, ...], other_failures: Collection[int]) -> StoredWindow:
    window = StoredWindow(*row)
    return window._replace(failures=None) if window.start in other_failures else window


def stored_traffic(rows: SeriesRows, keys: Mapping[int, SeriesKey]) -> Iterator[StoredTraffic]:
    """Convert rows to the trace counts of each series that has windows.

    Args:
        rows: from :func:`query_traffic`.
        keys: series by id.
    """
    for series_id, windows in rows.windows.items():
        yield StoredTraffic(
            key=keys[series_id],
            windows=[(window_start, traces) for window_start, traces in windows],
            quarantined=frozenset(hour for (hour,) in rows.evaluations.get(series_id, ())),
            suspects=rows.suspected_hours(series_id),
            state=rows.state(series_id),
        )


def _series_rows(
    db: sqlite3.Connection, ids: Sequence[int], *, windows: _RowsBySeries, evaluations: _RowsBySeries
) -> SeriesRows:
    return SeriesRows(
        windows=windows,
        evaluations=evaluations,
        suspects=_by_series(db, "SELECT hour_start FROM suspects WHERE series_id = ?", ids),
        states=_by_series(db, "SELECT state FROM states WHERE series_id = ?", ids),
    )


def _by_series(
    db: sqlite3.Connection, query: str, ids: Iterable[int], parameters: Sequence[object] = ()
) -> _RowsBySeries:
    """Return the rows of each series that has any, from a query whose first parameter is its id."""
    found = ((series_id, db.execute(query, (series_id, *parameters)).fetchall()) for series_id in ids)
    return {series_id: rows for series_id, rows in found if rows}
