"""Reads and writes of the history.

One connection, shared by the exporter's threads under a lock that is held for single statements or one short
transaction; nothing on the scrape path comes here. Every write is a transaction that replaces what was there before,
so repeating one changes nothing.
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
from exporter.store.foreign import refuse_foreign
from exporter.store.histories import histories, history_rows, traffic_rows, traffics
from exporter.store.rows import (
    ENTRY_COLUMNS,
    Findings,
    Pruned,
    SeriesTraffic,
    StoredSeries,
    Totals,
    entry_of,
    row_of,
    swings_bytes,
)
from exporter.store.schema import check_version, migrate

_PRUNED_AT_ONCE: Final = 500
"""Series whose old findings are deleted in one transaction, so that nobody waits for long."""


class Store:
    """The history in SQLite."""

    def __init__(self, connection: Connection) -> None:
        """Use a connection; :meth:`open` and :meth:`in_memory` make one.

        Raises:
            DatabaseTooNewError: a newer exporter wrote the database.
            StoreError: it cannot be read, or brought to the newest version.
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
        """Open or create the database, and keep every other exporter off it.

        Args:
            path: the file.
            on_failure: is told why the database refused something.
            on_damage: is told that the file is damaged, from whichever thread has noticed.

        Raises:
            DatabaseInUseError: another exporter uses it.
            DatabaseTooNewError: a newer exporter wrote it.
            ForeignFileError: it is not an exporter's.
            StoreError: it cannot be opened or created.
        """
        refuse_foreign(path)
        connection = Connection.open(path, on_failure, on_damage)
        try:
            return cls(connection)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open_readonly(cls, path: Path) -> Self:
        """Open an existing database for reading only, beside a running exporter or not: no lock is taken.

        Raises:
            DatabaseTooNewError: a newer exporter wrote it.
            DatabaseTooOldError: an older exporter wrote it, and it must be migrated first.
            ForeignFileError: it is not an exporter's.
            MissingDatabaseError: it is not there.
            StoreError: it cannot be read.
        """
        refuse_foreign(path)
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
        """A store that leaves nothing behind."""
        return cls(Connection.in_memory())

    def close(self) -> None:
        """Close the database and let others use it."""
        self._connection.close()

    # The ledger

    def ledger(self, start: int, end: int) -> list[LedgerEntry]:
        """The ledger's entries that overlap a range, by start."""
        with self._connection.reading("reading the ledger") as db:
            if self._is_void(db):
                return []
            rows = db.execute(
                f"SELECT {ENTRY_COLUMNS} FROM windows WHERE start < ? AND end > ? ORDER BY start",
                (end, start),
            ).fetchall()
        try:
            return [entry_of(*row) for row in rows]
        except ValueError as error:
            raise self._connection.unreadable("reading the ledger") from error

    def commit(self, entries: Sequence[LedgerEntry], contents: Sequence[WindowContent] = ()) -> None:
        """Write windows and their digests in one transaction, in place of whatever stood there.

        Where other traces come to stand than stood there, older than what was judged, that makes the findings void: see
        :meth:`findings_void`.

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
            if _changes_what_was_judged(db, entries):
                db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('findings_void', '1')")
            for entry in entries:
                _forget(db, entry.window)
            db.executemany(
                f"INSERT INTO windows ({ENTRY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                map(row_of, entries),
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
        """All series that have ever been stored and not been deleted, in the order of their first appearance."""
        with self._connection.mutex:
            return list(self._ids)

    def history(
        self, keys: Iterable[SeriesKey], start: int, end: int, *, marks_from: int | None = None, at_once: int = 20
    ) -> Iterator[StoredSeries]:
        """What is stored of some series in the windows that begin in ``[start, end)``.

        The database is held for ``at_once`` series at a time, so that writers wait for milliseconds and memory stays
        small. Series without windows in the range are left out.

        Args:
            keys: the series.
            start: Unix seconds.
            end: Unix seconds.
            marks_from: windows that begin at or after this come with their marks; none do where it is absent.
            at_once: how many series are read in one go.
        """
        with self._connection.mutex:
            names = {self._ids[key]: key for key in keys if key in self._ids}
        ids = sorted(names)
        for position in range(0, len(ids), at_once):
            chunk = ids[position : position + at_once]
            with self._connection.reading("reading the history") as db:
                rows = history_rows(db, chunk, start, end, end if marks_from is None else marks_from)
            yield from histories(rows, names, on_damage=partial(self._connection.on_failure, "corrupt"))

    def traffic(self, keys: Iterable[SeriesKey], start: int, end: int, at_once: int = 200) -> Iterator[SeriesTraffic]:
        """How much is stored of some series in the windows that begin in ``[start, end)``, without their durations.

        As :meth:`history`, it holds the database for ``at_once`` series at a time and leaves out those without windows.
        """
        with self._connection.mutex:
            names = {self._ids[key]: key for key in keys if key in self._ids}
        ids = sorted(names)
        for position in range(0, len(ids), at_once):
            with self._connection.reading("counting the history") as db:
                rows = traffic_rows(db, ids[position : position + at_once], start, end)
            yield from traffics(rows, names)

    # What the detector found

    def record(self, findings: Iterable[Findings]) -> None:
        """Write what judging the past has found, in one transaction.

        Raises:
            StoreError: nothing was written.
        """
        with self._writing("recording what was found about past hours") as db:
            for key, judgements, state, settled_suspects in findings:
                series_id = self._series_id(db, key)
                db.executemany(
                    "INSERT OR REPLACE INTO judgements (series_id, hour_start, quarantined, swings)"
                    " VALUES (?, ?, ?, ?)",
                    ((series_id, hour, found.quarantined, swings_bytes(found)) for hour, found in judgements.items()),
                )
                db.execute("INSERT OR REPLACE INTO states (series_id, state) VALUES (?, ?)", (series_id, state))
                db.executemany(
                    "DELETE FROM suspects WHERE series_id = ? AND hour_start = ?",
                    ((series_id, hour) for hour in settled_suspects),
                )

    def forget_findings(self) -> None:
        """Forget all that was found about the past, so that it is judged anew; suspicions stay.

        Raises:
            StoreError: nothing was forgotten.
        """
        with self._writing("forgetting what was found about past hours") as db:
            db.execute("DELETE FROM judgements")
            db.execute("DELETE FROM states")
            db.execute("DELETE FROM books")
            db.execute("DELETE FROM meta WHERE name IN ('judging_until', 'judged_until', 'findings_void')")

    def findings_void(self) -> bool:
        """Whether traces were written that are older than what was judged, so that all has to be judged anew."""
        with self._connection.reading("reading whether the past was judged as it stands") as db:
            return db.execute("SELECT 1 FROM meta WHERE name = 'findings_void'").fetchone() is not None

    def begin_judging(self, until: int) -> None:
        """Remember that hours up to an instant are about to be judged, be that ever finished or not.

        Raises:
            StoreError: it was not remembered.
        """
        with self._writing("beginning to judge the past") as db:
            until = max(until, _judging_until(db) or 0)
            db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('judging_until', ?)", (str(until),))

    def judged_until(self) -> int | None:
        """Up to when the past was judged; absent if it never was."""
        with self._connection.reading("reading how far the past was judged") as db:
            row = db.execute("SELECT value FROM meta WHERE name = 'judged_until'").fetchone()
        return int(row[0]) if row is not None and row[0].isdecimal() else None

    def set_judged_until(self, until: int) -> None:
        """Remember up to when the past was judged.

        Raises:
            StoreError: it was not remembered.
        """
        with self._writing("remembering how far the past was judged") as db:
            db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('judged_until', ?)", (str(until),))

    def save_book(self, hour_start: int, book: bytes) -> None:
        """Keep the book of an hour over a restart; those of hours before the last one are forgotten.

        Raises:
            StoreError: it was not kept.
        """
        with self._writing("keeping what is usual") as db:
            db.execute("INSERT OR REPLACE INTO books (hour_start, book) VALUES (?, ?)", (hour_start, book))
            db.execute("DELETE FROM books WHERE hour_start < ?", (hour_start - HOUR_SECONDS,))

    def book(self, hour_start: int) -> bytes | None:
        """The book of an hour, if one was kept."""
        with self._connection.reading("reading what is usual") as db:
            row = db.execute("SELECT book FROM books WHERE hour_start = ?", (hour_start,)).fetchone()
        return None if row is None else bytes(row[0])

    def remember(self, flags: Mapping[SeriesKey, str | None], suspects: Mapping[SeriesKey, Collection[int]]) -> None:
        """Keep the flags of some series over a restart, and the hours that they have touched.

        Args:
            flags: a flag as the detector wrote it, or nothing to forget it.
            suspects: starts of hours; they are added to those known.

        Raises:
            StoreError: nothing was written.
        """
        with self._writing("remembering flags") as db:
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
        """The remembered flags."""
        with self._connection.reading("reading the flags") as db:
            rows = db.execute(
                "SELECT service_name, span_name, flag FROM flags JOIN series ON series.id = flags.series_id"
            ).fetchall()
        return {SeriesKey(service, span): flag for service, span, flag in rows}

    # The whole

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

    def totals(self) -> Totals:
        """What stands in the history."""
        with self._connection.reading("counting the history") as db:
            if self._is_void(db):
                return Totals(0, 0, None, 0)
            windows, traces, oldest = db.execute(
                "SELECT count(*), coalesce(sum(stored), 0), min(start) FILTER (WHERE stored > 0) FROM windows"
                " WHERE state IN ('done', 'empty', 'partial')"
            ).fetchone()
            (quarantined,) = db.execute("SELECT count(*) FROM judgements WHERE quarantined").fetchone()
        return Totals(windows, traces, oldest, quarantined)

    def prune(self, before: int) -> Pruned:
        """Delete windows that ended before an instant, and series of which nothing is left.

        Raises:
            StoreError: some of it, or all, still stands.
        """
        with self._connection.reading("looking for old windows") as db:
            old = db.execute("SELECT start, end FROM windows WHERE end <= ? ORDER BY start", (before,)).fetchall()
        if not old:
            return Pruned(0, ())
        for window in old:
            # One transaction each, so that nobody waits for long.
            with self._writing("deleting old windows") as db:
                _forget(db, Window(*window))
        self._prune_findings(before)
        with self._writing("deleting old series") as db:
            gone = self._forget_unused_series(db)
        with self._connection.reading("giving back space") as db:
            # As a script: what `execute` runs of this stops after one page.
            db.executescript("PRAGMA incremental_vacuum")
        return Pruned(len(old), gone)

    def _prune_findings(self, before: int) -> None:
        """Delete what was found about hours that began before an instant, some series at a time."""
        with self._connection.mutex:
            ids = sorted(self._ids.values())
        for position in range(0, len(ids), _PRUNED_AT_ONCE):
            with self._writing("deleting old findings") as db:
                for table in ("judgements", "suspects"):
                    db.executemany(
                        f"DELETE FROM {table} WHERE series_id = ? AND hour_start < ?",
                        ((series_id, before) for series_id in ids[position : position + _PRUNED_AT_ONCE]),
                    )

    def _forget_unused_series(self, db: sqlite3.Connection) -> Sequence[SeriesKey]:
        """Delete series without history and without a flag, so that names of the past do not fill the table."""
        unused = db.execute(
            "SELECT id, service_name, span_name FROM series"
            " WHERE NOT EXISTS (SELECT 1 FROM digests WHERE series_id = series.id)"
            " AND NOT EXISTS (SELECT 1 FROM flags WHERE series_id = series.id)"
        ).fetchall()
        ids = [(series_id,) for series_id, _, _ in unused]
        for table in ("judgements", "suspects", "states"):
            db.executemany(f"DELETE FROM {table} WHERE series_id = ?", ids)
        db.executemany("DELETE FROM series WHERE id = ?", ids)
        gone = [SeriesKey(service, span) for _, service, span in unused]
        for key in gone:
            del self._ids[key]
        return gone

    def size_bytes(self) -> int:
        """What the database occupies, the write-ahead log included."""
        return self._connection.size_bytes()

    @contextmanager
    def _writing(self, doing: str) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it, or nothing, the known series included."""
        with self._connection.mutex:
            known = self._ids.copy()
            try:
                with self._connection.writing(doing) as db:
                    yield db
            except BaseException:
                self._ids = known
                raise


