"""Queries for the history of some series at a time.

Reading rows and converting them are separate functions, so that rows can be converted after the connection was
released and writers need not wait for that.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.hours import HourEvaluation, StoredWindow
from exporter.model.span import SeriesKey
from exporter.store.records import StoredSeries, StoredTraffic, evaluation_from_row

_RowsBySeries = Mapping[int, Sequence[tuple[Any, ...]]]


class SeriesRows(NamedTuple):
    """Rows of some series, by series id. The id is also the first column of each row."""

    windows: _RowsBySeries
    evaluations: _RowsBySeries
    suspects: _RowsBySeries
    states: _RowsBySeries

    def suspected_hours(self, series_id: int) -> frozenset[int]:
        """Return the starts of hours that the flag of a series has touched."""
        return frozenset(hour for _, hour in self.suspects.get(series_id, ()))

    def state(self, series_id: int) -> bytes | None:
        """Return the encoded evaluation state of a series."""
        return next((state for _, state in self.states.get(series_id, ())), None)


def query_series(db: sqlite3.Connection, ids: Sequence[int], start: int, end: int, marks_from: int) -> SeriesRows:
    """Read rows for :func:`stored_series`; windows that start before ``marks_from`` come without marks."""
    condition = _id_condition(ids)
    return _series_rows(
        db,
        ids,
        windows=_by_series(
            db,
            "SELECT series_id, window_start, traces, digest, CASE WHEN window_start >= ? THEN marks ELSE x'' END"
            f" FROM digests WHERE {condition} AND window_start >= ? AND window_start < ?"
            " ORDER BY series_id, window_start",
            (marks_from, *ids, start, end),
        ),
        evaluations=_by_series(
            db,
            f"SELECT series_id, hour_start, quarantined, swings FROM judgements WHERE {condition} AND hour_start >= ?",
            (*ids, start),
        ),
    )


def query_traffic(db: sqlite3.Connection, ids: Sequence[int], start: int, end: int) -> SeriesRows:
    """Read rows for :func:`stored_traffic`: windows with traces, and of the evaluations only quarantined hours."""
    condition = _id_condition(ids)
    return _series_rows(
        db,
        ids,
        windows=_by_series(
            db,
            f"SELECT series_id, window_start, traces FROM digests WHERE {condition} AND traces > 0"
            " AND window_start >= ? AND window_start < ? ORDER BY series_id, window_start",
            (*ids, start, end),
        ),
        evaluations=_by_series(
            db,
            f"SELECT series_id, hour_start FROM judgements WHERE {condition} AND hour_start >= ? AND quarantined",
            (*ids, start),
        ),
    )


def stored_series(
    rows: SeriesRows, keys: Mapping[int, SeriesKey], on_damage: Callable[[], None]
) -> Iterator[StoredSeries]:
    """Convert rows to the history of each series that has windows.

    Args:
        rows: from :func:`query_series`.
        keys: series by id.
        on_damage: called for each damaged row.
    """
    for series_id, windows in rows.windows.items():
        yield StoredSeries(
            key=keys[series_id],
            windows=[StoredWindow(*row[1:]) for row in windows],
            evaluations=_evaluations(rows.evaluations.get(series_id, ()), on_damage),
            suspects=rows.suspected_hours(series_id),
            state=rows.state(series_id),
        )


def stored_traffic(rows: SeriesRows, keys: Mapping[int, SeriesKey]) -> Iterator[StoredTraffic]:
    """Convert rows to the trace counts of each series that has windows.

    Args:
        rows: from :func:`query_traffic`.
        keys: series by id.
    """
    for series_id, windows in rows.windows.items():
        yield StoredTraffic(
            key=keys[series_id],
            windows=[(window_start, traces) for _, window_start, traces in windows],
            quarantined=frozenset(hour for _, hour in rows.evaluations.get(series_id, ())),
            suspects=rows.suspected_hours(series_id),
            state=rows.state(series_id),
        )


def _series_rows(
    db: sqlite3.Connection, ids: Sequence[int], *, windows: _RowsBySeries, evaluations: _RowsBySeries
) -> SeriesRows:
    condition = _id_condition(ids)
    return SeriesRows(
        windows=windows,
        evaluations=evaluations,
        suspects=_by_series(db, f"SELECT series_id, hour_start FROM suspects WHERE {condition}", ids),
        states=_by_series(db, f"SELECT series_id, state FROM states WHERE {condition}", ids),
    )


def _id_condition(ids: Collection[int]) -> str:
    return f"series_id IN ({', '.join('?' * len(ids))})"


def _by_series(db: sqlite3.Connection, query: str, parameters: Sequence[object]) -> _RowsBySeries:
    rows: dict[int, list[tuple[Any, ...]]] = {}
    for row in db.execute(query, parameters):
        rows.setdefault(row[0], []).append(row)
    return rows


def _evaluations(rows: Iterable[tuple[Any, ...]], on_damage: Callable[[], None]) -> dict[int, HourEvaluation]:
    """Convert rows of ``judgements``; an hour with a damaged row counts as not evaluated."""
    evaluations = {}
    for _, hour, quarantined, swings in rows:
        try:
            evaluations[hour] = evaluation_from_row(quarantined, swings)
        except DamagedDigestError:
            on_damage()
    return evaluations
