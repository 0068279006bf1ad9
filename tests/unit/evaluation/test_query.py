from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.baseline.levels import SLOTS, FallbackLevel
from exporter.detection.parameters import Parameters
from exporter.evaluation.baseline_table import SeriesBaseline
from exporter.evaluation.manager import BaselineManager
from exporter.evaluation.query import BaselineQuerier, NoVerdict, PooledHour
from exporter.evaluation.settings import EvaluationSettings
from exporter.model.calendar import Calendar, DayType, HourClock, Slot
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.store import SeriesTraffic, Store
from tests.support.samples import DAY, HOUR, KEY, NOON, SETTINGS, Clock, around, commit_hour

NOW = NOON + 600
OTHER = SeriesKey("checkout", "POST /pay")
WEEKDAY_NOON = Slot(12, DayType.WEEKDAY)


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store.in_memory()
    yield store
    store.close()


def inquiry(store: Store, settings: EvaluationSettings = SETTINGS) -> BaselineQuerier:
    return BaselineQuerier(store, HourClock(Calendar()), settings)


def historian(store: Store, until: int, settings: EvaluationSettings = SETTINGS) -> BaselineManager:
    """A historian that has judged all that is stored up to an instant."""
    made = BaselineManager(
        store,
        HourClock(Calendar()),
        settings,
        settled_until=lambda: until,
        on_accepted=lambda: None,
        monotonic=Clock(0.0),
        log=get_logger("test"),
    )
    made.catch_up(until + 600)
    return made


def write(store: Store, since: int, until: int, median: float = 0.1, per_hour: int = 30, key: SeriesKey = KEY) -> None:
    for start in range(since, until, HOUR):
        commit_hour(store, start, {key: around(median, per_hour)})


class TestNow:
    def test_it_is_what_the_book_says(self, store: Store) -> None:
        write(store, NOON - 12 * DAY, NOON)
        judged = historian(store, NOON)
        usual = inquiry(store).usual(KEY, NOW, NOW)
        assert SeriesBaseline(
            last_seen=float(NOON),
            baseline=usual.baseline,
            outlier_threshold_seconds=usual.outlier_threshold_seconds,
            thresholds=judged.book(NOW).of(KEY).thresholds,
        ) == judged.book(NOW).of(KEY)
        assert (usual.no_verdict, usual.hour.slot, usual.known_until) == (None, WEEKDAY_NOON, NOON)
        assert [threshold.quantile for threshold in usual.shift] == [0.5, 0.9, 0.99]
        assert all(each.limit_seconds > each.usual_seconds for each in usual.shift)

    def test_it_names_the_hours_that_are_pooled(self, store: Store) -> None:
        write(store, NOON - 8 * DAY, NOON)
        historian(store, NOON)
        usual = inquiry(store).usual(KEY, NOW, NOW)
        # From Tuesday to Tuesday; Saturday and Sunday are none of them.
        assert usual.hours == tuple(PooledHour(NOON - days * DAY, 30) for days in (8, 7, 6, 5, 4, 1))
        assert usual.baseline is not None
        assert usual.baseline.count == 180

    def test_what_each_level_has(self, store: Store) -> None:
        write(store, NOON - 2 * DAY, NOON, per_hour=5)
        historian(store, NOON)
        supply = inquiry(store).usual(KEY, NOW, NOW).supply
        # On Sunday afternoon it began; the hour before the present one never counts.
        assert [(each.level, each.needed, each.traces, each.hours, each.mature) for each in supply] == [
            (FallbackLevel.EXACT, 50, 5, 1, False),
            (FallbackLevel.NEARBY, 20, 5 * 6, 6, True),
            (FallbackLevel.DAYTYPE, 50, 5 * 35, 35, True),
            (FallbackLevel.GLOBAL, 30, 5 * 47, 47, True),
        ]

    def test_nothing_stored_is_level_5(self, store: Store) -> None:
        usual = inquiry(store).usual(KEY, NOW, NOW)
        assert (usual.level, usual.no_verdict, usual.shift) == (FallbackLevel.UNAVAILABLE, NoVerdict.UNAVAILABLE, ())
        assert [each.traces for each in usual.supply] == [0, 0, 0, 0]

    def test_too_few_days_are_learning(self, store: Store) -> None:
        write(store, NOON - DAY - 2 * HOUR, NOON - DAY + HOUR)
        historian(store, NOON)
        usual = inquiry(store).usual(KEY, NOW, NOW)
        assert (usual.level, usual.no_verdict) == (FallbackLevel.NEARBY, NoVerdict.LEARNING)
        assert usual.outlier_threshold_seconds is not None

    def test_while_the_past_is_not_judged_there_is_no_verdict(self, store: Store) -> None:
        write(store, NOON - 8 * DAY, NOON)
        usual = inquiry(store).usual(KEY, NOW, NOW)
        assert (usual.level, usual.no_verdict, usual.shift) == (FallbackLevel.EXACT, NoVerdict.NOT_JUDGED, ())

    def test_incidents_are_kept_out_and_named(self, store: Store) -> None:
        write(store, NOON - 8 * DAY, NOON - DAY)
        write(store, NOON - DAY, NOON - DAY + 2 * HOUR, median=1.0)
        write(store, NOON - DAY + 2 * HOUR, NOON)
        historian(store, NOON)
        usual = inquiry(store).usual(KEY, NOW, NOW)
        # So are the hours around it that the flag has touched.
        assert {NOON - DAY, NOON - DAY + HOUR} <= set(usual.kept_out) < set(range(NOON - DAY - 3 * HOUR, NOON, HOUR))
        assert NOON - DAY not in {hour.start for hour in usual.hours}


