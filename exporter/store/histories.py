"""Reads what is stored of some series at a time: the queries, and what becomes of their rows.

The rows are turned into histories after the database has been let go, so that writers do not wait for that.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.hours import HourEvaluation, StoredWindow
from exporter.model.span import SeriesKey
from exporter.store.rows import SeriesTraffic, StoredSeries, judgement_of

_BySeries = Mapping[int, Sequence[tuple[Any, ...]]]


class HistoryRows(NamedTuple):
    """What stands in the tables of some series, by the series' id."""

    windows: _BySeries
    judgements: _BySeries
    suspects: _BySeries
    states: _BySeries

    def suspected_hours(self, series_id: int) -> frozenset[int]:
        """The hours that a flag has touched."""
        return frozenset(hour for _, hour in self.suspects.get(series_id, ()))

    def state(self, series_id: int) -> bytes | None:
        """What the detector remembers of the series."""
        return next((state for _, state in self.states.get(series_id, ())), None)


def history_rows(db: sqlite3.Connection, ids: Sequence[int], start: int, end: int, marks_from: int) -> HistoryRows:
    """The rows of histories; windows that begin before ``marks_from`` come without their marks."""
    among = _among(ids)
    return _rows(
        db,
        ids,
        windows=_by_series(
            db,
            "SELECT series_id, window_start, traces, digest, CASE WHEN window_start >= ? THEN marks ELSE x'' END"
            f" FROM digests WHERE {among} AND window_start >= ? AND window_start < ?"
            " ORDER BY series_id, window_start",
            (marks_from, *ids, start, end),
        ),
        judgements=_by_series(
            db,
            f"SELECT series_id, hour_start, quarantined, swings FROM judgements WHERE {among} AND hour_start >= ?",
            (*ids, start),
        ),
    )


def traffic_rows(db: sqlite3.Connection, ids: Sequence[int], start: int, end: int) -> HistoryRows:
    """The rows of traffic: windows that have any, without digests, and of the judgements those that set hours aside."""
    among = _among(ids)
    return _rows(
        db,
        ids,
        windows=_by_series(
            db,
            f"SELECT series_id, window_start, traces FROM digests WHERE {among} AND traces > 0"
            " AND window_start >= ? AND window_start < ? ORDER BY series_id, window_start",
            (*ids, start, end),
        ),
        judgements=_by_series(
            db,
            f"SELECT series_id, hour_start FROM judgements WHERE {among} AND hour_start >= ? AND quarantined",
            (*ids, start),
        ),
    )


def histories(
    rows: HistoryRows, names: Mapping[int, SeriesKey], on_damage: Callable[[], None]
) -> Iterator[StoredSeries]:
    """The histories of those series that have windows.

    Args:
        rows: as :func:`history_rows` read them.
        names: the series by their ids.
        on_damage: is told of each record that is damaged.
    """
    for series_id, windows in rows.windows.items():
        yield StoredSeries(
            key=names[series_id],
            windows=[StoredWindow(*row[1:]) for row in windows],
            judgements=_judgements(rows.judgements.get(series_id, ()), on_damage),
            suspects=rows.suspected_hours(series_id),
            state=rows.state(series_id),
        )


def traffics(rows: HistoryRows, names: Mapping[int, SeriesKey]) -> Iterator[SeriesTraffic]:
    """The traffic of those series that have any.

    Args:
        rows: as :func:`traffic_rows` read them.
        names: the series by their ids.
    """
    for series_id, windows in rows.windows.items():
        yield SeriesTraffic(
            key=names[series_id],
            windows=[(window_start, traces) for _, window_start, traces in windows],
            quarantined=frozenset(hour for _, hour in rows.judgements.get(series_id, ())),
            suspects=rows.suspected_hours(series_id),
            state=rows.state(series_id),
        )


def _rows(db: sqlite3.Connection, ids: Sequence[int], *, windows: _BySeries, judgements: _BySeries) -> HistoryRows:
    among = _among(ids)
    return HistoryRows(
        windows=windows,
        judgements=judgements,
        suspects=_by_series(db, f"SELECT series_id, hour_start FROM suspects WHERE {among}", ids),
        states=_by_series(db, f"SELECT series_id, state FROM states WHERE {among}", ids),
    )


def _among(ids: Collection[int]) -> str:
    return f"series_id IN ({', '.join('?' * len(ids))})"


def _by_series(db: sqlite3.Connection, query: str, parameters: Sequence[object]) -> _BySeries:
    rows: dict[int, list[tuple[Any, ...]]] = {}
    for row in db.execute(query, parameters):
        rows.setdefault(row[0], []).append(row)
    return rows


def _judgements(rows: Iterable[tuple[Any, ...]], on_damage: Callable[[], None]) -> dict[int, HourEvaluation]:
    """What was found about past hours; an hour of which the record is damaged counts as not judged."""
    judgements = {}
    for _, hour, quarantined, swings in rows:
        try:
            judgements[hour] = judgement_of(quarantined, swings)
        except DamagedDigestError:
            on_damage()
    return judgements
