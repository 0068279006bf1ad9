"""Query plans: tables that grow with series and hours are only accessed by index."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from exporter.model.accumulator import WindowContent, WindowDigest
from exporter.model.histogram import Digest
from exporter.model.hour_evaluation import HourEvaluation, ShiftPeriod
from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.model.span import SeriesKey
from exporter.store import Connection, SeriesEvaluation, Store, StoredIncident
from exporter.store.schema import MIGRATIONS
from tests.support.older_database import make_older

HOUR = 3600
KEYS = [SeriesKey("shop", f"GET /{name}") for name in "abc"]
LARGE = ("digests", "judgements", "suspects", "shifts", "flag_periods")
"""Tables with a row per series and hour, or per shift. The others have at most a row per series or per window."""


def entry(start: int) -> LedgerEntry:
    window = Window(start, start + HOUR)
    return LedgerEntry(window, WindowState.DONE, read_at=0.0, traces=3, stored=3, coverage=1.0)


def content(start: int) -> WindowContent:
    digest = Digest.of_ns([10**8])
    window = Window(start, start + HOUR)
    return WindowContent(window, {key: WindowDigest(digest, {1: digest}) for key in KEYS}, {})


def plan(connection: sqlite3.Connection, statement: str) -> list[str]:
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]


def test_no_statement_scans_a_large_table(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "plans.db")
    with closing(Store(Connection(connection))) as store:
        traced: list[str] = []
        connection.set_trace_callback(traced.append)
        store.commit([entry(hour * HOUR) for hour in range(4)], [content(hour * HOUR) for hour in range(4)])
        store.commit([entry(HOUR)], [content(HOUR)])
        store.save_evaluations(
            [
                SeriesEvaluation(
                    key, {0: HourEvaluation(quarantined=True)}, b"{}", [0], [0], [ShiftPeriod(0.0, 9.0, 1.0)], 0
                )
                for key in KEYS
            ]
        )
        assert len(store.shifts(9)) == len(KEYS)
        store.save_flags(dict.fromkeys(KEYS, "[]"), {KEYS[0]: [0, HOUR]})
        store.save_flags(dict.fromkeys(KEYS), {}, {key: {"shift": 1.0} for key in KEYS}, 2.0)
        store.save_flags({}, {}, {KEYS[0]: {}}, 3.0)
        assert len(store.flag_periods(KEYS[0], 0.0)) == 2
        assert len(store.latest_flag_periods(0.0, 9)) == len(KEYS)
        store.save_baseline_table(0, b"")
        list(store.history(store.series(), 0, 4 * HOUR, marks_from=HOUR))
        list(store.traffic(store.series(), 0, 4 * HOUR))
        list(store.deviations(store.series(), 0, 4 * HOUR))
        store.save_service_flags("[]")
        assert store.service_flags() == "[]"
        store.ledger(0, 2 * HOUR)
        store.flags()
        store.baseline_table(0)
        assert store.totals().quarantined == len(KEYS)
        store.incidents.save([StoredIncident("a", 0.0, HOUR, "{}"), StoredIncident("b", 1.0, None, "{}")])
        assert (
            [each.id for each in store.incidents.newest(1)] == [each.id for each in store.incidents.unended()] == ["b"]
        )
        assert store.incidents.get("a") is not None
        store.prune(2 * HOUR)
        connection.set_trace_callback(None)

        steps = 0
        for statement in dict.fromkeys(traced):
            if re.match(r"(SELECT|DELETE|UPDATE|INSERT)\b", statement):
                for step in plan(connection, statement):
                    steps += 1
                    scan = re.match(r"SCAN (\w+)(.*)", step)
                    assert not scan or scan[1] not in LARGE or "quarantined_hours" in scan[2] or "LIMIT" in statement, (
                        step,
                        statement,
                    )
        assert steps > 15


def test_prune_returns_free_pages_of_many_series(tmp_path: Path) -> None:
    path = tmp_path / "shrinks.db"
    keys = [SeriesKey("shop", f"GET /{number}-of-many") for number in range(300)]
    digest = Digest.of_ns([10**6 * (number + 1) for number in range(60)])
    with closing(Store.open(path)) as store:
        for hour in range(24):
            window = Window(hour * HOUR, (hour + 1) * HOUR)
            store.commit(
                [entry(hour * HOUR)],
                [WindowContent(window, {key: WindowDigest(digest, {1: digest}) for key in keys}, {})],
            )
    full = path.stat().st_size
    with closing(Store.open(path)) as store:
        assert store.prune(20 * HOUR).windows == 20
    assert path.stat().st_size < 0.4 * full


def test_database_of_version_1_is_migrated_with_its_content(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(Store.open(path)) as store:
        store.commit([entry(0)], [content(0)])
        store.save_evaluations([SeriesEvaluation(KEYS[0], {0: HourEvaluation(quarantined=True)}, b"{}", [])])
        before = [stored._replace(evaluations={}, state=None) for stored in store.history(store.series(), 0, HOUR)]
    make_older(path, 1)

    with closing(Store.open(path)) as store:
        # Evaluations of another method are void.
        assert list(store.history(store.series(), 0, HOUR)) == before
        assert store.ledger(0, HOUR) == [entry(0)]
        assert store.totals().quarantined == 0
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
