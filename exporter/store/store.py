"""Reads and writes the stored history.

All threads share one connection, whose lock is held for single statements or one short transaction; scrapes never use
it. Every write is a transaction that replaces earlier data, so writes are idempotent.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, Self

from exporter.model.accumulator import WindowContent
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram_codec import encode_digest, encode_marks
from exporter.model.ledger import LedgerEntry, Window
from exporter.model.span import SeriesKey
from exporter.store.connection import Connection, OnDamage, OnFailure
from exporter.store.database_file import check_file
from exporter.store.records import (
    ENTRY_COLUMNS,
    HistoryTotals,
    PruneResult,
    SeriesEvaluation,
    StoredSeries,
    StoredTraffic,
    encode_swings,
    entry_from_row,
    entry_to_row,
)
from exporter.store.schema import check_version, migrate
from exporter.store.series_queries import query_series, query_traffic, stored_series, stored_traffic

_PRUNED_AT_ONCE: Final = 500
"""Series per transaction when old evaluations are deleted, so that other threads do not wait for long."""


class Store:
    """Stored history in SQLite. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        """Migrate the database if necessary; see :meth:`open` and :meth:`in_memory`.

        Raises:
            DatabaseTooNewError: a newer exporter wrote the database.
            StoreError: it cannot be read or migrated.
        """
        self._connection = connection
        self._reading: str | None = None
        with connection.reading("opening the database") as db:
            migrate(db)
            self._ids = {
                SeriesKey(service, span): series_id
                for series_id, service, span in db.execute("SELECT id, service_name, span_name FROM series ORDER BY id")
            }

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
            (key, content.window.start, item.digest.count, encode_digest(item.digest), encode_marks(item.marks))
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
                f"INSERT INTO windows ({ENTRY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                map(entry_to_row, entries),
            )
            ids = [self._series_id(db, row[0]) for row in rows]
            db.executemany(
                "INSERT INTO digests (series_id, window_start, traces, digest, marks) VALUES (?, ?, ?, ?, ?)",
                ((series_id, *row[1:]) for series_id, row in zip(ids, rows, strict=True)),
            )

    # Series and their history

    def _series_id(self, db: sqlite3.Connection, key: SeriesKey) -> int:
        series_id = self._ids.get(key)
        if series_id is None:
            cursor = db.execute("INSERT INTO series (service_name, span_name) VALUES (?, ?)", key)
            series_id = self._ids[key] = int(cursor.lastrowid or 0)
        return series_id

    def series(self) -> list[SeriesKey]:
        """Return all stored series, in the order in which they were first stored."""
        with self._connection.mutex:
            return list(self._ids)

    def history(
        self, keys: Iterable[SeriesKey], start: int, end: int, *, marks_from: int | None = None, at_once: int = 20
    ) -> Iterator[StoredSeries]:
        """Yield the history of some series in the windows that start in ``[start, end)``, Unix seconds.

        The connection is held for ``at_once`` series at a time, so that writers wait for milliseconds and memory use
        stays small. Series without windows in the range are left out.

        Args:
            keys: the series.
            start: start of the range.
            end: end of the range.
            marks_from: marks are loaded for windows that start at or after this; None means for no window.
            at_once: number of series per read.
        """
        with self._connection.mutex:
            keys_by_id = {self._ids[key]: key for key in keys if key in self._ids}
        ids = sorted(keys_by_id)
        for position in range(0, len(ids), at_once):
            chunk = ids[position : position + at_once]
            with self._connection.reading("reading the history") as db:
                rows = query_series(db, chunk, start, end, end if marks_from is None else marks_from)
            yield from stored_series(rows, keys_by_id, on_damage=partial(self._connection.on_failure, "corrupt"))

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

    # Evaluations, flags and baseline tables

    def save_evaluations(self, results: Iterable[SeriesEvaluation]) -> None:
        """Store results of evaluating settled hours, in one transaction.

        Raises:
            StoreError: nothing was written.
        """
        with self._writing("saving evaluations") as db:
            for key, evaluations, state, settled_suspects, accepted in results:
                series_id = self._series_id(db, key)
                db.executemany(
                    "INSERT OR REPLACE INTO judgements (series_id, hour_start, quarantined, swings)"
                    " VALUES (?, ?, ?, ?)",
                    (
                        (series_id, hour, evaluation.quarantined, encode_swings(evaluation))
                        for hour, evaluation in evaluations.items()
                    ),
                )
                db.execute("INSERT OR REPLACE INTO states (series_id, state) VALUES (?, ?)", (series_id, state))
                db.executemany(
                    "DELETE FROM suspects WHERE series_id = ? AND hour_start = ?",
                    ((series_id, hour) for hour in settled_suspects),
                )
                db.executemany(
                    "INSERT OR IGNORE INTO acceptances (series_id, changepoint) VALUES (?, ?)",
                    ((series_id, changepoint) for changepoint in accepted),
                )

    def acceptances(self) -> dict[SeriesKey, list[int]]:
        """Return the changepoints of all accepted changes by series, also of those in evaluations deleted since.

        Raises:
            StoreError: they cannot be read.
        """
        found: dict[SeriesKey, list[int]] = {}
        with self._connection.reading("reading accepted changes") as db:
            rows = db.execute(
                "SELECT service_name, span_name, changepoint FROM acceptances JOIN series ON series.id = series_id"
            )
            for service_name, span_name, changepoint in rows:
                found.setdefault(SeriesKey(service_name, span_name), []).append(changepoint)
        return found

    def delete_evaluations(self) -> None:
        """Delete all evaluations and baseline tables, so that all hours are evaluated again.

        Suspects, flags and the list of accepted changes stay.

        Raises:
            StoreError: nothing was deleted.
        """
        with self._writing("deleting evaluations") as db:
            db.execute("DELETE FROM judgements")
            db.execute("DELETE FROM states")
            db.execute("DELETE FROM books")
            db.execute("DELETE FROM meta WHERE name IN ('judging_until', 'judged_until', 'findings_void')")

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

    def save_flags(self, flags: Mapping[SeriesKey, str | None], suspects: Mapping[SeriesKey, Collection[int]]) -> None:
        """Store the flags of some series, so that they survive a restart, and the hours that they touched.

        Args:
            flags: flags as encoded by the detector; None deletes a flag.
            suspects: starts of hours, in Unix seconds, to add to the known ones.

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

    def flags(self) -> dict[SeriesKey, str]:
        """Return the stored flags."""
        with self._connection.reading("reading the flags") as db:
            rows = db.execute(
                "SELECT service_name, span_name, flag FROM flags JOIN series ON series.id = flags.series_id"
            ).fetchall()
        return {SeriesKey(service, span): flag for service, span, flag in rows}

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

    def _is_void(self, db: sqlite3.Connection) -> bool:
        return self._reading is not None and _reading(db) not in (None, self._reading)

    def _write_reading(self, db: sqlite3.Connection) -> None:
        if self._is_void(db):
            db.execute("DELETE FROM windows")
        if self._reading is not None and _reading(db) != self._reading:
            db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('reading', ?)", (self._reading,))

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
        """Delete windows that ended by this time (Unix seconds), and series without any data left.

        Raises:
            StoreError: a delete failed; earlier ones are committed.
        """
        with self._connection.reading("looking for old windows") as db:
            old = db.execute("SELECT start, end FROM windows WHERE end <= ? ORDER BY start", (before,)).fetchall()
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
        """Delete evaluations and suspects of hours that started before this time, some series per transaction."""
        with self._connection.mutex:
            ids = sorted(self._ids.values())
        for position in range(0, len(ids), _PRUNED_AT_ONCE):
            with self._writing("deleting old evaluations") as db:
                for table in ("judgements", "suspects"):
                    db.executemany(
                        f"DELETE FROM {table} WHERE series_id = ? AND hour_start < ?",
                        ((series_id, before) for series_id in ids[position : position + _PRUNED_AT_ONCE]),
                    )
                db.executemany(
                    "DELETE FROM acceptances WHERE series_id = ? AND changepoint < ?",
                    ((series_id, before) for series_id in ids[position : position + _PRUNED_AT_ONCE]),
                )

    def _delete_unused_series(self, db: sqlite3.Connection) -> Sequence[SeriesKey]:
        """Delete series without history and without a flag, so that the table does not grow with outdated names."""
        unused = db.execute(
            "SELECT id, service_name, span_name FROM series"
            " WHERE NOT EXISTS (SELECT 1 FROM digests WHERE series_id = series.id)"
            " AND NOT EXISTS (SELECT 1 FROM flags WHERE series_id = series.id)"
        ).fetchall()
        ids = [(series_id,) for series_id, _, _ in unused]
        for table in ("judgements", "suspects", "states", "acceptances"):
            db.executemany(f"DELETE FROM {table} WHERE series_id = ?", ids)
        db.executemany("DELETE FROM series WHERE id = ?", ids)
        deleted = [SeriesKey(service, span) for _, service, span in unused]
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
    row = db.execute("SELECT value FROM meta WHERE name = 'reading'").fetchone()
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
    db.executemany("DELETE FROM digests WHERE window_start = ?", starts)
    db.executemany("DELETE FROM windows WHERE start = ?", starts)
