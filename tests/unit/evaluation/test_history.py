"""The evaluation of settled hours, as the manager schedules it."""

import logging
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest

from exporter.detection.detector import decode_state, encode_state
from exporter.detection.regression.tracker import NO_REGRESSION_STATE
from exporter.detection.streams import StreamReason, StreamRules
from exporter.evaluation.causes.shift_cause import Shift
from exporter.evaluation.incident_tracker import IncidentTracker
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.calendar import Calendar
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.store import SeriesEvaluation, Store, StoredIncident, StoredSeries, StoreError
from tests.support.causes import a_cause
from tests.support.evaluation import ManagerBench, WatchedStore
from tests.support.samples import (
    DAY,
    HOUR,
    KEY,
    NOON,
    SETTINGS,
    Clock,
    Durations,
    around,
    commit_hour,
    event_of,
    events,
)

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

    def test_a_process_that_knows_the_hours_before_finds_the_same_as_one_that_was_just_started(self) -> None:
        hours = hours_with_an_incident()
        found = []
        for is_restarted in (False, True):
            with closing(Store.in_memory()) as store:
                bench = ManagerBench(store, settled_until=NOON - 14 * HOUR)
                for start, durations in hours.items():
                    bench.write(start, durations)
                tables = []
                for settled_until in range(NOON - 14 * HOUR, NOON + 1, HOUR):
                    if is_restarted:
                        bench = ManagerBench(store)
                    bench.settled_until = settled_until
                    bench.manager.catch_up(settled_until + 600.0)
                    bench.manager.prepare_next_table(settled_until + HOUR - 60.0)
                    for now in (settled_until, settled_until + HOUR):
                        table = bench.table(now)
                        tables.append((table.start, table.series, table.before))
                found.append((tables, list(store.history([KEY], 0, NOON))))
        assert found[0] == found[1]
        assert any(each.quarantined for each in found[0][1][0].evaluations.values())

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


