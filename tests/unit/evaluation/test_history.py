"""The evaluation of settled hours, as the manager schedules it."""

import logging
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest

from exporter.model.calendar import Calendar
from exporter.model.span import SeriesKey
from exporter.store import Store, StoredSeries, StoreError
from tests.support.evaluation import ManagerBench, WatchedStore
from tests.support.samples import DAY, HOUR, KEY, NOON, Durations, around, commit_hour, event_of, events

OTHER = SeriesKey("checkout", "POST /pay")
NOW = NOON + 600.0


@pytest.fixture
def store() -> Iterator[WatchedStore]:
    store = WatchedStore.in_memory()
    yield store
    store.close()


def hours_with_an_incident() -> dict[int, Durations]:
    """Eight days of hours with even traffic of one series, three of them five times as slow."""
    return {
        start: {KEY: around(0.5 if NOON - 9 * HOUR <= start < NOON - 6 * HOUR else 0.1, 60)}
        for start in range(NOON - 8 * DAY, NOON, HOUR)
    }


class TestCatchUp:
    def test_quarantines_and_counts_the_hours_of_an_incident(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.write_days(8, until=NOON - 5 * HOUR)
        for start in range(NOON - 5 * HOUR, NOON - 2 * HOUR, HOUR):
            bench.write(start, {KEY: around(0.5, 60)})
        bench.manager.catch_up(NOW)
        facts = bench.facts()
        assert facts.quarantined_windows == 3
        assert (facts.windows, facts.traces) == (8 * 24 + 3, (8 * 24 + 3) * 60)
        assert facts.oldest_trace_at == NOON - 5 * HOUR - 8 * DAY
        assert facts.storage_bytes is not None
        assert facts.storage_bytes > 0

    def test_evaluates_no_hour_after_a_gap_in_the_ledger(self, store: WatchedStore) -> None:
        bench = ManagerBench(store, settled_until=NOON - 4 * HOUR)
        bench.write_days(8)
        bench.manager.catch_up(NOW)
        (findings,) = store.take_recorded()
        assert max(findings.evaluations) == NOON - 5 * HOUR
        assert store.evaluated_until() == NOON - 4 * HOUR

    def test_evaluates_whole_hours_if_windows_are_shorter(self, store: Store) -> None:
        quarter = HOUR // 4
        as_they_settle, at_once = ManagerBench(store), ManagerBench(WatchedStore.in_memory())
        for start in range(NOON - 4 * DAY, NOON, quarter):
            durations = {KEY: around(0.1 + start // quarter % 7 / 100, 15)}
            for bench in (as_they_settle, at_once):
                commit_hour(bench.store, start, durations, length=quarter)
            as_they_settle.settled_until = start + quarter
            as_they_settle.manager.catch_up(start + quarter + 900)
        at_once.manager.catch_up(NOW)
        (found,) = as_they_settle.store.history([KEY], 0, NOON)
        (expected,) = at_once.store.history([KEY], 0, NOON)
        assert found == expected
        at_once.store.close()

    def test_does_not_evaluate_an_hour_twice(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        bench.write_days(8)
        bench.manager.catch_up(NOW)
        assert store.take_recorded() != []
        bench.manager.catch_up(NOW)
        assert store.take_recorded() == []
        bench.settled_until = NOON + HOUR
        bench.write(NOON, {KEY: around(0.1, 60)})
        bench.manager.catch_up(NOW + HOUR)
        (findings,) = store.take_recorded()
        assert list(findings.evaluations) == [NOON]

    def test_resumes_after_a_restart(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        bench.write_days(8)
        bench.manager.catch_up(NOW)
        store.take_recorded()
        again = ManagerBench(store)
        again.manager.catch_up(NOW)
        assert store.take_recorded() == []
        assert again.table(NOW).get(KEY) == bench.table(NOW).get(KEY)
        assert again.facts() == bench.facts()

    def test_stops_between_series_and_resumes(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        for start in range(NOON - 5 * DAY, NOON, HOUR):
            bench.write(start, {KEY: around(0.1, 60), OTHER: around(0.1, 60)})
        stops = iter([False, True, True, True])
        bench.manager.catch_up(NOW, should_stop=lambda: next(stops))
        assert len(store.take_recorded()) == 1
        assert store.evaluated_until() is None
        bench.manager.catch_up(NOW)
        assert len(store.take_recorded()) == 1
        assert store.evaluated_until() == NOON

    def test_repeats_what_could_not_be_recorded(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        changed = NOON - 26 * HOUR
        bench.write_days(9, until=changed)
        bench.write_days(1, median=0.3, until=changed + DAY)
        bench.write(NOON - 2 * HOUR, {KEY: around(0.3, 60)})
        bench.write(NOON - HOUR, {KEY: around(0.3, 60)})
        store.refuses_writes = True
        with pytest.raises(StoreError):
            bench.manager.catch_up(NOW)
        assert bench.accepted == 0
        store.refuses_writes = False
        bench.manager.catch_up(NOW)
        assert bench.accepted == 1

    def test_accepts_a_lasting_change_as_the_new_baseline(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = ManagerBench(store)
        changed = NOON - 26 * HOUR
        bench.write_days(9, until=changed)
        accepted_after: list[int] = []
        for start in range(changed, NOON, HOUR):
            bench.write(start, {KEY: around(0.3, 60)})
            bench.settled_until = start + HOUR
            bench.manager.catch_up(start + HOUR + 1000)
            accepted_after.append(bench.accepted)
        hours = accepted_after.index(1)
        assert 23 <= hours <= 25
        assert accepted_after == [0] * hours + [1] * (26 - hours)
        series = bench.table(NOON + 1000).get(KEY)
        assert series.changepoint == changed
        assert series.baseline is not None
        assert series.baseline.p50_seconds == pytest.approx(0.3, rel=0.02)
        assert series.thresholds is not None
        assert bench.facts().quarantined_windows == 0
        logged = [record for record in caplog.records if event_of(record) == "change_accepted"]
        assert [record.exporter_fields["span_name"] for record in logged] == [KEY.span_name]  # type: ignore[attr-defined]


class TestLateWindows:
    """Windows that are read after later hours were evaluated."""

    def test_late_window_causes_a_new_evaluation_with_the_same_result(
        self, store: WatchedStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        hours = hours_with_an_incident()
        late = NOON - 4 * DAY
        bench = ManagerBench(store)
        for start, durations in hours.items():
            if start != late:
                bench.write(start, durations)
        bench.manager.catch_up(NOW)
        bench.write(late, hours[late])
        bench.manager.catch_up(NOW)
        assert events(caplog) == ["history_reevaluated"]

        in_order = ManagerBench(WatchedStore.in_memory())
        for start, durations in hours.items():
            in_order.write(start, durations)
        in_order.manager.catch_up(NOW)

        def stored(bench: ManagerBench) -> list[StoredSeries]:
            return list(bench.store.history([KEY], 0, NOON))

        assert stored(bench) == stored(in_order)
        # The hour after the incident counts as well: the flag was still firing when it began.
        assert bench.facts().quarantined_windows == in_order.facts().quarantined_windows == 4
        in_order.store.close()

    def test_window_written_during_an_evaluation_is_evaluated_next(self, store: Store) -> None:
        bench = ManagerBench(store)
        late = NOON - 2 * HOUR
        for start in range(NOON - 5 * DAY, NOON, HOUR):
            if start != late:
                bench.write(start, {KEY: around(0.1, 60)})

        def write_late_window() -> bool:
            bench.write(late, {KEY: around(0.1, 60)})
            return False

        bench.manager.catch_up(NOW, should_stop=write_late_window)
        bench.manager.catch_up(NOW)
        (stored,) = store.history([KEY], 0, NOON)
        assert late in stored.evaluations

    def test_window_read_again_with_the_same_traces_changes_nothing(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        bench.write_days(3)
        bench.manager.catch_up(NOW)
        store.take_recorded()
        bench.write(NOON - 9 * HOUR, {KEY: around(0.1, 60)})
        bench.manager.catch_up(NOW)
        assert store.take_recorded() == []
        bench.write(NOON - 9 * HOUR, {KEY: around(0.1, 61)})
        bench.manager.catch_up(NOW)
        assert store.take_recorded() != []

    @pytest.mark.parametrize("is_interrupted", [False, True])
    def test_late_window_is_noticed_after_a_restart(
        self, store: Store, is_interrupted: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        late = NOON - 2 * HOUR
        bench = ManagerBench(store)
        for start in range(NOON - 5 * DAY, NOON, HOUR):
            if start != late:
                bench.write(start, {KEY: around(0.1, 60), OTHER: around(0.1, 60)})
        if is_interrupted:
            # After one of the two series.
            stops = iter([False, True])
            bench.manager.catch_up(NOW, should_stop=lambda: next(stops, True))
            assert store.evaluated_until() is None
        else:
            bench.manager.catch_up(NOW)
        bench.write(late, {KEY: around(0.1, 60)})
        ManagerBench(store).manager.catch_up(NOW)
        (stored,) = store.history([KEY], 0, NOON)
        assert late in stored.evaluations
        assert events(caplog) == ["history_reevaluated"]

    def test_new_evaluation_waits_until_the_gap_is_read(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = ManagerBench(store)
        bench.write_days(3)
        bench.manager.catch_up(NOW)
        bench.settled_until = NOON - 10 * DAY
        bench.write(NOON - 5 * DAY, {KEY: around(0.1, 60)})
        bench.manager.catch_up(NOW)
        assert events(caplog) == []
        bench.settled_until = NOON
        bench.manager.catch_up(NOW)
        assert len(events(caplog)) == 1

    def test_late_window_without_traces_changes_nothing(self, store: WatchedStore) -> None:
        bench = ManagerBench(store)
        bench.write_days(3)
        bench.manager.catch_up(NOW)
        store.take_recorded()
        bench.write(NOON - 5 * DAY, {})
        bench.manager.catch_up(NOW)
        assert store.take_recorded() == []


class TestAcceptancesAgain:
    """A change that was accepted is reported once, although all history is evaluated again."""

    CHANGED = NOON - 2 * DAY

    def changed_history(self, store: Store) -> ManagerBench:
        bench = ManagerBench(store)
        bench.write_days(8, until=self.CHANGED)
        bench.write_days(2, median=0.3, until=NOON)
        bench.manager.catch_up(NOW)
        assert bench.accepted == 1
        return bench

    @pytest.mark.parametrize("is_restarted", [False, True])
    def test_known_change_is_not_reported_again(
        self, store: Store, is_restarted: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench = self.changed_history(store)
        caplog.clear()
        caplog.set_level(logging.INFO)
        if is_restarted:
            bench = ManagerBench(store)
        before = bench.accepted
        # A window that is read late; the whole history is evaluated again.
        bench.write(NOON - 10 * DAY - HOUR, {KEY: around(0.1, 60)})
        bench.manager.catch_up(NOW)
        assert events(caplog) == ["history_reevaluated"]
        assert bench.accepted == before
        assert bench.table(NOW).get(KEY).changepoint == self.CHANGED

    def test_known_change_that_moves_by_hours_is_the_same(self, store: Store) -> None:
        bench = self.changed_history(store)
        # It turns out that the hour before was slow, too.
        bench.write(self.CHANGED - HOUR, {KEY: around(0.3, 61)})
        bench.manager.catch_up(NOW)
        assert bench.table(NOW).get(KEY).changepoint == self.CHANGED - HOUR
        assert bench.accepted == 1

    def test_change_that_only_late_history_shows_is_reported(self, store: Store) -> None:
        bench = self.changed_history(store)
        for start in range(NOON - 10 * DAY, NOON, HOUR):
            traffic = around(0.1 if start < self.CHANGED else 0.3, 60)
            bench.write(start, {KEY: traffic, OTHER: traffic})
        bench.manager.catch_up(NOW)
        assert bench.accepted == 2

    def test_next_change_is_reported(self, store: Store) -> None:
        bench = self.changed_history(store)
        for hours in range(28):
            bench.write(NOON + hours * HOUR, {KEY: around(0.9, 60)})
        bench.settled_until = NOON + 28 * HOUR
        bench.manager.catch_up(NOON + 28 * HOUR + 1000)
        assert bench.accepted == 2


def test_time_zone_with_other_hours_causes_a_new_evaluation(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hours = hours_with_an_incident()
    moved = Calendar(ZoneInfo("Asia/Kolkata"))
    in_utc, from_scratch = ManagerBench(store), ManagerBench(WatchedStore.in_memory(), calendar=moved)
    for start, durations in hours.items():
        in_utc.write(start, durations)
        from_scratch.write(start, durations)
    in_utc.manager.catch_up(NOW)
    assert events(caplog) == []
    bench = ManagerBench(store, calendar=moved)
    later = NOW + HOUR / 2
    for each in (bench, from_scratch):
        each.manager.catch_up(later)
    assert events(caplog) == ["history_reevaluated"]
    assert list(store.history([KEY], 0, NOON)) == list(from_scratch.store.history([KEY], 0, NOON))
    assert bench.facts().quarantined_windows == from_scratch.facts().quarantined_windows > 0
    assert bench.table(later).get(KEY) == from_scratch.table(later).get(KEY)
    # Nothing is left to do at the next start.
    ManagerBench(store, calendar=moved).manager.catch_up(later)
    assert len(events(caplog)) == 1
    from_scratch.store.close()