class TestAnotherTime:
    def test_an_hour_of_the_past_knows_nothing_of_what_came_later(self, store: Store) -> None:
        write(store, NOON - 10 * DAY, NOON - 4 * DAY)
        write(store, NOON - 4 * DAY, NOON, median=0.12)
        historian(store, NOON)
        at = NOON - 4 * DAY + 1800
        usual = inquiry(store).usual(KEY, at, NOW)
        assert usual.hours == tuple(PooledHour(NOON - days * DAY, 30) for days in (8, 7, 6, 5))
        assert (usual.hour.start, usual.known_until, usual.no_verdict) == (NOON - 4 * DAY, NOON - 4 * DAY, None)

    def test_an_hour_to_come_is_told_from_what_counts_now(self, store: Store) -> None:
        write(store, NOON - 10 * DAY, NOON)
        historian(store, NOON)
        saturday = NOON + 4 * DAY
        usual = inquiry(store).usual(KEY, saturday + 1, NOW)
        assert usual.hours == tuple(PooledHour(NOON - days * DAY, 30) for days in (10, 9, 3, 2))
        assert (usual.hour.start, usual.hour.slot) == (saturday, Slot(12, DayType.WEEKEND))
        assert usual.known_until == NOON
        # The hour before the present one is not settled, whatever hour is asked about.
        tomorrow = inquiry(store).usual(KEY, NOON + DAY - HOUR, NOW)
        assert NOON - HOUR not in {hour.start for hour in tomorrow.hours}

    def test_a_change_that_was_accepted_counts_from_when_it_was(self, store: Store) -> None:
        settings = replace(SETTINGS, shift=Parameters(accept_after_seconds=DAY))
        changepoint = NOON - 3 * DAY
        write(store, NOON - 10 * DAY, changepoint)
        write(store, changepoint, NOON, median=0.4)
        historian(store, NOON, settings)
        ask = inquiry(store, settings)
        now = ask.usual(KEY, NOW, NOW)
        assert now.changepoint is not None
        assert abs(now.changepoint - changepoint) <= HOUR
        assert now.baseline is not None
        assert now.baseline.p50_seconds == pytest.approx(0.4, rel=0.05)
        before = ask.usual(KEY, changepoint + 6 * HOUR, NOW)
        assert before.changepoint is None
        assert before.baseline is not None
        assert before.baseline.p50_seconds == pytest.approx(0.1, rel=0.05)