class TestRegressions:
    """A regression is reported once, although all history is evaluated again."""

    BEGAN = NOON - 3 * DAY

    def regressed_history(self, store: Store) -> ManagerBench:
        bench = ManagerBench(store)
        bench.write_days(18, until=self.BEGAN)
        bench.write_days(3, median=0.125, until=NOON)
        bench.manager.catch_up(NOW)
        return bench

    def test_is_logged_and_in_the_table(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = self.regressed_history(store)
        assert events(caplog) == ["regression_raised"]
        expected = bench.table(NOW).get(KEY)
        assert expected.is_compared
        assert expected.regression is not None
        assert expected.regression.ratio == pytest.approx(1.25, abs=0.03)
        assert expected.regression.began_after <= self.BEGAN <= expected.regression.began_before

    @pytest.mark.parametrize("is_restarted", [False, True])
    def test_is_not_logged_again(self, store: Store, is_restarted: bool, caplog: pytest.LogCaptureFixture) -> None:
        bench = self.regressed_history(store)
        before = bench.table(NOW).get(KEY).regression
        assert before is not None
        caplog.clear()
        caplog.set_level(logging.INFO)
        if is_restarted:
            bench = ManagerBench(store)
        bench.write(NOON - 22 * DAY, {KEY: around(0.1, 60)})
        bench.manager.catch_up(NOW)
        assert events(caplog) == ["history_reevaluated"]
        again = bench.table(NOW).get(KEY).regression
        assert again is not None
        # One more hour in the weeks before makes it more certain.
        assert again == before._replace(deviations=again.deviations)

    def test_end_is_logged(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        bench = self.regressed_history(store)
        caplog.clear()
        caplog.set_level(logging.INFO)
        for hour in range(30):
            bench.write(NOON + hour * HOUR, {KEY: around(0.1, 60)})
        bench.settled_until = NOON + 30 * HOUR
        bench.manager.catch_up(NOW + 30 * HOUR)
        assert events(caplog) == ["regression_resolved"]
        assert bench.table(NOW + 30 * HOUR).get(KEY).regression is None

    def test_state_of_a_version_without_regressions_continues_with_stored_hours(self, store: Store) -> None:
        bench = ManagerBench(store)
        bench.write_days(13, until=NOON)
        bench.manager.catch_up(NOW)
        (stored,) = store.history([KEY], 0, NOON)
        assert stored.state is not None
        old = encode_state(decode_state(stored.state)._replace(regression=NO_REGRESSION_STATE))
        store.save_evaluations([SeriesEvaluation(KEY, {}, old)])
        bench = ManagerBench(store)
        for hour in range(12):
            bench.write(NOON + hour * HOUR, {KEY: around(0.1, 60)})
        bench.settled_until = NOON + 12 * HOUR
        bench.manager.catch_up(NOW + 12 * HOUR)
        assert bench.table(NOW + 12 * HOUR).get(KEY).is_compared


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


class TestStreams:
    """Sixty long polls of 30 s an hour, of which the last hours take five times as long."""

    @staticmethod
    def write(bench: ManagerBench, key: SeriesKey) -> None:
        for start in range(NOON - 8 * DAY, NOON, HOUR):
            bench.write(start, {key: [150.01 if start >= NOON - 3 * HOUR else 30.01] * 60})

    def test_a_stream_is_recognized_by_its_durations_and_logged_once(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        bench = ManagerBench(store)
        self.write(bench, KEY)
        bench.manager.catch_up(NOW)
        expected = bench.table(NOW).get(KEY)
        assert expected.stream is StreamReason.DURATIONS
        assert (expected.thresholds, expected.outlier_threshold_seconds) == (None, None)
        assert expected.baseline is not None
        assert bench.facts().quarantined_windows == 0
        (record,) = [record for record in caplog.records if event_of(record) == "stream_recognized"]
        assert record.exporter_fields["span_name"] == KEY.span_name  # type: ignore[attr-defined]
        bench.settled_until = NOON + HOUR
        bench.write(NOON, {KEY: [150.01] * 60})
        bench.manager.catch_up(NOW + HOUR)
        assert events(caplog).count("stream_recognized") == 1

    def test_the_configuration_overrides_durations(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = ManagerBench(store, replace(SETTINGS, streams=StreamRules(requests=(Pattern("."),))))
        self.write(bench, KEY)
        bench.manager.catch_up(NOW)
        expected = bench.table(NOW).get(KEY)
        assert (expected.stream, expected.thresholds is None) == (None, False)
        assert bench.facts().quarantined_windows == 3
        assert "stream_recognized" not in events(caplog)

    def test_a_restart_keeps_what_is_a_stream(self, store: Store) -> None:
        bench = ManagerBench(store)
        self.write(bench, KEY)
        bench.manager.catch_up(NOW)
        again = ManagerBench(store)
        assert again.table(NOW).get(KEY) == bench.table(NOW).get(KEY)


class TestIncidentsOfThePast:
    """Incidents are assembled from the shifts of the evaluated history."""

    CANCEL = SeriesKey(KEY.service_name, "POST /cancel")
    SLOW = range(NOON - 9 * HOUR, NOON - 6 * HOUR, HOUR)

    def write(self, bench: ManagerBench, slow: Collection[int] = SLOW, *, without: Collection[int] = ()) -> None:
        for start in range(NOON - 8 * DAY, NOON, HOUR):
            if start not in without:
                slowed = around(0.5 if start in slow else 0.1, 60)
                bench.write(start, {KEY: slowed, self.CANCEL: slowed, OTHER: around(0.1, 60)})

    def stored(self, store: Store) -> list[StoredIncident]:
        return store.incidents.newest(99)

    def test_two_endpoints_of_a_service_are_one_with_the_right_times(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        bench = ManagerBench(store)
        self.write(bench)
        bench.manager.catch_up(NOW)
        (row,) = self.stored(store)
        window = SETTINGS.shift.window_seconds
        assert row.is_reconstructed
        assert row.start == pytest.approx(self.SLOW[0], abs=window)
        assert row.end == pytest.approx(self.SLOW[-1] + HOUR, abs=window)
        tracker = IncidentTracker(store, renamed=lambda key: key, monotonic=lambda: 0.0, log=get_logger("incidents"))
        assert tracker.open == []
        (incident,) = tracker.newest(5).incidents
        assert {each.key for each in incident.endpoints} == {KEY, self.CANCEL}
        assert tracker.find(row.id) == incident
        assert events(caplog) == ["past_incidents_found"]

    def test_are_the_same_after_a_restart_a_new_evaluation_and_in_another_order_of_reading(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench = ManagerBench(store)
        self.write(bench)
        bench.manager.catch_up(NOW)
        before = self.stored(store)
        caplog.set_level(logging.INFO)
        ManagerBench(store).manager.catch_up(NOW)
        store.delete_evaluations()
        ManagerBench(store).manager.catch_up(NOW)
        assert self.stored(store) == before
        assert events(caplog) == []

        with closing(WatchedStore.in_memory()) as other:
            late = [NOON - 7 * HOUR, NOON - 3 * DAY]
            bench = ManagerBench(other)
            self.write(bench, without=late)
            bench.manager.catch_up(NOW)
            for start in late:
                slowed = around(0.5 if start in self.SLOW else 0.1, 60)
                bench.write(start, {KEY: slowed, self.CANCEL: slowed, OTHER: around(0.1, 60)})
            bench.manager.catch_up(NOW)
            assert self.stored(other) == before

    def test_hour_by_hour_they_are_the_same_as_at_once(self, store: Store) -> None:
        bench = ManagerBench(store)
        self.write(bench)
        for until in range(NOON - 12 * HOUR, NOON + 1, HOUR):
            bench.settled_until = until
            bench.manager.catch_up(until + 600.0)
            is_over = until > self.SLOW[-1] + HOUR
            assert len(self.stored(store)) == is_over
        with closing(WatchedStore.in_memory()) as other:
            at_once = ManagerBench(other)
            self.write(at_once)
            at_once.manager.catch_up(NOW)
            assert self.stored(other) == self.stored(store)

    def test_are_replaced_when_the_history_turns_out_to_be_another(self, store: Store) -> None:
        bench = ManagerBench(store)
        self.write(bench)
        bench.manager.catch_up(NOW)
        for start in self.SLOW:
            bench.write(start, {KEY: around(0.1, 61), self.CANCEL: around(0.1, 61)})
        bench.manager.catch_up(NOW)
        assert self.stored(store) == []

    def test_incident_that_was_seen_is_neither_doubled_nor_changed(self, store: Store) -> None:
        bench = ManagerBench(store)
        self.write(bench)
        clock = Clock(float(self.SLOW[0] + 600))
        tracker = IncidentTracker(store, renamed=lambda key: key, monotonic=clock, log=get_logger("incidents"))
        flags = [
            SeriesStatus(
                key, shift=True, since=clock.now, cause=replace(a_cause(), shift=Shift(key, clock.now, clock.now))
            )
            for key in (KEY, self.CANCEL)
        ]
        tracker.observe(flags, clock.now)
        tracker.observe([], self.SLOW[-1] + HOUR)
        tracker.observe([], self.SLOW[-1] + 2 * HOUR)
        tracker.save()
        (seen,) = self.stored(store)
        bench.manager.catch_up(NOW)
        assert self.stored(store) == [seen]

    def test_failure_is_logged_and_does_not_stop_the_evaluation(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*_: object) -> None:
            raise StoreError("full", "the disk is full")

        bench = ManagerBench(store)
        self.write(bench)
        with monkeypatch.context() as patched:
            patched.setattr(store.incidents, "replace_reconstructed", refuse)
            bench.manager.catch_up(NOW)
        assert "past_incidents_not_saved" in events(caplog)
        assert store.evaluated_until() == NOON
        bench.write(NOON, {KEY: around(0.1, 60)})
        bench.settled_until = NOON + HOUR
        bench.manager.catch_up(NOW + HOUR)
        assert len(self.stored(store)) == 1
