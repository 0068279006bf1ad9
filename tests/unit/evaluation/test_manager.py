import logging
import threading
from collections.abc import Iterator

import pytest

from exporter.evaluation.baseline_table import EMPTY_TABLE, BaselineTable
from exporter.model.span import SeriesKey
from exporter.store import Store, StoredSeries, StoreError
from tests.support.evaluation import STRICTER, ManagerBench, WatchedStore, ledger_status
from tests.support.samples import DAY, HOUR, KEY, NOON, Clock, around, event_of, events

OTHER = SeriesKey("checkout", "POST /pay")
NOW = NOON + 600.0


@pytest.fixture
def store() -> Iterator[WatchedStore]:
    store = WatchedStore.in_memory()
    yield store
    store.close()


class TestTable:
    def test_is_built_once_an_hour(self, store: Store) -> None:
        bench = ManagerBench(store)
        assert bench.table(NOW) is bench.table(NOW + 1)

    def test_follows_the_hour(self, store: Store) -> None:
        bench = ManagerBench(store)
        for days in (1, 4, 5):
            bench.write(NOON - days * DAY, {KEY: around(0.1, 60)})
            bench.write(NOON + HOUR - days * DAY, {KEY: around(0.3, 60)})
        bench.manager.catch_up(NOW)
        last, first = NOON + HOUR - 0.001, float(NOON + HOUR)
        medians = [
            series.baseline.p50_seconds
            for series in (bench.table(now).get(KEY) for now in (last, first))
            if series.baseline
        ]
        assert medians == [pytest.approx(0.1, rel=0.02), pytest.approx(0.3, rel=0.02)]

    def test_prepared_table_needs_no_database(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        bench.write_days(5)
        bench.manager.catch_up(NOW)
        bench.manager.prepare_next_table(NOON + HOUR - 301)
        store.refuses_reads = True
        assert bench.manager.table(NOON + HOUR).start == NOON
        store.refuses_reads = False
        bench.manager.prepare_next_table(NOON + HOUR - 300)
        store.refuses_reads = True
        bench.manager.prepare_next_table(NOON + HOUR - 200)
        assert bench.manager.table(NOON + HOUR - 1).start == NOON
        table = bench.manager.table(NOON + HOUR)
        assert table.start == NOON + HOUR
        assert table.get(KEY).baseline is not None

    def test_prepared_table_is_dropped_when_more_history_arrives(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.write_days(2)
        bench.manager.prepare_next_table(NOON + HOUR - 100)
        bench.write(NOON - 3 * DAY, {OTHER: around(0.1, 60)})
        bench.manager.catch_up(NOON + HOUR - 90)
        assert OTHER in bench.table(NOON + HOUR).series

    def test_follows_a_clock_that_is_set_back(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.write_days(2)
        bench.manager.catch_up(NOW)
        earlier = NOW - 3 * HOUR
        assert bench.table(earlier).start == NOON - 3 * HOUR
        bench.manager.catch_up(earlier)
        assert bench.table(earlier).start == NOON - 3 * HOUR

    def test_renewal_that_ends_after_the_hour_does_not_replace_the_next_table(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.write_days(2)
        bench.manager.prepare_next_table(NOON + HOUR - 10)
        next_tables: list[BaselineTable] = []
        # In the middle of the catch-up, the poller asks for the table of the next hour.
        bench.on_evaluation = lambda: next_tables.append(bench.manager.table(NOON + HOUR))
        bench.manager.catch_up(NOON + HOUR - 1)
        assert [table.start for table in next_tables] == [NOON + HOUR]
        assert bench.manager.table(NOON + HOUR) is next_tables[0]

    def test_stays_in_use_while_the_database_cannot_be_read(
        self, store: WatchedStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        bench = ManagerBench(store)
        bench.write_days(5)
        bench.manager.catch_up(NOW)
        table = bench.manager.table(NOW)
        store.refuses_reads = True
        bench.write(NOON - 6 * DAY, {KEY: around(0.1, 60)})
        with pytest.raises(StoreError):
            bench.manager.catch_up(NOW)
        with pytest.raises(StoreError):
            bench.manager.open_table(NOW + HOUR)
        assert bench.manager.table(NOW) is table
        assert bench.manager.table(NOW + HOUR) is table
        assert bench.manager.table(NOW + HOUR + 15) is table
        assert events(caplog)[1:] == ["baseline_pending"]
        store.refuses_reads = False
        assert bench.table(NOW + HOUR + 30).start == NOON + HOUR


class ReaderClock(Clock):
    """Notices when the thread that made it looks at the clock, as a reader does before it waits for a table."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self._reader = threading.current_thread()
        self.is_read = threading.Event()

    def __call__(self) -> float:
        if threading.current_thread() is self._reader:
            self.is_read.set()
        return super().__call__()


class TestMissingTable:
    """What the poller gets while the table of the hour is not there."""

    def test_is_empty_at_the_start_and_logged_once(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = ManagerBench(store)
        bench.write_days(2)
        for late in range(3):
            assert bench.manager.table(NOW + 15 * late) is EMPTY_TABLE
        assert events(caplog) == ["baseline_pending"]
        caplog.clear()
        table = bench.table(NOW + 45)
        assert (table.is_built, table.start, table.get(KEY).baseline is not None) == (True, NOON, True)
        (record,) = caplog.records
        assert event_of(record) == "baseline_ready"
        assert record.exporter_fields == {"seconds": 0.0}  # type: ignore[attr-defined]

    def test_is_not_logged_if_the_table_arrives_within_the_patience(
        self, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.INFO)
        clock = ReaderClock()
        bench = ManagerBench(store, patience_seconds=60.0, monotonic=clock)
        bench.write_days(2)
        history = store.history

        def history_once_a_reader_waits(*args: object, **options: object) -> Iterator[StoredSeries]:
            assert clock.is_read.wait(60)
            return history(*args, **options)  # type: ignore[arg-type]

        clock.is_read.clear()
        monkeypatch.setattr(store, "history", history_once_a_reader_waits)
        working = threading.Thread(target=bench.run, args=(0, Clock(NOW)))
        working.start()
        assert bench.manager.table(NOW).get(KEY).baseline is not None
        working.join(60)
        assert events(caplog) == []

    def test_is_not_waited_for_once_the_manager_has_ended(self, store: WatchedStore) -> None:
        bench = ManagerBench(store, patience_seconds=3600.0)
        store.refuses_reads = True
        bench.run(0, Clock(NOW))
        assert bench.manager.table(NOW) is EMPTY_TABLE

    def test_causes_a_cycle_when_it_arrives_late(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.manager.table(NOW)
        assert bench.changes == 0
        bench.manager.open_table(NOW)
        assert bench.changes == 1
        bench.manager.table(NOW)
        # The poller has not asked for the next one yet.
        bench.manager.open_table(NOW + HOUR)
        assert bench.changes == 1

    def test_is_replaced_by_that_of_another_hour_after_a_clock_jump(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.write_days(5)
        bench.manager.catch_up(NOW)
        table = bench.manager.table(NOW)
        later = NOW + 5 * HOUR
        assert bench.manager.table(later) is table
        bench.manager.open_table(later)
        assert bench.changes == 1
        assert bench.manager.table(later).start == NOON + 5 * HOUR

    def test_does_not_keep_the_history_from_being_counted(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        bench.write_days(2)
        store.refuses_reads = True
        with pytest.raises(StoreError):
            bench.manager.open_table(NOW)
        assert bench.facts().windows == 48
        # After a restart even before a table is requested.
        assert ManagerBench(store).facts().windows == 48

    def test_stays_missing_if_the_build_is_stopped(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.write_days(2)
        bench.manager.open_table(NOW, should_stop=lambda: True)
        assert bench.manager.table(NOW) is EMPTY_TABLE
        bench.run(1, Clock(NOW))
        assert bench.manager.table(NOW).is_built
        assert store.evaluated_until() == NOON


class TestRun:
    def test_opens_the_table_of_the_hour_before_it_evaluates(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        bench.write_days(2)
        seen: list[tuple[bool, bool]] = []
        bench.run(
            2,
            Clock(NOW),
            lambda sleep: seen.append((bench.manager.table(NOW).is_built, bool(store.take_recorded()))),
        )
        assert seen == [(True, False), (True, True)]

    def test_interrupts_an_evaluation_when_the_hour_turns(self, store: Store) -> None:
        bench = ManagerBench(store)
        clock = Clock(NOON + HOUR - 400)
        bench.write_days(2)
        bench.table(clock.now)
        seen: list[tuple[int, int | None]] = []

        def turn_hour() -> None:
            clock.now = NOON + HOUR + 1.0

        bench.on_evaluation = turn_hour
        bench.run(
            3,
            clock,
            lambda sleep: seen.append((bench.manager.table(clock.now).start, store.evaluated_until())),
        )
        assert seen == [(NOON, None), (NOON + HOUR, None), (NOON + HOUR, NOON)]

    @pytest.mark.parametrize(("more", "reads"), [(False, 1), (True, 2)])
    def test_builds_a_new_table_again_only_if_there_is_more_history(
        self, store: WatchedStore, more: bool, reads: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = ManagerBench(store)
        before.write_days(2)
        before.manager.catch_up(NOW)
        bench = ManagerBench(store, STRICTER)
        history, counted = store.history, []

        def counting(*args: object, **options: object) -> Iterator[StoredSeries]:
            counted.append(1)
            if more and len(counted) == 1:
                bench.signal.notify_windows_written()
            return history(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "history", counting)
        bench.run(10, Clock(NOW))
        assert len(counted) == reads
        # The table was stored in both cases.
        store.refuses_reads = True
        assert ManagerBench(store, STRICTER).table(NOW) == bench.manager.table(NOW)

    def test_evaluates_new_history_soon_and_once(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        bench.write_days(2)
        recorded: list[int] = []
        bench.run(5, Clock(NOW), lambda sleep: recorded.append(len(store.take_recorded())))
        assert recorded == [0, 1, 0, 0, 0]

    def test_evaluates_hours_that_settle_without_a_notification(self, store: Store) -> None:
        bench = ManagerBench(store, settled_until=NOON - 5 * HOUR)
        bench.write_days(2)
        until: list[int | None] = []

        def settle(sleep: int) -> None:
            until.append(store.evaluated_until())
            if sleep == 3:
                bench.settled_until = NOON

        bench.run(30, Clock(NOW), settle)
        assert (until[2], until[-1]) == (NOON - 5 * HOUR, NOON)
        assert bench.manager.table(NOW).get(KEY).thresholds is not None

    @pytest.mark.parametrize(("has_table", "failed"), [(True, [0.0]), (False, [0.0, 10.0, 20.0, 30.0])])
    def test_retries_after_a_pause_when_the_database_fails(
        self,
        store: WatchedStore,
        caplog: pytest.LogCaptureFixture,
        has_table: bool,
        failed: list[float],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        bench = ManagerBench(store)
        if has_table:
            bench.table(NOW)
        bench.write_days(2)
        tried: list[float] = []

        def failing(*args: object, **options: object) -> Iterator[StoredSeries]:
            tried.append(bench.monotonic.now)
            raise StoreError("locked", "reading the history failed")

        def recover(sleep: int) -> None:
            if sleep == 20:
                monkeypatch.undo()

        monkeypatch.setattr(store, "history", failing)
        bench.run(100, Clock(NOW), recover)
        assert tried == failed
        assert store.evaluated_until() == NOON
        assert events(caplog, logging.ERROR) == ["baseline_failed"]

    def test_logs_a_bug_and_continues(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        bench = ManagerBench(store)
        errors = iter([ZeroDivisionError()])

        def fail_once() -> None:
            for error in errors:
                raise error

        bench.on_evaluation = fail_once
        bench.write_days(2)
        bench.run(40, Clock(NOW))
        assert events(caplog, logging.ERROR) == ["baseline_crashed"]
        assert store.evaluated_until() == NOON

    def test_pauses_between_renewals_while_history_arrives(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.table(NOW)
        renewed: list[float] = []

        def take_time() -> None:
            renewed.append(bench.monotonic.now)
            bench.monotonic.now += 10

        bench.on_evaluation = take_time
        bench.run(100, Clock(NOW), lambda sleep: bench.signal.notify_windows_written())
        assert renewed == [0.0, 100.0, 200.0]

    def test_renews_a_stored_table(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.write_days(8)
        bench.manager.catch_up(NOW)
        stale = bench.table(NOW).get(KEY)
        store.save_flags({}, {KEY: (NOON - DAY,)})
        bench.manager.catch_up(NOW + HOUR)
        # The clock is set back. The stored table of that hour is older than the suspect hour.
        bench.run(2, Clock(NOW))
        renewed = bench.manager.table(NOW)
        assert renewed.start == NOON
        assert renewed.get(KEY).baseline != stale.baseline

    def test_prepares_the_next_hour_during_a_pause(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        clock = Clock(NOON + HOUR - 600)

        def take_time() -> None:
            bench.monotonic.now += 30

        bench.on_evaluation = take_time
        bench.write_days(2)

        def approach_the_hour(sleep: int) -> None:
            bench.signal.notify_windows_written()
            clock.now = NOON + HOUR - 600 + 4 * sleep

        bench.run(100, clock, approach_the_hour)
        assert bench.manager.table(NOON + HOUR).get(KEY).last_seen == NOON


class TestBackfillComplete:
    def test_catches_up_at_once_instead_of_after_the_pause(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.table(NOW)
        renewed: list[float] = []

        def take_time() -> None:
            renewed.append(bench.monotonic.now)
            bench.monotonic.now += 10

        bench.on_evaluation = take_time

        def complete(sleep: int) -> None:
            bench.signal.notify_windows_written()
            if sleep == 3:
                bench.signal.notify_backfill_complete()

        bench.run(80, Clock(NOW), complete)
        # The first renewal took ten seconds, so without the notification the next would follow after 90 more.
        assert renewed == [0.0, 16.0, 116.0]
        # It did not wait for the next look either.
        assert bench.wakeup.slept[:4] == [2.0, 2.0, 2.0, 0.0]

    def test_is_remembered_if_the_catch_up_fails(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        bench.table(NOW)
        bench.write_days(2)
        bench.signal.notify_backfill_complete()
        store.refuses_reads = True
        with pytest.raises(StoreError):
            bench.manager.catch_up(NOW)
        store.refuses_reads = False
        bench.manager.catch_up(NOW, should_stop=lambda: True)
        renewed: list[float] = []
        bench.on_evaluation = lambda: renewed.append(bench.monotonic.now)
        bench.run(1, Clock(NOW))
        assert renewed[0] == 0.0
        assert store.evaluated_until() == NOON

    def test_causes_a_cycle_with_the_first_table_that_covers_the_ledger(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.backfill = ledger_status(done=0, pending=2)
        bench.table(NOW)
        bench.write(NOON - DAY, {KEY: around(0.1, 60)})
        bench.backfill = ledger_status(done=1, pending=1)
        bench.manager.catch_up(NOW)
        # While the backfill reads on, renewals may follow each other quickly.
        assert bench.changes == 0
        bench.write(NOON - 2 * DAY, {KEY: around(0.1, 60)})
        bench.backfill = ledger_status(done=2)
        bench.manager.catch_up(NOW)
        assert bench.changes == 1
        assert bench.manager.table(NOW).covers(bench.backfill)
        assert bench.facts().windows == 2
        bench.manager.catch_up(NOW)
        assert bench.changes == 1

    def test_table_covers_no_window_that_is_written_during_the_build(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.backfill = before = ledger_status(done=0, pending=1)
        bench.table(NOW)

        def write() -> None:
            bench.write(NOON - DAY, {KEY: around(0.1, 60)})
            bench.backfill = ledger_status(done=1)
            bench.on_evaluation = lambda: None

        bench.on_evaluation = write
        bench.manager.catch_up(NOW)
        assert bench.manager.table(NOW).backfill == before
        bench.run(1, Clock(NOW))
        assert bench.manager.table(NOW).backfill == ledger_status(done=1)

    def test_table_covers_the_ledger_only_once_the_history_is_counted(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise StoreError("locked", "counting failed")

        bench = ManagerBench(store)
        bench.backfill = before = ledger_status(done=0, pending=1)
        bench.table(NOW)
        bench.write(NOON - DAY, {KEY: around(0.1, 60)})
        bench.backfill = ledger_status(done=1)
        with monkeypatch.context() as patch:
            patch.setattr(store, "totals", fail)
            bench.manager.catch_up(NOW)
        assert bench.manager.table(NOW).backfill == before
        assert events(caplog) == ["history_stats_failed"]
        bench.run(1, Clock(NOW))
        assert bench.manager.table(NOW).backfill == ledger_status(done=1)
        assert bench.facts().windows == 1

    def test_catches_up_when_the_last_windows_turn_out_to_be_expired(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.backfill = ledger_status(done=1, pending=1)
        bench.table(NOW)

        def expire(sleep: int) -> None:
            # Nothing is written, so there is no notification.
            bench.backfill = ledger_status(done=1)

        bench.run(5, Clock(NOW), expire)
        assert bench.manager.table(NOW).covers(ledger_status(done=1))
        assert bench.changes == 1

    def test_stored_table_covers_the_ledger_at_once_if_nothing_was_read_since(self, store: Store) -> None:
        before = ManagerBench(store)
        before.backfill = ledger_status(done=168)
        before.write_days(7)
        before.manager.catch_up(NOW)
        bench = ManagerBench(store)
        bench.backfill = ledger_status(done=168)
        bench.run(0, Clock(NOW))
        assert bench.manager.table(NOW).backfill == ledger_status(done=168)