class TestProfile:
    def test_each_slot_is_what_would_be_in_force_now(self, store: Store) -> None:
        write(store, NOON - 8 * DAY, NOON, per_hour=12)
        historian(store, NOON)
        ask = inquiry(store)
        profile = ask.profile(KEY, NOW)
        assert [slot.slot for slot in profile.slots] == list(SLOTS)
        coming = {}
        for start in range(NOON, NOON + 7 * DAY, HOUR):
            usual = ask.usual(KEY, start, NOW)
            coming[usual.hour.slot] = usual
        for slot in profile.slots:
            usual = coming[slot.slot]
            assert (slot.baseline, slot.outlier_threshold_seconds) == (usual.baseline, usual.outlier_threshold_seconds)
            exact = usual.supply[0]
            assert (slot.traces, slot.hours) == (exact.traces, exact.hours)

    def test_without_a_history_nothing_is(self, store: Store) -> None:
        profile = inquiry(store).profile(KEY, NOW)
        assert {slot.baseline for slot in profile.slots} == {None}
        assert len(profile.slots) == 48


class CountedStore(Store):
    """A store that says how often it was counted."""

    counts = 0

    def traffic(self, keys: Iterable[SeriesKey], start: int, end: int, at_once: int = 200) -> Iterator[SeriesTraffic]:
        self.counts += 1
        return super().traffic(keys, start, end, at_once)


class TestAvailable:
    def test_it_agrees_with_the_profiles(self, store: Store) -> None:
        write(store, NOON - 9 * DAY, NOON - DAY, per_hour=12)
        write(store, NOON - DAY, NOON - DAY + 2 * HOUR, median=1.0)
        write(store, NOON - DAY + 2 * HOUR, NOON, per_hour=12)
        write(store, NOON - 30 * HOUR, NOON - 28 * HOUR, key=OTHER)
        historian(store, NOON)
        ask = inquiry(store)
        available = ask.available(NOW)
        assert set(available) == {KEY, OTHER}
        for key, found in available.items():
            for slot in ask.profile(key, NOW).slots:
                standing = found[slot.slot]
                level = FallbackLevel.UNAVAILABLE if slot.baseline is None else slot.baseline.level
                assert (standing.level, standing.traces, standing.hours) == (level, slot.traces, slot.hours)
                assert standing.mature == (slot.baseline is not None and slot.baseline.mature)

    def test_it_is_counted_once_an_hour(self) -> None:
        store = CountedStore.in_memory()
        write(store, NOON - 2 * DAY, NOON)
        historian(store, NOON)
        ask = inquiry(store)
        for now in (NOW, NOW + 1, NOON + HOUR - 1):
            ask.available(now)
        assert store.counts == 1
        ask.available(NOON + HOUR)
        assert store.counts == 2

    def test_while_history_comes_in_it_is_counted_again(self) -> None:
        store = CountedStore.in_memory()
        write(store, NOON - 2 * DAY, NOON)
        ask = inquiry(store)
        for now in (NOW, NOW + 59, NOW + 60):
            ask.available(now)
        assert store.counts == 2
        historian(store, NOON)
        ask.available(NOW + 61)
        assert store.counts == 3


def test_a_database_that_is_open_for_reading_only_will_do(tmp_path: Path) -> None:
    writing = Store.open(tmp_path / "history.db")
    write(writing, NOON - 8 * DAY, NOON)
    historian(writing, NOON)
    reading = Store.open_readonly(tmp_path / "history.db")
    here, there = inquiry(writing), inquiry(reading)
    assert here.usual(KEY, NOW, NOW) == there.usual(KEY, NOW, NOW)
    assert here.profile(KEY, NOW) == there.profile(KEY, NOW)
    assert here.available(NOW) == there.available(NOW)
    assert there.series() == [KEY]
    reading.close()
    writing.close()
