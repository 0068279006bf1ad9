from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.baseline.levels import SLOTS, FallbackLevel
from exporter.detection.parameters import Parameters
from exporter.detection.policy import Override, OverrideValue, SeriesPolicies
from exporter.detection.streams import StreamReason
from exporter.evaluation.baseline_table import SeriesBaseline
from exporter.evaluation.query import BaselineQuerier, NoVerdict, PooledHour, RunLimits, TrafficLimits
from exporter.evaluation.settings import EvaluationSettings
from exporter.model.calendar import Calendar, DayType, HourClock, Slot
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.store import Store, StoredTraffic
from tests.support.database import memory_store
from tests.support.samples import DAY, HOUR, KEY, NOON, SETTINGS, around, commit_hour, evaluate_history

NOW = NOON + 600
OTHER = SeriesKey("checkout", "POST /pay")
WEEKDAY_NOON = Slot(12, DayType.WEEKDAY)


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store.in_memory()
    yield store
    store.close()


def querier(store: Store, settings: EvaluationSettings = SETTINGS) -> BaselineQuerier:
    return BaselineQuerier(store, HourClock(Calendar()), settings)


def write(store: Store, since: int, until: int, median: float = 0.1, per_hour: int = 30, key: SeriesKey = KEY) -> None:
    for start in range(since, until, HOUR):
        commit_hour(store, start, {key: around(median, per_hour)})


