"""Tables as the manager builds them from the stored history."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.baseline.levels import FallbackLevel
from exporter.detection.detector import decode_state
from exporter.model.calendar import HourClock
from exporter.model.hours import hours_of
from exporter.model.span import SeriesKey
from exporter.store import Store
from tests.support.evaluation import STRICTER, UTC_CALENDAR, ManagerBench, WatchedStore, ledger_status
from tests.support.samples import DAY, HOUR, KEY, NOON, SETTINGS, around, commit_hour, events

OTHER = SeriesKey("checkout", "POST /pay")
NOW = NOON + 600.0
SATURDAY = NOON - 3 * DAY


@pytest.fixture
def store() -> Iterator[WatchedStore]:
    store = WatchedStore.in_memory()
    yield store
    store.close()


class TestBaseline:
    @pytest.mark.parametrize(
        ("level", "starts", "per_hour"),
        [
            (FallbackLevel.EXACT, [NOON - days * DAY for days in (1, 4, 5, 6, 7)], 20),
            (FallbackLevel.NEARBY, [NOON - days * DAY + 2 * HOUR for days in (1, 4, 5, 6)], 10),
            (FallbackLevel.DAYTYPE, [NOON - days * DAY - 8 * HOUR for days in (1, 4, 5, 6)], 20),
            (FallbackLevel.GLOBAL, [SATURDAY + hours * HOUR for hours in (0, 6, 18, 24)], 20),
        ],
    )
    def test_a_level_serves_if_more_specific_levels_have_too_little(
        self, store: Store, level: FallbackLevel, starts: list[int], per_hour: int
    ) -> None:
        bench = ManagerBench(store)
        everything: list[float] = []
        for number, start in enumerate(starts):
            seconds = around(0.1 + 0.002 * number, per_hour)
            everything += seconds
            bench.write(start, {KEY: seconds})
        bench.manager.catch_up(NOW)
        series = bench.table(NOW).get(KEY)
        assert series.baseline is not None
        assert (series.baseline.level, series.baseline.mature) == (level, True)
        assert (series.baseline.windows, series.baseline.count) == (len(starts), len(everything))
        everything.sort()
        assert series.baseline.p50_seconds == pytest.approx(everything[len(everything) // 2 - 1], rel=0.0111)
        assert series.baseline.p95_seconds == pytest.approx(everything[len(everything) * 95 // 100 - 1], rel=0.0111)
        assert series.outlier_threshold_seconds == SETTINGS.outlier.threshold_seconds(series.baseline)
        assert series.thresholds is not None
        assert series.last_seen == max(starts) + HOUR

    def test_too_little_history_on_every_level_gives_no_baseline(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.write(NOON - DAY, {KEY: around(0.1, 19)})
        bench.manager.catch_up(NOW)
        series = bench.table(NOW).get(KEY)
        assert (series.baseline, series.thresholds, series.last_seen) == (None, None, NOON - DAY + HOUR)

    def test_history_of_one_day_gives_a_baseline_without_a_verdict(self, store: Store) -> None:
        bench = ManagerBench(store)
        for start in (NOON - DAY - 2 * HOUR, NOON - DAY, NOON - DAY + 2 * HOUR):
            bench.write(start, {KEY: around(0.1, 40)})
        bench.manager.catch_up(NOW)
        series = bench.table(NOW).get(KEY)
        assert series.baseline is not None
        assert not series.baseline.mature
        assert series.thresholds is None
        assert series.outlier_threshold_seconds is not None

    def test_series_do_not_mix(self, store: Store) -> None:
        bench = ManagerBench(store)
        for days in (1, 4, 5):
            bench.write(NOON - days * DAY, {KEY: around(0.1, 60), OTHER: around(2.0, 30)})
        bench.manager.catch_up(NOW)
        table = bench.table(NOW)
        assert [table.get(key).baseline is not None for key in (KEY, OTHER)] == [True, True]
        assert {key: series.baseline.count for key, series in table.series.items() if series.baseline} == {
            KEY: 180,
            OTHER: 90,
        }

    def test_damaged_history_of_one_series_does_not_affect_the_others(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "history.db"
        store = Store.open(path)
        for start in range(NOON - 5 * DAY, NOON, HOUR):
            commit_hour(store, start, {KEY: around(0.1, 60), OTHER: around(0.2, 60)})
        store.close()
        connection = sqlite3.connect(path)
        connection.execute(
            "UPDATE digests SET digest = x'ff' WHERE series_id = (SELECT id FROM series WHERE span_name = ?)",
            (KEY.span_name,),
        )
        connection.commit()
        connection.close()

        bench = ManagerBench(Store.open(path))
        bench.manager.catch_up(NOW)
        bench.manager.catch_up(NOW)
        table = bench.table(NOW)
        assert table.get(KEY).baseline is None
        assert table.get(OTHER).baseline is not None
        assert table.get(OTHER).thresholds is not None
        assert bench.store.evaluated_until() == NOON
        assert sorted(events(caplog)) == ["baseline_damaged", "series_damaged"]
        bench.store.close()


class TestTable:
    def test_without_history_the_table_is_empty(self, store: Store) -> None:
        table = ManagerBench(store).table(NOW)
        assert (table.start, table.series) == (NOON, {})

    def test_holds_thresholds_of_the_hours_that_an_evaluation_window_reaches_into(self, store: Store) -> None:
        bench = ManagerBench(store)
        for days in (1, 4, 5):
            bench.write(NOON - days * DAY, {KEY: around(0.1, 60)})
            bench.write(NOON - HOUR - days * DAY, {KEY: around(0.3, 60)})
        bench.manager.catch_up(NOW)
        present, before = bench.table(NOW).schedule(KEY)
        assert (present.start, before.start) == (NOON, NOON - HOUR)
        assert before.thresholds.quantiles[0].baseline > present.thresholds.quantiles[0].baseline

    def test_thresholds_of_an_earlier_hour_do_not_depend_on_that_hour(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.write_days(2, until=NOON - HOUR)
        # Not enough for an incident, but more swing than before.
        bench.write(NOON - HOUR, {KEY: around(0.13, 60)})
        bench.manager.catch_up(NOW)
        (stored,) = store.history([KEY], 0, NOON)
        assert stored.state is not None
        *_, before, last = [
            hour.evaluation for hour in hours_of(stored.windows, HourClock(UTC_CALENDAR), stored.evaluations)
        ]
        assert last.swings[0] > 10 * before.swings[0]
        assert not last.quarantined
        assert bench.table(NOW).schedule(KEY)[1] == decode_state(stored.state).schedule[0]

    def test_has_no_thresholds_while_the_evaluation_is_more_than_three_hours_behind(self, store: Store) -> None:
        bench = ManagerBench(store, settled_until=NOON - 3 * HOUR - 1)
        bench.write_days(8)
        bench.manager.catch_up(NOW)
        table = bench.table(NOW)
        series = table.get(KEY)
        assert series.baseline is not None
        assert series.baseline.mature
        assert series.thresholds is None
        assert not table.is_evaluated
        bench.settled_until = NOON - 3 * HOUR
        bench.manager.catch_up(NOW)
        assert bench.table(NOW).get(KEY).thresholds is not None
        assert bench.table(NOW).is_evaluated


class TestStoredTable:
    def test_is_used_after_a_restart_without_reading_the_history(self, store: WatchedStore) -> None:
        before = ManagerBench(store)
        before.write_days(7)
        before.manager.catch_up(NOW)
        table = before.table(NOW)
        store.refuses_reads = True
        assert ManagerBench(store).table(NOW) == table
        assert table.get(KEY).thresholds is not None

    def test_covers_what_was_read_when_it_was_built_and_not_what_was_read_by_the_end(self, store: WatchedStore) -> None:
        before = ManagerBench(store)
        before.backfill = read = ledger_status(done=48, pending=120)
        before.write_days(2)
        before.manager.catch_up(NOW)
        before.write_days(7)
        after = ManagerBench(store)
        after.backfill = replace(ledger_status(done=168), started_at=NOW)
        table = after.table(NOW)
        assert table == before.table(NOW)
        assert table.backfill == replace(read, started_at=NOW)
        assert not table.covers(after.backfill)
        after.manager.catch_up(NOW)
        assert after.manager.table(NOW).covers(after.backfill)

    def test_of_a_prepared_hour_covers_what_was_read_as_well(self, store: WatchedStore) -> None:
        before = ManagerBench(store)
        before.backfill = read = ledger_status(done=48, pending=120)
        before.write_days(2)
        before.manager.catch_up(NOW)
        before.manager.prepare_next_table(NOON + HOUR - 1)
        after = ManagerBench(store)
        after.backfill = replace(ledger_status(done=168), started_at=NOW)
        assert after.table(NOON + HOUR).backfill == replace(read, started_at=NOW)

    def test_is_ignored_if_it_was_built_without_a_backfill(self, store: WatchedStore) -> None:
        before = ManagerBench(store)
        before.write_days(2)
        before.manager.catch_up(NOW)
        before.write_days(7)
        after = ManagerBench(store)
        after.backfill = ledger_status(done=168)
        assert after.table(NOW) != before.table(NOW)
        assert after.table(NOW).backfill == after.backfill

    def test_is_ignored_if_it_was_built_with_other_settings(self, store: WatchedStore) -> None:
        before = ManagerBench(store)
        before.write_days(7)
        before.manager.catch_up(NOW)
        after = ManagerBench(store, STRICTER).table(NOW)
        threshold = after.get(KEY).outlier_threshold_seconds
        assert threshold is not None
        assert threshold > (before.table(NOW).get(KEY).outlier_threshold_seconds or 0)

    def test_of_a_catch_up_equals_a_table_built_from_the_stored_history(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        for start in range(NOON - 20 * DAY, NOON - 16 * DAY, HOUR):
            bench.write(start, {OTHER: around(0.1, 60)})
        for start in range(NOON - 16 * DAY, NOON, HOUR):
            is_batch = (start - NOON) % DAY == 5 * HOUR
            is_slow = is_batch or NOON - 9 * HOUR <= start < NOON - 6 * HOUR
            bench.write(start, {KEY: around(0.5 if is_slow else 0.1, 60)})
        store.save_flags({}, {KEY: [NOON - 3 * DAY, NOON - HOUR]})
        for settled_until in (NOON - HOUR, NOON):
            bench.settled_until = settled_until
            bench.manager.catch_up(settled_until + 600.0)
            table = bench.table(settled_until + 600.0)
            # These bytes are not a table, so the next manager has to build one.
            store.save_baseline_table(settled_until, b"")
            assert ManagerBench(store).table(settled_until + 600.0) == table
            assert table.get(KEY).thresholds is not None
            assert table.before is not None
            assert table.before.get(KEY).thresholds is not None
            assert set(table.series) == {KEY}

    def test_is_not_written_while_the_history_is_not_evaluated(self, store: WatchedStore) -> None:
        before = ManagerBench(store, settled_until=NOON - 7 * DAY)
        before.write_days(7)
        before.manager.catch_up(NOW)
        assert store.baseline_table(NOON) is None
