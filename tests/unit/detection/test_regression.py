"""Regressions, from hour to hour."""

import random
from dataclasses import replace
from math import log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.detection.parameters import ALL_PARTS, Parameters
from exporter.detection.regression.tracker import NO_REGRESSION_STATE, RegressionState, RegressionTracker
from exporter.detection.regression.verdict import Regression, RegressionChange, RegressionEvent
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock
from exporter.model.histogram import BUCKETS_PER_OCTAVE, Digest, bucket_of_seconds
from exporter.model.histogram_codec import encode_digest
from exporter.model.series_hour import SeriesHour, StoredWindow
from tests.support.detection_traffic import MONDAY

CLOCK = HourClock(Calendar())
DAY = 24
WEEK = 7 * DAY
PARAMETERS = Parameters()
RAISED, RESOLVED, ACCEPTED = RegressionEvent


class Traffic:
    """Hours of one series: busier and slower in the afternoon, with hours and days that differ.

    Args:
        seed: seed of the differences.
        requests: number of requests of an hour.
        day_buckets: standard deviation of whole days.
        median_seconds: median at night.
    """

    def __init__(
        self, seed: int = 1, requests: int = 40, day_buckets: float = 0.8, median_seconds: float = 0.1
    ) -> None:
        self._seed = seed
        self._requests = requests
        self._day_buckets = day_buckets
        self._median = bucket_of_seconds(median_seconds)

    def hour(self, number: int, slower: float = 1.0) -> SeriesHour:
        rng = random.Random(f"{self._seed}/{number}")
        day = random.Random(f"{self._seed}/day/{number // DAY}").gauss(0, self._day_buckets)
        rhythm = 8 * (8 <= number % DAY < 18) - 3 * (number // DAY % 7 >= 5)
        centre = self._median + day + rhythm + BUCKETS_PER_OCTAVE * log2(slower)
        counts: dict[int, int] = {}
        for _ in range(self._requests):
            bucket = round(rng.gauss(centre, 12))
            counts[bucket] = counts.get(bucket, 0) + 1
        start = MONDAY + number * HOUR_SECONDS
        return SeriesHour(CLOCK.hour(start), [StoredWindow(start, self._requests, encode_digest(Digest(counts)))])


def follow(
    traffic: Traffic,
    hours: int,
    slower: dict[range, float] | None = None,
    parameters: Parameters = PARAMETERS,
    quarantined: range = range(0),
) -> RegressionTracker:
    tracker = RegressionTracker(parameters)
    for number in range(hours):
        factor = next((f for each, f in (slower or {}).items() if number in each), 1.0)
        tracker.add(traffic.hour(number, factor))
        if number in quarantined:
            tracker.set_quarantined(MONDAY + number * HOUR_SECONDS, quarantined=True)
        tracker.evaluate(CLOCK.hour(MONDAY + number * HOUR_SECONDS))
    return tracker


class TwoDurations(Traffic):
    """Requests that are either fast or slow, about as often, and slow ones by another factor each hour.

    The median of an hour is either, and its p90 differs from hour to hour.
    """

    def hour(self, number: int, slower: float = 1.0) -> SeriesHour:
        rng = random.Random(f"{self._seed}/{number}")
        share, slow = rng.uniform(0.35, 0.65), rng.gauss(74, 25)
        counts: dict[int, int] = {}
        for _ in range(self._requests):
            centre = self._median + (slow if rng.random() < share else 0) + BUCKETS_PER_OCTAVE * log2(slower)
            bucket = round(rng.gauss(centre, 6))
            counts[bucket] = counts.get(bucket, 0) + 1
        start = MONDAY + number * HOUR_SECONDS
        return SeriesHour(CLOCK.hour(start), [StoredWindow(start, self._requests, encode_digest(Digest(counts)))])


class Restless(Traffic):
    """Hours that wander by six hours, and as far back: the means of whole days do not show it."""

    def hour(self, number: int, slower: float = 1.0) -> SeriesHour:
        half_day, part = divmod(number % DAY, 12)
        buckets = random.Random(f"{self._seed}/wander/{number // DAY}/{half_day}").gauss(0, 14)
        return super().hour(number, slower * 2 ** ((buckets if part < 6 else -buckets) / BUCKETS_PER_OCTAVE))


def in_hours(change: RegressionChange) -> float:
    return (change.at - MONDAY) / HOUR_SECONDS


STEP = 4 * WEEK - 2 * DAY + 15
"""An hour on a Saturday."""


class TestStep:
    def test_is_found_within_two_days_and_named(self) -> None:
        tracker = follow(Traffic(), STEP + 3 * DAY, {range(STEP, 10**6): 1.25})
        (change,) = tracker.changes
        assert change.event is RAISED
        assert 12 <= in_hours(change) - STEP <= 48
        found = change.regression
        assert found.began_after <= MONDAY + STEP * HOUR_SECONDS <= found.began_before
        assert found.began_before - found.began_after <= 12 * HOUR_SECONDS
        # In the part of the last hours that are slower; then of the last day.
        assert found.ratio == pytest.approx(1.25, abs=0.13)
        current = tracker.state().current
        assert current is not None
        assert current.ratio == pytest.approx(1.25, abs=0.07)
        assert current.began == found.began

    @pytest.mark.parametrize("seed", range(3))
    def test_is_found_where_median_and_p90_differ_from_hour_to_hour(self, seed: int) -> None:
        assert follow(TwoDurations(seed), STEP).changes == []
        (change,) = follow(TwoDurations(seed), STEP + 2 * DAY, {range(STEP, 10**6): 1.25}).changes
        assert change.regression.ratio == pytest.approx(1.25, abs=0.13)
        without = replace(PARAMETERS, parts=ALL_PARTS._replace(regression_level=False))
        by_median = follow(TwoDurations(seed), STEP + 2 * DAY, {range(STEP, 10**6): 1.25}, without).changes
        raised = [change.regression.ratio for change in by_median if change.event is RAISED]
        assert not any(ratio == pytest.approx(1.25, abs=0.13) for ratio in raised)

    def test_hours_that_wander_make_days_uncertain(self) -> None:
        parameters = replace(PARAMETERS, regression_ratio=1.05)
        begin, slower = 3 * WEEK, {range(3 * WEEK, 10**6): 1.15}

        def found(kind: type[Traffic]) -> int:
            all_changes = [follow(kind(seed), begin + 2 * DAY, slower, parameters).changes for seed in range(4)]
            return sum(any(in_hours(change) - begin > 0 for change in changes) for changes in all_changes)

        assert found(Traffic) == 4
        assert found(Restless) <= 1

    def test_goes_away_by_itself(self) -> None:
        tracker = follow(Traffic(), STEP + 6 * DAY, {range(STEP, STEP + 3 * DAY): 1.25})
        assert [change.event for change in tracker.changes] == [RAISED, RESOLVED]
        assert 3 * DAY < in_hours(tracker.changes[1]) - STEP <= 4 * DAY + 6
        assert tracker.state().current is None
        assert tracker.state().is_judged

    def test_is_accepted_after_a_while_and_is_then_normal(self) -> None:
        parameters = replace(PARAMETERS, regression_accept_after_seconds=10 * DAY * HOUR_SECONDS)
        until = STEP + 5 * WEEK
        back = STEP + 3 * WEEK
        tracker = follow(Traffic(), until, {range(STEP, back): 1.3, range(back, 10**6): 1.3**2}, parameters)
        assert [change.event for change in tracker.changes] == [RAISED, ACCEPTED] * 2
        first, second = tracker.changes[1], tracker.changes[2]
        assert 10 * DAY - 12 <= in_hours(first) - STEP <= 10 * DAY + 12
        assert 0 < in_hours(second) - back <= 48
        assert second.regression.ratio == pytest.approx(1.3, abs=0.13)

    def test_stays_while_it_lasts_however_long(self) -> None:
        """The weeks before end with its beginning, so that it does not become its own reference."""
        parameters = replace(PARAMETERS, regression_accept_after_seconds=20 * DAY * HOUR_SECONDS)
        tracker = follow(Traffic(), STEP + 19 * DAY, {range(STEP, 10**6): 1.25}, parameters)
        assert [change.event for change in tracker.changes] == [RAISED]

    @pytest.mark.parametrize(
        "parameters",
        [
            replace(PARAMETERS, regression_ratio=1.5),
            replace(PARAMETERS, regression_min_delta_seconds=0.06),
        ],
    )
    def test_too_small_a_step_is_none(self, parameters: Parameters) -> None:
        assert follow(Traffic(), STEP + 3 * DAY, {range(STEP, 10**6): 1.25}, parameters).changes == []

    def test_speed_up_is_none(self) -> None:
        assert follow(Traffic(), STEP + 3 * DAY, {range(STEP, 10**6): 0.7}).changes == []

    def test_incident_in_quarantine_is_none(self) -> None:
        incident = range(STEP, STEP + 20)
        assert follow(Traffic(), STEP + 3 * DAY, {incident: 4.0}, quarantined=incident).changes == []

    def test_quarantine_that_lasts_hides_nothing(self) -> None:
        lasting = range(STEP, STEP + 3 * DAY)
        tracker = follow(Traffic(), STEP + 3 * DAY, {lasting: 2.0}, quarantined=lasting)
        assert [change.event for change in tracker.changes] == []
        # Hours that count again, once the shift is accepted as the baseline.
        for number in lasting:
            tracker.set_quarantined(MONDAY + number * HOUR_SECONDS, quarantined=False)
        tracker.evaluate(CLOCK.hour(MONDAY + (STEP + 3 * DAY + 2) * HOUR_SECONDS))
        assert [change.event for change in tracker.changes] == [RAISED]


def test_drift_is_found_before_it_has_added_thirty_percent() -> None:
    begin = 3 * WEEK
    drift = {range(begin + hour, begin + hour + 1): 1.01 ** (hour / DAY) for hour in range(30 * DAY)}
    tracker = follow(Traffic(), begin + 30 * DAY, drift)
    assert tracker.changes[0].event is RAISED
    assert 1.01 ** ((in_hours(tracker.changes[0]) - begin) / DAY) < 1.3


def test_healthy_series_have_next_to_none() -> None:
    found = [len(follow(Traffic(seed), 5 * WEEK).changes) for seed in range(12)]
    assert sum(found) == 0


class TestWhatCanBeJudged:
    def test_needs_more_than_a_week_of_history(self) -> None:
        assert not follow(Traffic(), WEEK + DAY).state().is_judged
        assert follow(Traffic(), 9 * DAY).state().is_judged

    def test_step_within_the_first_days_is_not_judged(self) -> None:
        assert follow(Traffic(), WEEK, {range(3 * DAY, 10**6): 2.0}).changes == []

    def test_too_few_requests_are_not_judged(self) -> None:
        assert not follow(Traffic(requests=4), 4 * WEEK).state().is_judged

    def test_series_that_is_not_judged_has_no_regression(self) -> None:
        tracker = follow(Traffic(), STEP + 3 * DAY, {range(STEP, 10**6): 1.3})
        assert tracker.state().current is not None
        tracker.evaluate(CLOCK.hour(MONDAY + (STEP + 3 * DAY) * HOUR_SECONDS), is_judged=False)
        assert (tracker.state().current, tracker.state().is_judged) == (None, False)

    def test_without_traffic_a_regression_stays(self) -> None:
        tracker = follow(Traffic(), STEP + 3 * DAY, {range(STEP, 10**6): 1.3})
        for number in range(STEP + 3 * DAY, STEP + 6 * DAY):
            tracker.evaluate(CLOCK.hour(MONDAY + number * HOUR_SECONDS))
        assert tracker.state().current is not None


class TestState:
    @pytest.mark.parametrize("every", [1, 5, 100])
    def test_result_does_not_depend_on_restarts(self, every: int) -> None:
        traffic, until = Traffic(), STEP + 6 * DAY
        slower = {range(STEP, STEP + 3 * DAY): 1.25}
        at_once = follow(traffic, until, slower)
        state: RegressionState = NO_REGRESSION_STATE
        changes: list[RegressionChange] = []
        tracker = RegressionTracker(PARAMETERS, state)
        for number in range(until):
            if number % every == 0:
                changes += tracker.changes
                tracker = RegressionTracker(PARAMETERS, tracker.state())
            tracker.add(traffic.hour(number, 1.25 if STEP <= number < STEP + 3 * DAY else 1.0))
            tracker.evaluate(CLOCK.hour(MONDAY + number * HOUR_SECONDS))
        assert changes + tracker.changes == at_once.changes
        assert tracker.state() == at_once.state()

    def test_is_small(self) -> None:
        assert len(follow(Traffic(), 6 * WEEK).state().hours) < 6000

    @pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data[:12], lambda data: b"\0" * 40])
    def test_damage_is_detected(self, damage: object) -> None:
        state = follow(Traffic(), 2 * DAY).state()
        RegressionTracker.check(state)
        with pytest.raises(ValueError, match="damaged"):
            RegressionTracker.check(state._replace(hours=damage(state.hours)))  # type: ignore[operator]


@settings(max_examples=15, deadline=None)
@given(octaves=st.integers(-5, 8), seed=st.integers(0, 5), factor=st.sampled_from((1.0, 1.25, 1.6)))
def test_scaling_all_durations_changes_nothing(octaves: int, seed: int, factor: float) -> None:
    """Whole octaves, so that all buckets move alike."""
    parameters = replace(PARAMETERS, regression_min_delta_seconds=0.0)
    until, slower = 3 * WEEK, {range(17 * DAY, 10**6): factor}

    def found(median_seconds: float) -> list[tuple[RegressionEvent, int, Regression]]:
        changes = follow(Traffic(seed, median_seconds=median_seconds), until, slower, parameters).changes
        return [(*change[:2], change.regression._replace(before_seconds=0.0)) for change in changes]

    assert found(0.125 * 2.0**octaves) == found(0.125)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 20), factor=st.floats(1.0, 1.4), more=st.floats(1.05, 1.6))
def test_a_larger_step_is_found_if_a_smaller_one_is(seed: int, factor: float, more: float) -> None:
    def ever(slower: float) -> bool:
        return bool(follow(Traffic(seed), 18 * DAY, {range(16 * DAY, 10**6): slower}).changes)

    assert not ever(factor) or ever(factor * more)
