"""The usual traffic of a series: from comparable hours, with its pattern within the hour and its dispersion."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel, FallbackRules
from exporter.baseline.traffic import (
    MARKS,
    NO_PATTERN,
    PATTERN_MIN_HOURS,
    HourPattern,
    SourceHour,
    TrafficBaseline,
    TrafficHour,
    requests_by_mark,
    traffic_baseline,
    traffic_hours,
)
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock, LocalHour
from exporter.model.series_hour import StoredWindow

CLOCK = HourClock(Calendar())
MONDAY = 1_750_636_800
DAY = 24 * HOUR_SECONDS


def pattern(requests: list[int], hours: int = PATTERN_MIN_HOURS) -> HourPattern:
    """Return the pattern after some equal hours."""
    found = NO_PATTERN
    for _ in range(hours):
        found = found.with_hour(requests)
    return found


@given(st.lists(st.lists(st.integers(0, 400), min_size=MARKS, max_size=MARKS), min_size=13, max_size=16))
def test_what_varies_within_the_hour_is_summed_in_whole_requests(some: list[list[int]]) -> None:
    found = NO_PATTERN
    for requests in some:
        shares, total = found.shares, sum(requests)
        expected = [(found.excess[index], found.squares[index]) for index in range(3)]
        if found.is_known and total:
            for index, marks in enumerate((1, 3, 6)):
                for first in range(0, MARKS, marks):
                    share = 0.0
                    for each in shares[first : first + marks]:
                        share += each
                    mean = total * share
                    difference = sum(requests[first : first + marks]) - mean
                    excess, squares = expected[index]
                    excess += round(difference * difference - mean * (1 - share))
                    expected[index] = excess, squares + round(mean * mean)
        found = found.with_hour(requests)
        assert list(zip(found.excess, found.squares, strict=True)) == expected


FLAT = pattern([10] * MARKS)


def hours(*requests: float, start: int = MONDAY) -> list[TrafficHour]:
    """Return consecutive hours."""
    return [TrafficHour(CLOCK.hour(start + index * HOUR_SECONDS), each) for index, each in enumerate(requests)]


def around(at: int) -> list[LocalHour]:
    return [CLOCK.hour(at - 1), CLOCK.hour(at), CLOCK.hour(at + HOUR_SECONDS)]


def usual(history: list[TrafficHour], at: int, known: HourPattern = FLAT) -> TrafficBaseline | None:
    return traffic_baseline(history, around(at), FallbackRules(), known, drop=0.5, accept_after_seconds=DAY)


def days(*of_day: float) -> list[float]:
    """Return the requests of the hours of some days, of each the same all day."""
    return [requests for requests in of_day for _ in range(24)]


class TestBaseline:
    def test_is_the_median_of_the_same_hour(self) -> None:
        found = usual(hours(*days(100, 120, 110, 90, 130)), MONDAY + 7 * DAY)
        assert found is not None
        assert (found.requests, found.level, found.hours) == (110, FallbackLevel.EXACT, 5)

    def test_one_silent_day_does_not_lower_it(self) -> None:
        found = usual(hours(*days(100, 100, 0, 100, 100)), MONDAY + 7 * DAY)
        assert found is not None
        assert found.requests == 100

    def test_an_endpoint_that_is_used_on_some_days_only_is_expected_to_be_silent(self) -> None:
        found = usual(hours(*days(100, 0, 0, 100, 0)), MONDAY + 7 * DAY)
        assert found is not None
        assert found.requests == 0

    def test_weekends_are_compared_with_weekends(self) -> None:
        history = hours(*days(100, 100, 100, 100, 100, 10, 10, 100, 100, 100, 100, 100))
        found = usual(history, MONDAY + 12 * DAY)
        assert found is not None
        assert found.requests < 100

    def test_other_times_of_the_day_are_not_the_usual(self) -> None:
        by_day, by_night = [100.0] * 12, [10.0] * 12
        found = usual(hours(*by_night, *by_day, *by_night, *by_day), MONDAY + 2 * DAY)
        assert found is not None
        assert (found.requests, found.level) == (10, FallbackLevel.NEARBY)
        # These hours of a Saturday have not been seen yet.
        assert usual(hours(*days(100, 100, 100, 100, 100)), MONDAY + 5 * DAY + 3 * HOUR_SECONDS) is None

    def test_a_first_day_has_none(self) -> None:
        assert usual(hours(*days(100)), MONDAY + DAY + 2 * HOUR_SECONDS) is None

    def test_an_unknown_pattern_has_none(self) -> None:
        unknown = pattern([10] * MARKS, PATTERN_MIN_HOURS - 1)
        assert usual(hours(*days(100, 100, 100, 100)), MONDAY + 4 * DAY, unknown) is None

    def test_a_change_is_the_usual_after_the_time_to_accept_it(self) -> None:
        before = days(100, 100, 100, 100)
        lasting = usual(hours(*before, *days(10), 10, 10, 10), MONDAY + 5 * DAY + 3 * HOUR_SECONDS)
        assert lasting is None or lasting.requests == 10
        shorter = usual(hours(*before, *([10] * 20)), MONDAY + 4 * DAY + 20 * HOUR_SECONDS)
        assert shorter is not None
        assert shorter.requests == 100

    def test_days_that_differ_have_a_larger_dispersion(self) -> None:
        calm = usual(hours(*days(100, 101, 99, 100, 100)), MONDAY + 7 * DAY)
        restless = usual(hours(*days(60, 140, 100, 50, 150)), MONDAY + 7 * DAY)
        assert calm is not None
        assert restless is not None
        assert calm.dispersion < 0.02 < 0.1 < restless.dispersion

    @given(st.lists(st.integers(0, 500), min_size=96, max_size=96))
    def test_the_order_of_reading_is_irrelevant(self, requests: list[int]) -> None:
        windows = [StoredWindow(MONDAY + index * HOUR_SECONDS, each, b"") for index, each in enumerate(requests)]
        source = [
            SourceHour(CLOCK.hour(MONDAY + index * HOUR_SECONDS), ((MONDAY + index * HOUR_SECONDS, 1.0),))
            for index in range(len(requests))
        ]
        assert list(traffic_hours(windows, source)) == list(traffic_hours(reversed(windows), source))

    @given(st.integers(2, 50))
    def test_scales_with_all_counts(self, factor: int) -> None:
        history = hours(*days(100, 120, 110, 90, 130))
        scaled = [hour._replace(requests=hour.requests * factor) for hour in history]
        one, other = usual(history, MONDAY + 7 * DAY), usual(scaled, MONDAY + 7 * DAY)
        assert one is not None
        assert other is not None
        assert other.requests == one.requests * factor


class TestHours:
    def test_unread_hours_and_those_before_the_first_request_are_left_out(self) -> None:
        windows = [StoredWindow(MONDAY + HOUR_SECONDS, 7, b""), StoredWindow(MONDAY + 3 * HOUR_SECONDS, 9, b"")]
        source = [
            SourceHour(CLOCK.hour(start), ((start, coverage),))
            for start, coverage in (
                (MONDAY, 1.0),
                (MONDAY + HOUR_SECONDS, 0.5),
                (MONDAY + 2 * HOUR_SECONDS, 1.0),
                (MONDAY + 4 * HOUR_SECONDS, 1.0),
            )
        ]
        assert [(hour.hour.start - MONDAY, hour.requests) for hour in traffic_hours(windows, source)] == [
            (HOUR_SECONDS, 14.0),
            (2 * HOUR_SECONDS, 0),
            (4 * HOUR_SECONDS, 0),
        ]

    def test_requests_that_end_after_the_hour_count_for_their_minutes(self) -> None:
        marks = [(MONDAY + 300, [1, 2]), (MONDAY + 3600, [1]), (MONDAY + 3900, [1])]
        assert requests_by_mark(marks, MONDAY) == [3, *[0] * 10, 1]


class TestPattern:
    def test_what_recurs_at_the_same_minutes_is_expected_there(self) -> None:
        cron = pattern([120, *[0] * 11])
        found = TrafficBaseline(MONDAY, 120, 120, 120, 0.0, FallbackLevel.EXACT, 5, cron)
        assert found.expected(MONDAY + 300, MONDAY + 3600) == 0
        assert found.expected(MONDAY, MONDAY + 300) == pytest.approx(120)

    def test_of_part_of_a_mark_with_a_peak_nothing_is_expected(self) -> None:
        cron = pattern([120, *[0] * 11])
        found = TrafficBaseline(MONDAY, 120, 120, 120, 0.0, FallbackLevel.EXACT, 5, cron)
        assert found.expected(MONDAY + 60, MONDAY + 600) == 0

    def test_steady_traffic_is_expected_evenly(self) -> None:
        found = TrafficBaseline(MONDAY, 120, 120, 120, 0.0, FallbackLevel.EXACT, 5, FLAT)
        assert found.expected(MONDAY + 30, MONDAY + 330) == pytest.approx(10)
        assert found.expected(MONDAY - 300, MONDAY) == pytest.approx(10)

    def test_traffic_rises_gradually_into_a_busier_hour(self) -> None:
        found = TrafficBaseline(MONDAY, 120, 1200, 1200, 0.0, FallbackLevel.EXACT, 5, FLAT)
        assert 50 < found.expected(MONDAY, MONDAY + 300) < 70
        assert found.expected(MONDAY + 3300, MONDAY + 3600) == pytest.approx(100)

    def test_bursts_have_a_dispersion_and_even_traffic_has_none(self) -> None:
        bursts = NO_PATTERN
        for index in range(40):
            bursts = bursts.with_hour([200 if (mark + index) % 4 == 0 else 0 for mark in range(MARKS)])
        assert bursts.dispersion(300) > 1
        assert pattern([10] * MARKS, 40).dispersion(300) == 0

    @given(st.lists(st.lists(st.integers(0, 300), min_size=MARKS, max_size=MARKS), min_size=1, max_size=5))
    def test_shares_do_not_depend_on_the_order_of_hours(self, of_hours: list[list[int]]) -> None:
        found = set()
        for order in permutations(of_hours):
            each = NO_PATTERN
            for requests in order:
                each = each.with_hour(requests)
            found.add(each.shares)
        assert len(found) == 1

    def test_old_hours_fade(self) -> None:
        found = pattern([10, *[0] * 11], 600)
        for _ in range(1200):
            found = found.with_hour([0] * 11 + [10])
        assert found.hours < 672
        assert found.shares[0] < 0.2


def test_less_is_expected_where_people_have_marked_less_as_normal() -> None:
    baseline = usual(hours(*([120.0] * 24 * 8)), MONDAY + 8 * 24 * 3600)
    assert baseline is not None
    tolerant = baseline._replace(tolerated=((3, 6, 0.25), (5, 6, 0.5)))
    start = baseline.start
    assert tolerant.expected(start, start + 900) == baseline.expected(start, start + 900)
    assert tolerant.expected(start + 900, start + 1800) == pytest.approx(
        0.25 * baseline.expected(start + 900, start + 1800)
    )