def _reading(db: sqlite3.Connection) -> str | None:
    """What the stored windows were read with; None if no window was committed yet."""
    row = db.execute("SELECT value FROM meta WHERE name = 'reading'").fetchone()
    return None if row is None else str(row[0])


def _judging_until(db: sqlite3.Connection) -> int | None:
    """Up to when hours of some series may have been judged."""
    row = db.execute("SELECT value FROM meta WHERE name = 'judging_until'").fetchone()
    return int(row[0]) if row is not None and row[0].isdecimal() else None


def _changes_what_was_judged(db: sqlite3.Connection, entries: Sequence[LedgerEntry]) -> bool:
    """Whether windows that are about to be written change the past of any hour that may have been judged."""
    until = _judging_until(db)
    if until is None:
        return False
    for entry in entries:
        start, end = entry.window
        if start < until:
            known = db.execute("SELECT stored FROM windows WHERE start = ? AND end = ?", (start, end)).fetchone()
            # As many traces of a window that was read again are the same ones.
            if entry.stored != (known[0] if known else 0):
                return True
    return False


def _forget(db: sqlite3.Connection, window: Window) -> None:
    """Delete every entry that overlaps a window, and its digests."""
    starts = db.execute("SELECT start FROM windows WHERE start < ? AND end > ?", (window.end, window.start)).fetchall()
    db.executemany("DELETE FROM digests WHERE window_start = ?", starts)
    db.executemany("DELETE FROM windows WHERE start = ?", starts)