class TestReport:
    def test_agrees_with_the_baseline_table(self, store: Store) -> None:
        write(store, NOON - 12 * DAY, NOON)
        manager = evaluate_history(store, NOON)
        report = querier(store).report(KEY, NOW, NOW)
        series = manager.table(NOW).get(KEY)
        assert (
            SeriesBaseline(
                last_seen=float(NOON),
                baseline=report.baseline,
                outlier_threshold_seconds=report.outlier_threshold_seconds,
                thresholds=series.thresholds,
                is_compared=report.is_compared,
                regression=report.regression,
                traffic=series.traffic,
            )
            == series
        )
        assert (report.no_verdict, report.hour.slot, report.known_until) == (None, WEEKDAY_NOON, NOON)
        assert [threshold.quantile for threshold in report.shift] == [0.5, 0.9, 0.99]
        assert all(each.limit_seconds > each.baseline_seconds for each in report.shift)

    def test_names_the_usual_traffic_as_the_baseline_table_has_it(self, store: Store) -> None:
        write(store, NOON - 12 * DAY, NOON)
        traffic = evaluate_history(store, NOON).table(NOW).get(KEY).traffic
        assert traffic is not None
        report = querier(store).report(KEY, NOW, NOW)
        assert report.traffic == TrafficLimits(30, 15, True, traffic.level, traffic.hours)
        settings = replace(SETTINGS, shift=replace(SETTINGS.shift, traffic_enabled=False))
        assert querier(store, settings).report(KEY, NOW, NOW).traffic is None

    def test_names_the_usual_traffic_of_another_hour(self, store: Store) -> None:
        for start in range(NOON - 12 * DAY, NOON, HOUR):
            commit_hour(store, start, {KEY: around(0.1, 60 if start % DAY // HOUR == 12 else 10)})
        evaluate_history(store, NOON)
        usual = [querier(store).report(KEY, at, NOW).traffic for at in (NOON - 2 * DAY, NOON + DAY, NOON + 12 * HOUR)]
        assert [(each.requests, each.is_judged) for each in usual if each is not None] == [
            (60, True),
            (60, True),
            (10, False),
        ]

    def test_series_that_is_evaluated_by_run(self, store: Store) -> None:
        write(store, NOON - 12 * DAY, NOON, median=0.1, per_hour=1)
        thresholds = evaluate_history(store, NOON).table(NOW).get(KEY).runs
        report = querier(store).report(KEY, NOW, NOW)
        assert thresholds is not None
        assert (report.runs, report.shift, report.no_verdict) == (RunLimits.of(thresholds), (), None)
        assert report.runs is not None
        assert report.runs.usual_seconds < report.runs.slow_seconds < report.runs.far_seconds

    def test_lists_the_pooled_hours(self, store: Store) -> None:
        write(store, NOON - 8 * DAY, NOON)
        evaluate_history(store, NOON)
        report = querier(store).report(KEY, NOW, NOW)
        # From Tuesday to Tuesday, without the weekend.
        assert report.hours == tuple(PooledHour(NOON - days * DAY, 30) for days in (8, 7, 6, 5, 4, 1))
        assert report.baseline is not None
        assert report.baseline.count == 180

    def test_lists_what_each_level_has(self, store: Store) -> None:
        write(store, NOON - 2 * DAY, NOON, per_hour=5)
        evaluate_history(store, NOON)
        supply = querier(store).report(KEY, NOW, NOW).supply
        # The history starts on Sunday afternoon; the hour before the current one never counts.
        assert [(each.level, each.needed, each.traces, each.hours, each.mature) for each in supply] == [
            (FallbackLevel.EXACT, 50, 5, 1, False),
            (FallbackLevel.NEARBY, 20, 5 * 6, 6, True),
            (FallbackLevel.DAYTYPE, 50, 5 * 35, 35, True),
            (FallbackLevel.GLOBAL, 30, 5 * 47, 47, True),
        ]

    def test_series_without_history_is_at_level_5(self, store: Store) -> None:
        report = querier(store).report(KEY, NOW, NOW)
        assert (report.level, report.no_verdict, report.shift) == (FallbackLevel.UNAVAILABLE, NoVerdict.UNAVAILABLE, ())
        assert [each.traces for each in report.supply] == [0, 0, 0, 0]

    def test_series_with_history_of_one_day_is_learning(self, store: Store) -> None:
        write(store, NOON - DAY - 2 * HOUR, NOON - DAY + HOUR)
        evaluate_history(store, NOON)
        report = querier(store).report(KEY, NOW, NOW)
        assert (report.level, report.no_verdict) == (FallbackLevel.NEARBY, NoVerdict.LEARNING)
        assert report.outlier_threshold_seconds is not None

    def test_has_no_verdict_while_the_history_is_not_evaluated(self, store: Store) -> None:
        write(store, NOON - 8 * DAY, NOON)
        report = querier(store).report(KEY, NOW, NOW)
        assert (report.level, report.no_verdict, report.shift) == (FallbackLevel.EXACT, NoVerdict.NOT_EVALUATED, ())

    def test_lists_the_hours_of_incidents_as_kept_out(self, store: Store) -> None:
        write(store, NOON - 8 * DAY, NOON - DAY)
        write(store, NOON - DAY, NOON - DAY + 2 * HOUR, median=1.0)
        write(store, NOON - DAY + 2 * HOUR, NOON)
        evaluate_history(store, NOON)
        report = querier(store).report(KEY, NOW, NOW)
        # The hours around it were touched by the flag.
        assert {NOON - DAY, NOON - DAY + HOUR} <= set(report.kept_out) < set(range(NOON - DAY - 3 * HOUR, NOON, HOUR))
        assert NOON - DAY not in {hour.start for hour in report.hours}


class TestReportForAnotherHour:
    def test_past_hour_ignores_later_history(self, store: Store) -> None:
        write(store, NOON - 10 * DAY, NOON - 4 * DAY)
        write(store, NOON - 4 * DAY, NOON, median=0.12)
        evaluate_history(store, NOON)
        at = NOON - 4 * DAY + 1800
        report = querier(store).report(KEY, at, NOW)
        assert report.hours == tuple(PooledHour(NOON - days * DAY, 30) for days in (8, 7, 6, 5))
        assert (report.hour.start, report.known_until, report.no_verdict) == (NOON - 4 * DAY, NOON - 4 * DAY, None)

    def test_future_hour_uses_the_present_history(self, store: Store) -> None:
        write(store, NOON - 10 * DAY, NOON)
        evaluate_history(store, NOON)
        saturday = NOON + 4 * DAY
        report = querier(store).report(KEY, saturday + 1, NOW)
        assert report.hours == tuple(PooledHour(NOON - days * DAY, 30) for days in (10, 9, 3, 2))
        assert (report.hour.start, report.hour.slot) == (saturday, Slot(12, DayType.WEEKEND))
        assert report.known_until == NOON
        # The hour before the current one is not settled, and never counts.
        tomorrow = querier(store).report(KEY, NOON + DAY - HOUR, NOW)
        assert NOON - HOUR not in {hour.start for hour in tomorrow.hours}

    def test_accepted_change_counts_from_its_acceptance(self, store: Store) -> None:
        settings = replace(SETTINGS, shift=Parameters(accept_after_seconds=DAY))
        changepoint = NOON - 3 * DAY
        write(store, NOON - 10 * DAY, changepoint)
        write(store, changepoint, NOON, median=0.4)
        evaluate_history(store, NOON, settings)
        queries = querier(store, settings)
        now = queries.report(KEY, NOW, NOW)
        assert now.changepoint is not None
        assert abs(now.changepoint - changepoint) <= HOUR
        assert now.baseline is not None
        assert now.baseline.p50_seconds == pytest.approx(0.4, rel=0.05)
        before = queries.report(KEY, changepoint + 6 * HOUR, NOW)
        assert before.changepoint is None
        assert before.baseline is not None
        assert before.baseline.p50_seconds == pytest.approx(0.1, rel=0.05)


class TestProfile:
    def test_slot_equals_the_report_for_its_next_hour(self, store: Store) -> None:
        write(store, NOON - 8 * DAY, NOON, per_hour=12)
        evaluate_history(store, NOON)
        queries = querier(store)
        profile = queries.profile(KEY, NOW)
        assert [slot.slot for slot in profile.slots] == list(SLOTS)
        coming = {}
        for start in range(NOON, NOON + 7 * DAY, HOUR):
            report = queries.report(KEY, start, NOW)
            coming[report.hour.slot] = report
        for slot in profile.slots:
            report = coming[slot.slot]
            assert (slot.baseline, slot.outlier_threshold_seconds) == (
                report.baseline,
                report.outlier_threshold_seconds,
            )
            exact = report.supply[0]
            assert (slot.traces, slot.hours) == (exact.traces, exact.hours)

    def test_series_without_history_has_no_baselines(self, store: Store) -> None:
        profile = querier(store).profile(KEY, NOW)
        assert {slot.baseline for slot in profile.slots} == {None}
        assert len(profile.slots) == 48


class CountedStore(Store):
    """A store that counts its scans of the traffic."""

    counts = 0

    def traffic(self, keys: Iterable[SeriesKey], start: int, end: int, at_once: int = 200) -> Iterator[StoredTraffic]:
        self.counts += 1
        return super().traffic(keys, start, end, at_once)


class TestAvailability:
    def test_agrees_with_the_profiles(self, store: Store) -> None:
        write(store, NOON - 9 * DAY, NOON - DAY, per_hour=12)
        write(store, NOON - DAY, NOON - DAY + 2 * HOUR, median=1.0)
        write(store, NOON - DAY + 2 * HOUR, NOON, per_hour=12)
        write(store, NOON - 30 * HOUR, NOON - 28 * HOUR, key=OTHER)
        evaluate_history(store, NOON)
        queries = querier(store)
        availability = queries.availability(NOW)
        assert set(availability) == {KEY, OTHER}
        for key, found in availability.items():
            for slot in queries.profile(key, NOW).slots:
                standing = found[slot.slot]
                level = FallbackLevel.UNAVAILABLE if slot.baseline is None else slot.baseline.level
                assert (standing.level, standing.traces, standing.hours) == (level, slot.traces, slot.hours)
                assert standing.mature == (slot.baseline is not None and slot.baseline.mature)

    def test_is_cached_for_the_hour(self) -> None:
        store = memory_store(CountedStore)
        write(store, NOON - 2 * DAY, NOON)
        evaluate_history(store, NOON)
        store.counts = 0
        queries = querier(store)
        for now in (NOW, NOW + 1, NOON + HOUR - 1):
            queries.availability(now)
        assert store.counts == 1
        queries.availability(NOON + HOUR)
        assert store.counts == 2

    def test_is_cached_for_a_minute_while_the_history_is_not_evaluated(self) -> None:
        store = memory_store(CountedStore)
        write(store, NOON - 2 * DAY, NOON)
        queries = querier(store)
        for now in (NOW, NOW + 59, NOW + 60):
            queries.availability(now)
        assert store.counts == 2
        evaluate_history(store, NOON)
        store.counts = 0
        queries.availability(NOW + 61)
        assert store.counts == 1


def test_queries_work_on_a_readonly_database(tmp_path: Path) -> None:
    writing = Store.open(tmp_path / "history.db")
    write(writing, NOON - 8 * DAY, NOON)
    evaluate_history(writing, NOON)
    reading = Store.open_readonly(tmp_path / "history.db")
    here, there = querier(writing), querier(reading)
    assert here.report(KEY, NOW, NOW) == there.report(KEY, NOW, NOW)
    assert here.profile(KEY, NOW) == there.profile(KEY, NOW)
    assert here.availability(NOW) == there.availability(NOW)
    assert there.series() == [KEY]
    reading.close()
    writing.close()


class TestStreams:
    def test_report_and_profile_have_the_baseline_and_no_thresholds(self, store: Store) -> None:
        for start in range(NOON - 8 * DAY, NOON, HOUR):
            commit_hour(store, start, {KEY: [30.01] * 30, OTHER: [0.1] * 30})
        manager = evaluate_history(store, NOON)
        report = querier(store).report(KEY, NOW, NOW)
        assert (report.stream, report.no_verdict) == (StreamReason.DURATIONS, NoVerdict.STREAM)
        assert report.baseline == manager.table(NOW).get(KEY).baseline
        assert (report.shift, report.outlier_threshold_seconds) == ((), None)
        profile = querier(store).profile(KEY, NOW)
        assert {slot.outlier_threshold_seconds for slot in profile.slots} == {None}
        assert querier(store).report(OTHER, NOW, NOW).stream is None

    def test_the_name_of_a_series_without_history_counts(self, store: Store) -> None:
        report = querier(store).report(OTHER._replace(span_name="GET /ws"), NOW, NOW)
        assert (report.stream, report.no_verdict) == (StreamReason.NAME, NoVerdict.STREAM)


class TestOverrides:
    def test_report_and_table_are_those_of_the_same_settings_for_all(self, store: Store) -> None:
        write(store, NOON - 12 * DAY, NOON)
        overrides = (
            Override(
                Pattern("^checkout/GET "),
                (
                    OverrideValue("ratio", "3", "ratio", 3.0),
                    OverrideValue("lookback", "5d", "lookback_seconds", 5 * DAY),
                ),
            ),
        )
        settings = replace(SETTINGS, policies=SeriesPolicies(overrides, SETTINGS.fallback, SETTINGS.shift))
        expected = replace(
            SETTINGS,
            shift=replace(SETTINGS.shift, ratio=3.0),
            fallback=replace(SETTINGS.fallback, lookback_seconds=5 * DAY),
        )
        tables, reports = [], []
        for each in (settings, expected):
            tables.append(evaluate_history(store, NOON, each).table(NOW))
            reports.append(querier(store, each).report(KEY, NOW, NOW))
        found, wanted = reports
        assert found.policy is not None
        assert [str(each) for each in found.policy.applied] == [
            "ratio 3, by overrides[0]",
            "lookback 5d, by overrides[0]",
        ]
        assert replace(found, policy=None) == wanted
        assert tables[0].get(KEY) == tables[1].get(KEY)

    def test_a_disabled_series_has_a_baseline_and_no_thresholds(self, store: Store) -> None:
        write(store, NOON - 12 * DAY, NOON)
        overrides = (Override(Pattern("cart"), (OverrideValue("enabled", "false", "is_enabled", False),)),)
        settings = replace(SETTINGS, policies=SeriesPolicies(overrides, SETTINGS.fallback, SETTINGS.shift))
        manager = evaluate_history(store, NOON, settings)
        report = querier(store, settings).report(KEY, NOW, NOW)
        assert (report.no_verdict, report.shift, report.outlier_threshold_seconds) == (NoVerdict.DISABLED, (), None)
        kept = manager.table(NOW).get(KEY)
        assert (kept.baseline, kept.thresholds, kept.outlier_threshold_seconds) == (report.baseline, None, None)
        assert kept.baseline is not None
        profile = querier(store, settings).profile(KEY, NOW)
        assert {slot.outlier_threshold_seconds for slot in profile.slots} == {None}
        unknown = KEY._replace(span_name="GET /cart/unknown")
        assert querier(store, settings).report(unknown, NOW, NOW).no_verdict is NoVerdict.DISABLED
