"""Reads and writes the stored history.

All threads share one connection, whose lock is held for single statements or one short transaction; scrapes never use
it. Every write is a transaction that replaces earlier data, so writes are idempotent.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from exporter.detection.flag import FlagPeriod
from exporter.model.accumulator import WindowContent
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import (
    DamagedDigestError,
    decode_digest,
    encode_digest,
    encode_failures,
    encode_marks,
)
from exporter.model.hour_evaluation import ShiftPeriod
from exporter.model.ledger import LedgerEntry, Window
from exporter.model.span import SeriesKey
from exporter.model.time_mark import REACH_SECONDS
from exporter.store.connection import Connection, OnDamage, OnFailure
from exporter.store.database_file import check_file
from exporter.store.incident_table import IncidentTable
from exporter.store.mark_table import MarkTable
from exporter.store.records import (
    ENTRY_COLUMNS,
    KEY_COLUMNS,
    VOID_MARKS,
    EvaluatedMarks,
    HistoryTotals,
    PruneResult,
    SeriesEvaluation,
    StoredSeries,
    StoredTraffic,
    entry_from_row,
    entry_to_row,
    flag_period_from_row,
    key_from_row,
    key_to_row,
)
from exporter.store.schema import check_version, migrate
from exporter.store.series_queries import (
    newest_failure_rule,
    query_deviations,
    query_other_failures,
    query_series,
    query_traffic,
    stored_deviations,
    stored_series,
    stored_traffic,
)

_LATER_SECONDS: Final = 24 * HOUR_SECONDS
"""Shifts are deleted this much later than the incidents that are assembled from them."""
_PAST_FLAGS: Final = ("shifts", "past_flag_periods")
"""Tables of the flags that fired in the evaluated history."""
_TABLES_OF_SERIES: Final = (
    "judgements",
    "suspects",
    "states",
    "acceptances",
    "evaluated_marks",
    "flag_periods",
    "regression_versions",
    *_PAST_FLAGS,
)
_PRUNED_AT_ONCE: Final = 500
"""Series per transaction when old evaluations are deleted, so that other threads do not wait for long."""


class Store:
    """Stored history in SQLite. Thread-safe.

    Attributes:
        incidents: the incidents.
        marks: the marks on time.
    """

    def __init__(self, connection: Connection) -> None:
        """Migrate the database if necessary; see :meth:`open` and :meth:`in_memory`.

        Raises:
            DatabaseTooNewError: a newer exporter wrote the database.
            StoreError: it cannot be read or migrated.
        """
        self._connection = connection
        self.incidents = IncidentTable(connection)
        self.marks = MarkTable(connection)
        self._reading: str | None = None
        self._identity: str | None = None
        self._failure_rule: str | None = None
        with connection.reading("opening the database") as db:
            migrate(db)
            rows = db.execute(f"SELECT {KEY_COLUMNS}, id FROM series ORDER BY id").fetchall()
        self._ids = {self._key(row): row[-1] for row in rows}

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        on_failure: OnFailure = lambda reason: None,  # noqa: ARG005
        on_damage: OnDamage = lambda: None,
    ) -> Self:
        """Lock and open the database; create it if it does not exist.

        Args:
            path: the file.
            on_failure: called with the reason of every failed read or write.
            on_damage: called when the file turns out to be corrupt, from any thread.

        Raises:
            DatabaseInUseError: another exporter uses it.
            DatabaseTooNewError: a newer exporter wrote it.
            ForeignFileError: it is not an exporter's database.
            StoreError: it cannot be opened or created.
        """
        check_file(path)
        connection = Connection.open(path, on_failure, on_damage)
        try:
            return cls(connection)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open_readonly(cls, path: Path) -> Self:
        """Open an existing database read-only, without a lock, beside a running exporter or not.

        Raises:
            DatabaseTooNewError: a newer exporter wrote it.
            DatabaseTooOldError: an older exporter wrote it, and it must be migrated first.
            ForeignFileError: it is not an exporter's database.
            MissingDatabaseError: it does not exist.
            StoreError: it cannot be read.
        """
        check_file(path)
        connection = Connection.open_readonly(path)
        try:
            with connection.reading(f"opening {path}") as db:
                check_version(db)
            return cls(connection)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def in_memory(cls) -> Self:
        """Create a store in memory."""
        return cls(Connection.in_memory())

    def close(self) -> None:
        """Close the database and release its lock."""
        self._connection.close()

    # Ledger and windows

    def ledger(self, start: int, end: int) -> list[LedgerEntry]:
        """Return the ledger entries that overlap ``[start, end)``, in time order."""
        with self._connection.reading("reading the ledger") as db:
            if self._is_void(db):
                return []
            rows = db.execute(
                f"SELECT {ENTRY_COLUMNS} FROM windows WHERE start < ? AND end > ? ORDER BY start",
                (end, start),
            ).fetchall()
        try:
            return [entry_from_row(*row) for row in rows]
        except ValueError as error:
            raise self._connection.unreadable("reading the ledger") from error

    def commit(self, entries: Sequence[LedgerEntry], contents: Sequence[WindowContent] = ()) -> None:
        """Write windows and their digests in one transaction, replacing all windows that they overlap.

        If this changes traces of hours that may have been evaluated, their evaluations become outdated: see
        :meth:`has_outdated_evaluations`.

        Raises:
            StoreError: nothing was written.
        """
        rows = [
            (
                key,
                content.window.start,
                item.digest.count,
                encode_digest(item.digest),
                encode_marks(item.marks),
                None if item.failures is None else encode_failures(item.failures),
                item.requests,
            )
            for content in contents
            for key, item in content.series.items()
        ]
        with self._writing("recording windows") as db:
            self._write_reading(db)
            if _changes_evaluated_hours(db, entries):
                db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('findings_void', '1')")
            for entry in entries:
                _delete_overlapping_windows(db, entry.window)
            db.executemany(
                f"INSERT INTO windows ({ENTRY_COLUMNS}, failure_rule)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((*entry_to_row(entry), self._failure_rule) for entry in entries),
            )
            ids = [self._series_id(db, row[0]) for row in rows]
            db.executemany(
                "INSERT INTO digests (series_id, window_start, traces, digest, marks, failures, requests)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((series_id, *row[1:]) for series_id, row in zip(ids, rows, strict=True)),
            )

    def update_late(self, entries: Sequence[LedgerEntry]) -> None:
        """Write what is known about late spans in windows, without touching their digests.

        Raises:
            StoreError: nothing was written.
        """
        with self._writing("recording late spans") as db:
            db.executemany(
                "UPDATE windows SET coverage = ?, late_check_at = ?, late_spans = ? WHERE start = ? AND end = ?",
                ((entry.coverage, entry.late_check_at, entry.late_spans, *entry.window) for entry in entries),
            )

    def window_digests(self, windows: Collection[Window]) -> dict[Window, dict[SeriesKey, Digest]]:
        """Return the digests of windows by series; a digest that is damaged is counted and left out.

        Raises:
            StoreError: they cannot be read.
        """
        found: dict[Window, dict[SeriesKey, Digest]] = {}
        with self._connection.reading("reading windows") as db:
            keys = {series_id: key for key, series_id in self._ids.items()}
            for window in windows:
                query = "SELECT id, digest FROM series CROSS JOIN digests ON series_id = id AND window_start = ?"
                digests = found[window] = {}
                for series_id, data in db.execute(query, (window.start,)):
                    try:
                        digests[keys[series_id]] = decode_digest(data)
                    except DamagedDigestError:
                        self._connection.on_failure("corrupt")
        return found

    # Series and their history

    def _series_id(self, db: sqlite3.Connection, key: SeriesKey) -> int:
        series_id = self._ids.get(key)
        if series_id is None:
            cursor = db.execute(f"INSERT INTO series ({KEY_COLUMNS}) VALUES (?, ?, ?)", key_to_row(key))
            series_id = self._ids[key] = int(cursor.lastrowid or 0)
        return series_id

    def _key(self, row: Sequence[Any]) -> SeriesKey:
        """Build the key of a series from the first columns of a row.

        Raises:
            StoreError: its labels are damaged.
        """
        try:
            return key_from_row(*row[:3])
        except ValueError as error:
            raise self._connection.unreadable("reading the series") from error

    def series(self) -> list[SeriesKey]:
        """Return all stored series, in the order in which they were first stored."""
        with self._connection.mutex:
            return list(self._ids)

    def history(
        self, keys: Iterable[SeriesKey], start: int, end: int, *, marks_from: int | None = None, at_once: int = 20
    ) -> Iterator[StoredSeries]:
        """Yield the history of some series in the windows that start in ``[start, end)``, Unix seconds.

        The connection is held for ``at_once`` series at a time, so that writers wait for milliseconds and memory use
        stays small. Series without windows in the range are left out. Failures are unknown in windows that were read
        with another rule than the declared one, or if none was declared, than the newest window.

        Args:
            keys: the series.
            start: start of the range.
            end: end of the range.
            marks_from: marks are loaded for windows that start at or after this, and for those with few traces; None
                means for the latter only.
            at_once: number of series per read.
        """
        with self._connection.mutex:
            keys_by_id = {self._ids[key]: key for key in keys if key in self._ids}
        ids = sorted(keys_by_id)
        for position in range(0, len(ids), at_once):
            chunk = ids[position : position + at_once]
            with self._connection.reading("reading the history") as db:
                rows = query_series(db, chunk, start, end, end if marks_from is None else marks_from)
                others = query_other_failures(db, self._failure_rule, start, end)
            on_damage = partial(self._connection.on_failure, "corrupt")
            yield from stored_series(rows, keys_by_id, others, on_damage)

    def traffic(self, keys: Iterable[SeriesKey], start: int, end: int, at_once: int = 200) -> Iterator[StoredTraffic]:
        """Yield trace counts of some series in the windows that start in ``[start, end)``, Unix seconds.

        Like :meth:`history`, but without reading digests.
        """
        with self._connection.mutex:
            keys_by_id = {self._ids[key]: key for key in keys if key in self._ids}
        ids = sorted(keys_by_id)
        for position in range(0, len(ids), at_once):
            with self._connection.reading("counting the history") as db:
                rows = query_traffic(db, ids[position : position + at_once], start, end)
            yield from stored_traffic(rows, keys_by_id)

    def deviations(
        self, keys: Iterable[SeriesKey], start: int, end: int, at_once: int = 50
    ) -> Iterator[tuple[SeriesKey, dict[int, bytes]]]:
        """Yield the deviations of some series in evaluated hours that start in ``[start, end)``, Unix seconds.

        Hours that are quarantined, and those without deviations, are left out, and so are series without any.

        Args:
            keys: the series; they are yielded in this order.
            start: start of the range.
            end: end of the range.
            at_once: number of series for which the connection is held.

        Yields:
            A series, and its encoded deviations by start of the hour; see :mod:`exporter.model.deviations`.
        """
        with self._connection.mutex:
            ids = [(key, self._ids[key]) for key in keys if key in self._ids]
        for position in range(0, len(ids), at_once):
            chunk = ids[position : position + at_once]
            with self._connection.reading("reading deviations") as db:
                rows = query_deviations(db, [series_id for _, series_id in chunk], start, end)
            for key, series_id in chunk:
                found = stored_deviations(rows.get(series_id, ()), partial(self._connection.on_failure, "corrupt"))
                if found:
                    yield key, found

    # Evaluations, flags and baseline tables

    def save_evaluations(self, results: Iterable[SeriesEvaluation]) -> None:
        """Store results of evaluating settled hours, in one transaction.

        Raises:
            StoreError: nothing was written.
        """
        with self._writing("saving evaluations") as db:
            for result in results:
                series_id = self._series_id(db, result.key)
                db.executemany(
                    "INSERT OR REPLACE INTO judgements (series_id, hour_start, quarantined, swings)"
                    " VALUES (?, ?, ?, ?)",
                    ((series_id, hour, *evaluation.encoded()) for hour, evaluation in result.evaluations.items()),
                )
                db.execute("INSERT OR REPLACE INTO states (series_id, state) VALUES (?, ?)", (series_id, result.state))
                db.executemany(
                    "DELETE FROM suspects WHERE series_id = ? AND hour_start = ?",
                    ((series_id, hour) for hour in result.settled_suspects),
                )
                db.executemany(
                    "INSERT OR IGNORE INTO acceptances (series_id, changepoint) VALUES (?, ?)",
                    ((series_id, changepoint) for changepoint in result.accepted),
                )
                if result.shifts_since is not None:
                    for table in _PAST_FLAGS:
                        db.execute(
                            f"DELETE FROM {table} WHERE series_id = ? AND since >= ?", (series_id, result.shifts_since)
                        )
                db.executemany(
                    "INSERT INTO shifts (series_id, since, until, peak_score) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (series_id, since) DO UPDATE"
                    " SET until = excluded.until, peak_score = max(peak_score, excluded.peak_score)",
                    ((series_id, *shift) for shift in result.shifts),
                )
                db.executemany(
                    "INSERT INTO past_flag_periods (series_id, kind, since, until) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (series_id, kind, since) DO UPDATE SET until = excluded.until",
                    ((series_id, *period) for period in result.flag_periods),
                )
                if result.marks:
                    db.execute(
                        "INSERT OR REPLACE INTO evaluated_marks (series_id, until, signature) VALUES (?, ?, ?)",
                        (series_id, result.evaluated_until, result.marks),
                    )
                else:
                    db.execute("DELETE FROM evaluated_marks WHERE series_id = ?", (series_id,))

    def shifts(self, limit: int) -> list[tuple[SeriesKey, ShiftPeriod]]:
        """Return the shifts of the evaluated history that began last, in any order.

        Args:
            limit: how many at most.

        Raises:
            StoreError: they cannot be read.
        """
        with self._connection.reading("reading the shifts of the past") as db:
            rows = db.execute(
                f"SELECT {KEY_COLUMNS}, since, until, peak_score FROM shifts JOIN series ON series.id = series_id"
                " ORDER BY since DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [(self._key(row), ShiftPeriod(*row[-3:])) for row in rows]

    def acceptances(self) -> dict[SeriesKey, list[int]]:
        """Return the changepoints of all accepted changes by series, also of those in evaluations deleted since.

        Raises:
            StoreError: they cannot be read.
        """
        found: dict[SeriesKey, list[int]] = {}
        with self._connection.reading("reading accepted changes") as db:
            rows = db.execute(
                f"SELECT {KEY_COLUMNS}, changepoint FROM acceptances JOIN series ON series.id = series_id"
            ).fetchall()
        for row in rows:
            found.setdefault(self._key(row), []).append(row[-1])
        return found

    def delete_evaluations(self) -> None:
        """Delete all evaluations, shifts and baseline tables, so that all hours are evaluated again.

        Suspects, flags, incidents and the list of accepted changes stay.

        Raises:
            StoreError: nothing was deleted.
        """
        with self._writing("deleting evaluations") as db:
            db.execute("DELETE FROM judgements")
            db.execute("DELETE FROM states")
            db.execute("DELETE FROM evaluated_marks")
            for table in _PAST_FLAGS:
                db.execute(f"DELETE FROM {table}")
            db.execute("DELETE FROM books")
            db.execute("DELETE FROM meta WHERE name IN ('judging_until', 'judged_until', 'findings_void')")

    def delete_evaluations_of(self, keys: Iterable[SeriesKey]) -> None:
        """Delete the evaluations and shifts of some series, and the baseline tables.

        Until :meth:`save_evaluations` stores others, :meth:`evaluated_marks` has :data:`.VOID_MARKS` for these series.

        Raises:
            StoreError: nothing was deleted.
        """
        with self._writing("deleting evaluations of some series") as db:
            ids = [(self._ids[key],) for key in keys if key in self._ids]
            for table in ("judgements", "states", *_PAST_FLAGS):
                db.executemany(f"DELETE FROM {table} WHERE series_id = ?", ids)
            db.executemany(
                "INSERT OR REPLACE INTO evaluated_marks (series_id, until, signature) VALUES (?, 0, ?)",
                ((*series_id, VOID_MARKS) for series_id in ids),
            )
            db.execute("DELETE FROM books")

    def evaluated_marks(self) -> dict[SeriesKey, EvaluatedMarks]:
        """Return the marks on time that evaluations depend on, of all series that are evaluated.

        A series without any may be evaluated up to the instant that :meth:`begin_evaluation` was given.
        """
        with self._connection.reading("reading the marks that evaluations depend on") as db:
            until = _evaluation_begun_until(db) or 0
            rows = db.execute(
                f"SELECT {KEY_COLUMNS}, coalesce(until, ?), coalesce(signature, '') FROM series"
                " LEFT JOIN states ON states.series_id = id LEFT JOIN evaluated_marks ON evaluated_marks.series_id = id"
                " WHERE state IS NOT NULL OR signature IS NOT NULL",
                (until,),
            ).fetchall()
        return {self._key(row): EvaluatedMarks(*row[-2:]) for row in rows}

    def forget_void_marks(self) -> None:
        """Forget that series must be evaluated again: those that still must have nothing that can be evaluated.

        Raises:
            StoreError: nothing was written.
        """
        with self._writing("recording the evaluation of marked series") as db:
            db.execute("DELETE FROM evaluated_marks WHERE signature = ?", (VOID_MARKS,))

    def has_outdated_evaluations(self) -> bool:
        """Return whether traces of evaluated hours have changed, so that all hours must be evaluated again."""
        with self._connection.reading("reading whether evaluations are outdated") as db:
            return db.execute("SELECT 1 FROM meta WHERE name = 'findings_void'").fetchone() is not None

    def begin_evaluation(self, until: int) -> None:
        """Record that hours up to this time (Unix seconds) are about to be evaluated.

        From then on a change of their traces makes evaluations outdated, even if the evaluation does not finish.

        Raises:
            StoreError: nothing was recorded.
        """
        with self._writing("beginning an evaluation") as db:
            until = max(until, _evaluation_begun_until(db) or 0)
            db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('judging_until', ?)", (str(until),))

    def evaluated_until(self) -> int | None:
        """Return the end of the evaluated history in Unix seconds; None if it was never evaluated."""
        with self._connection.reading("reading the end of the evaluated history") as db:
            row = db.execute("SELECT value FROM meta WHERE name = 'judged_until'").fetchone()
        return int(row[0]) if row is not None and row[0].isdecimal() else None

    def set_evaluated_until(self, until: int) -> None:
        """Record the end of the evaluated history in Unix seconds.

        Raises:
            StoreError: it was not recorded.
        """
        with self._writing("recording the end of the evaluated history") as db:
            db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('judged_until', ?)", (str(until),))

    def save_baseline_table(self, hour_start: int, table: bytes) -> None:
        """Store the encoded baseline table of an hour, and delete those of hours before the previous one.

        Raises:
            StoreError: it was not stored.
        """
        with self._writing("saving the baseline table") as db:
            db.execute("INSERT OR REPLACE INTO books (hour_start, book) VALUES (?, ?)", (hour_start, table))
            db.execute("DELETE FROM books WHERE hour_start < ?", (hour_start - HOUR_SECONDS,))

    def baseline_table(self, hour_start: int) -> bytes | None:
        """Return the encoded baseline table of an hour, if one is stored."""
        with self._connection.reading("reading the baseline table") as db:
            row = db.execute("SELECT book FROM books WHERE hour_start = ?", (hour_start,)).fetchone()
        return None if row is None else bytes(row[0])

    def save_flags(
        self,
        flags: Mapping[SeriesKey, str | None],
        suspects: Mapping[SeriesKey, Collection[int]],
        firing: Mapping[SeriesKey, Mapping[str, float]] | None = None,
        at: float = 0.0,
    ) -> None:
        """Store the flags of some series, so that they survive a restart, and the hours that they touched.

        Args:
            flags: flags as encoded by the detector; None deletes a flag.
            suspects: starts of hours, in Unix seconds, to add to the known ones.
            firing: of some series, the kinds of all flags that fire, with their beginning, Unix seconds. Periods of
                these series in which other flags fired end now.
            at: now, Unix seconds.

        Raises:
            StoreError: nothing was written.
        """
        with self._writing("saving flags") as db:
            for key, flag in flags.items():
                series_id = self._series_id(db, key)
                if flag is None:
                    db.execute("DELETE FROM flags WHERE series_id = ?", (series_id,))
                else:
                    db.execute("INSERT OR REPLACE INTO flags (series_id, flag) VALUES (?, ?)", (series_id, flag))
            db.executemany(
                "INSERT OR IGNORE INTO suspects (series_id, hour_start) VALUES (?, ?)",
                ((self._series_id(db, key), hour) for key, hours in suspects.items() for hour in hours),
            )
            for key, since_by_kind in (firing or {}).items():
                self._save_periods(db, self._series_id(db, key), since_by_kind, at)

    def _save_periods(
        self, db: sqlite3.Connection, series_id: int, since_by_kind: Mapping[str, float], at: float
    ) -> None:
        open_ones = db.execute(
            "SELECT kind, since FROM flag_periods WHERE series_id = ? AND until IS NULL", (series_id,)
        ).fetchall()
        db.executemany(
            "UPDATE flag_periods SET until = max(since, ?) WHERE series_id = ? AND kind = ? AND since = ?",
            ((at, series_id, kind, since) for kind, since in open_ones if since_by_kind.get(kind) != since),
        )
        db.executemany(
            "INSERT INTO flag_periods (series_id, kind, since, until) VALUES (?, ?, ?, NULL)"
            " ON CONFLICT (series_id, kind, since) DO UPDATE SET until = NULL",
            ((series_id, *each) for each in since_by_kind.items() if each not in open_ones),
        )

    def flag_periods(self, key: SeriesKey, since: float) -> list[FlagPeriod]:
        """Return the times in which flags of a series fired, those in current traffic and those found in the history.

        Args:
            key: the series.
            since: leave out what was over by then, Unix seconds.
        """
        with self._connection.mutex:
            series_id = self._ids.get(key)
        if series_id is None:
            return []
        with self._connection.reading("reading the flags of the past") as db:
            rows = db.execute(
                "SELECT kind, since, until FROM flag_periods"
                " WHERE series_id = :id AND (until IS NULL OR until > :since)"
                " UNION ALL SELECT 'shift', since, until FROM shifts"
                " WHERE series_id = :id AND (until IS NULL OR until > :since)"
                " UNION ALL SELECT kind, since, until FROM past_flag_periods"
                " WHERE series_id = :id AND (until IS NULL OR until > :since)",
                {"id": series_id, "since": since},
            ).fetchall()
        return [period for row in rows if (period := flag_period_from_row(*row)) is not None]

    def latest_flag_periods(self, since: float, limit: int) -> list[tuple[SeriesKey, FlagPeriod]]:
        """Return the times in which flags fired in current traffic, of all series, those that began last first.

        Args:
            since: leave out what was over by then, Unix seconds.
            limit: how many at most.
        """
        with self._connection.reading("reading the flags of the last day") as db:
            rows = db.execute(
                f"SELECT {KEY_COLUMNS}, kind, since, until FROM flag_periods JOIN series ON series.id = series_id"
                " WHERE until IS NULL OR until > ? ORDER BY since DESC, series_id LIMIT ?",
                (since, limit),
            ).fetchall()
        found = ((self._key(row), flag_period_from_row(*row[3:])) for row in rows)
        return [(key, period) for key, period in found if period is not None]

    def save_service_flags(self, flags: str) -> None:
        """Store the flags of all services, as encoded by the detector, so that they survive a restart.

        Raises:
            StoreError: they were not stored.
        """
        with self._writing("saving the flags of services") as db:
            db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('service_flags', ?)", (flags,))

    def service_flags(self) -> str | None:
        """Return the stored flags of services; None if there never were any."""
        with self._connection.reading("reading the flags of services") as db:
            return _meta(db, "service_flags")

    def flags(self) -> dict[SeriesKey, str]:
        """Return the stored flags."""
        with self._connection.reading("reading the flags") as db:
            rows = db.execute(
                f"SELECT {KEY_COLUMNS}, flag FROM flags JOIN series ON series.id = flags.series_id"
            ).fetchall()
        return {self._key(row): row[-1] for row in rows}

    # Versions of regressions

    def save_regression_version(self, key: SeriesKey, raised_at: int, document: str) -> None:
        """Store with which version a regression of a series began, replacing that of an earlier one.

        Args:
            key: the series.
            raised_at: when the regression was found, Unix seconds.
            document: what is known of the version.

        Raises:
            StoreError: nothing was written.
        """
        with self._writing("saving the version of a regression") as db:
            db.execute(
                "INSERT OR REPLACE INTO regression_versions (series_id, raised_at, document) VALUES (?, ?, ?)",
                (self._series_id(db, key), raised_at, document),
            )

    def regression_version(self, key: SeriesKey, raised_at: int) -> str | None:
        """Return what is known of the version with which a regression began, as it was stored.

        Raises:
            StoreError: the database cannot be read.
        """
        series_id = self._ids.get(key)
        if series_id is None:
            return None
        with self._connection.reading("reading the version of a regression") as db:
            row = db.execute(
                "SELECT document FROM regression_versions WHERE series_id = ? AND raised_at = ?", (series_id, raised_at)
            ).fetchone()
        return None if row is None else str(row[0])

    # Totals and retention

    def declare_reading(self, description: str) -> str | None:
        """Declare with which scope, tenant and filter the windows are read that will be committed.

        This writes nothing: the transaction of the next :meth:`commit` stores the description with its windows. A
        ledger that was read with another description and holds no traces is void: it reads as empty, and that
        transaction deletes it.

        Returns:
            What the stored traces were read with, where it is something else. The store must not be committed to then.
        """
        with self._connection.reading("reading what the history was read with") as db:
            stored = _reading(db)
            if stored not in (None, description) and db.execute("SELECT 1 FROM digests LIMIT 1").fetchone():
                return stored
            self._reading = description
        return None

    def declare_identity(self, description: str, default: str) -> str | None:
        """Declare by which rules spans get their series in the windows that will be committed.

        As with :meth:`declare_reading`, the next commit stores the description.

        Args:
            description: the rules.
            default: the rules of a history that was stored without a description.

        Returns:
            The rules by which the stored series were named, where they are others.
        """
        with self._connection.reading("reading by which rules series were named") as db:
            stored = _meta(db, "identity") or default
        self._identity = description if stored != description else None
        return self._identity and stored

    def declare_failure_rule(self, description: str | None) -> str | None:
        """Declare by which rule failures are counted in the windows that will be committed.

        From now on failures that were counted by another rule are unknown. They become known again if that rule is
        declared again.

        Args:
            description: the rule; None if failures are not read.

        Returns:
            The rule by which the newest stored failures were counted, where it is another.
        """
        with self._connection.reading("reading by which rule failures were counted") as db:
            stored = newest_failure_rule(db)
        self._failure_rule = description
        return stored if stored != description else None

    def _is_void(self, db: sqlite3.Connection) -> bool:
        return self._reading is not None and _reading(db) not in (None, self._reading)

    def _write_reading(self, db: sqlite3.Connection) -> None:
        if self._is_void(db):
            db.execute("DELETE FROM windows")
        if self._reading is not None and _reading(db) != self._reading:
            db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('reading', ?)", (self._reading,))
        if self._identity is not None:
            db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('identity', ?)", (self._identity,))

    def totals(self) -> HistoryTotals:
        """Return the size of the history."""
        with self._connection.reading("counting the history") as db:
            if self._is_void(db):
                return HistoryTotals(0, 0, None, 0)
            windows, traces, oldest = db.execute(
                "SELECT count(*), coalesce(sum(stored), 0), min(start) FILTER (WHERE stored > 0) FROM windows"
                " WHERE state IN ('done', 'empty', 'partial')"
            ).fetchone()
            (quarantined,) = db.execute("SELECT count(*) FROM judgements WHERE quarantined").fetchone()
        return HistoryTotals(windows, traces, oldest, quarantined)

    def prune(self, before: int) -> PruneResult:
        """Delete windows and incidents that ended by this time (Unix seconds), and series without any data left.

        Raises:
            StoreError: a delete failed; earlier ones are committed.
        """
        with self._connection.reading("looking for old windows") as db:
            old = db.execute("SELECT start, end FROM windows WHERE end <= ? ORDER BY start", (before,)).fetchall()
            has_incidents = db.execute("SELECT 1 FROM incidents WHERE end <= ? LIMIT 1", (before,)).fetchone()
            has_marks = db.execute(
                "SELECT 1 FROM time_marks WHERE until <= ? LIMIT 1", (before - REACH_SECONDS,)
            ).fetchone()
        if has_incidents:
            with self._writing("deleting old incidents") as db:
                db.execute("DELETE FROM incidents WHERE end <= ?", (before,))
        if has_marks:
            with self._writing("deleting old marks") as db:
                db.execute("DELETE FROM time_marks WHERE until <= ?", (before - REACH_SECONDS,))
        with self._writing("deleting old flags") as db:
            db.execute("DELETE FROM flag_periods WHERE until <= ?", (before,))
        if not old:
            return PruneResult(0, ())
        for window in old:
            # One transaction per window, so that other threads do not wait for long.
            with self._writing("deleting old windows") as db:
                _delete_overlapping_windows(db, Window(*window))
        self._prune_evaluations(before)
        with self._writing("deleting old series") as db:
            deleted = self._delete_unused_series(db)
        with self._connection.reading("returning free space") as db:
            # executescript: execute() would stop after the first page.
            db.executescript("PRAGMA incremental_vacuum")
        return PruneResult(len(old), deleted)

    def _prune_evaluations(self, before: int) -> None:
        """Delete evaluations, suspects and shifts of hours before this time, some series per transaction."""
        with self._connection.mutex:
            ids = sorted(self._ids.values())
        for position in range(0, len(ids), _PRUNED_AT_ONCE):
            with self._writing("deleting old evaluations") as db:
                for table in ("judgements", "suspects"):
                    db.executemany(
                        f"DELETE FROM {table} WHERE series_id = ? AND hour_start < ?",
                        ((series_id, before) for series_id in ids[position : position + _PRUNED_AT_ONCE]),
                    )
                # Later, so that an incident whose first shifts are that old keeps its id until it is deleted.
                for table in _PAST_FLAGS:
                    db.executemany(
                        f"DELETE FROM {table} WHERE series_id = ? AND until <= ?",
                        (
                            (series_id, before - _LATER_SECONDS)
                            for series_id in ids[position : position + _PRUNED_AT_ONCE]
                        ),
                    )
                db.executemany(
                    "DELETE FROM acceptances WHERE series_id = ? AND changepoint < ?",
                    ((series_id, before) for series_id in ids[position : position + _PRUNED_AT_ONCE]),
                )

    def _delete_unused_series(self, db: sqlite3.Connection) -> Sequence[SeriesKey]:
        """Delete series without history and without a flag, so that the table does not grow with outdated names."""
        unused = db.execute(
            f"SELECT {KEY_COLUMNS}, id FROM series"
            " WHERE NOT EXISTS (SELECT 1 FROM digests WHERE series_id = series.id)"
            " AND NOT EXISTS (SELECT 1 FROM flags WHERE series_id = series.id)"
        ).fetchall()
        ids = [(row[-1],) for row in unused]
        for table in _TABLES_OF_SERIES:
            db.executemany(f"DELETE FROM {table} WHERE series_id = ?", ids)
        db.executemany("DELETE FROM series WHERE id = ?", ids)
        deleted = [self._key(row) for row in unused]
        for key in deleted:
            del self._ids[key]
        return deleted

    def size_bytes(self) -> int:
        """Return the size of the database, including the WAL file."""
        return self._connection.size_bytes()

    @contextmanager
    def _writing(self, action: str) -> Iterator[sqlite3.Connection]:
        """Run a transaction; a rollback also restores the cached series ids."""
        with self._connection.mutex:
            ids_before = self._ids.copy()
            try:
                with self._connection.writing(action) as db:
                    yield db
            except BaseException:
                self._ids = ids_before
                raise


def _reading(db: sqlite3.Connection) -> str | None:
    """Return the description of what the stored windows were read with; None if no window was committed yet."""
    return _meta(db, "reading")


def _meta(db: sqlite3.Connection, name: str) -> str | None:
    row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _evaluation_begun_until(db: sqlite3.Connection) -> int | None:
    """Return the time up to which hours of some series may have been evaluated."""
    row = db.execute("SELECT value FROM meta WHERE name = 'judging_until'").fetchone()
    return int(row[0]) if row is not None and row[0].isdecimal() else None


def _changes_evaluated_hours(db: sqlite3.Connection, entries: Sequence[LedgerEntry]) -> bool:
    """Return whether writing these entries changes traces of hours that may have been evaluated."""
    until = _evaluation_begun_until(db)
    if until is None:
        return False
    for entry in entries:
        start, end = entry.window
        if start < until:
            row = db.execute("SELECT stored FROM windows WHERE start = ? AND end = ?", (start, end)).fetchone()
            # If a window that was read again has the same number of traces, they are the same traces.
            if entry.stored != (row[0] if row else 0):
                return True
    return False


def _delete_overlapping_windows(db: sqlite3.Connection, window: Window) -> None:
    """Delete all windows that overlap a window, with their digests."""
    starts = db.execute("SELECT start FROM windows WHERE start < ? AND end > ?", (window.end, window.start)).fetchall()
    # Few windows are replaced, so looking up each series costs less than an index that all windows pay for.
    db.executemany("DELETE FROM digests WHERE (series_id, window_start) IN (SELECT id, ? FROM series)", starts)
    db.executemany("DELETE FROM windows WHERE start = ?", starts)
