"""Marks on time in the evaluation of history: left out as if the hours had not been, or tolerated when they repeat."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackRules
from exporter.baseline.traffic import SourceHour
from exporter.detection.detector import Detector, SeriesState, decode_state, encode_state
from exporter.detection.flag import FlagEvent
from exporter.detection.history import HistoryProgress, advance
from exporter.detection.parameters import Parameters
from exporter.detection.replay import Replay
from exporter.detection.tolerance import tolerated_traffic
from exporter.detection.traffic.source import SourceHistory
from exporter.model.calendar import Calendar, HourClock
from exporter.model.hour_evaluation import HourEvaluation
from exporter.model.hours import SeriesHours
from exporter.model.pattern import Pattern
from exporter.model.series_hour import StoredWindow
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkKind, TimeMark, TimeMarks
from tests.support.detection_traffic import MONDAY, Incidents, stored, traffic, windows_with_failures
from tests.unit.detection.test_runs import job

HOUR, DAY = 3600, 86_400
KEY = SeriesKey("checkout", "GET /cart")
PLAIN = Detector(FallbackRules(), Parameters(), HourClock(Calendar()))


def marked(*ranges: tuple[float, float], kind: MarkKind = MarkKind.EXPECTED) -> Detector:
    """Return the detector of a series with marked ranges, in hours since that Monday."""
    marks = [
        TimeMark(kind, Pattern(""), round(MONDAY + start * HOUR), round(MONDAY + end * HOUR)) for start, end in ranges
    ]
    return replace(PLAIN, marks=TimeMarks(marks)).of(KEY)


def evaluate(detector: Detector, windows: Sequence[StoredWindow], hours: int) -> HistoryProgress:
    return advance(detector, SeriesHours(detector.hours(windows)), MONDAY + hours * HOUR)


def made(days: int, incidents: Incidents, per_hour: float = 60, seed: int = 1) -> list[StoredWindow]:
    return stored(request for requests in traffic(seed, days, per_hour, incidents).values() for request in requests)


INCIDENT = made(6, {(74.2, 76.1): 5.0, (100.5, 100.9): 0.2, (120.0, 121.0): 2.0})


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 143 * 4), st.integers(1, 16)), min_size=1, max_size=4),
    st.sampled_from([MarkKind.EXPECTED, MarkKind.INCIDENT]),
    st.sets(st.integers(1, 143), max_size=3),
)
def test_everything_is_bit_for_bit_as_without_the_hours(
    ranges: list[tuple[int, int]], kind: MarkKind, stops: set[int]
) -> None:
    spans = [(quarter / 4, (quarter + length) / 4) for quarter, length in ranges]
    detector = marked(*spans, kind=kind)
    left_out = {hour for start, end in spans for hour in range(144) if start < hour + 1 and hour < end}
    without = [window for window in INCIDENT if (window.start - MONDAY) // HOUR not in left_out]
    expected_hours = SeriesHours(PLAIN.of(KEY).hours(without))
    expected = advance(PLAIN.of(KEY), expected_hours, MONDAY + 144 * HOUR)
    state: SeriesState | None = None
    evaluations: dict[int, HourEvaluation] = {}
    hours = SeriesHours()
    for stop in [*sorted(stops), 144]:
        read = [window for window in INCIDENT if window.start < MONDAY + stop * HOUR]
        hours = SeriesHours(detector.hours(read, evaluations))
        progress = advance(detector, hours, MONDAY + stop * HOUR, state)
        evaluations.update(progress.evaluations)
        state = decode_state(encode_state(progress.state))
        assert [(each.event, each.at) for each in progress.changes] == [
            (each.event, each.at)
            for each in expected.changes
            if progress.changes and progress.changes[0].at <= each.at <= progress.changes[-1].at
        ]
    assert state == expected.state
    assert evaluations == expected.evaluations
    last = PLAIN.clock.hour(MONDAY + 144 * HOUR)
    found, wanted = detector.expect(hours, last), PLAIN.expect(expected_hours, last)
    assert (found.pool is None) == (wanted.pool is None)
    if found.pool is not None and wanted.pool is not None:
        assert found.pool.digest == wanted.pool.digest
        assert found.thresholds == wanted.thresholds


def firing(progress: HistoryProgress) -> list[int]:
    """Return the hours in which the flag began to fire."""
    return [(each.at - MONDAY) // HOUR for each in progress.changes if each.event is FlagEvent.FIRING]


def quarantined(progress: HistoryProgress) -> set[int]:
    return {(start - MONDAY) // HOUR for start, each in progress.evaluations.items() if each.quarantined}


def test_incident_that_was_marked_as_normal_is_released() -> None:
    windows = made(6, {(74.2, 76.1): 5.0})
    plain = evaluate(PLAIN.of(KEY), windows, 144)
    assert firing(plain) == [74]
    assert quarantined(plain) == {74, 75, 76}
    normal = evaluate(marked((74.0, 76.5), kind=MarkKind.NORMAL), windows, 144)
    assert firing(normal) == []
    assert quarantined(normal) == set()
    assert not normal.shifts
    pool = PLAIN.expect(
        SeriesHours(PLAIN.hours(windows, normal.evaluations)), PLAIN.clock.hour(MONDAY + 98 * HOUR)
    ).pool
    assert pool is not None
    assert MONDAY + 74 * HOUR in {hour.start for hour in pool.hours}


@pytest.mark.parametrize("per_hour", [60.0, 600.0])
@pytest.mark.parametrize("hour", [3.0, 14.75])
def test_what_was_marked_as_normal_is_not_flagged_at_that_time_for_four_weeks(per_hour: float, hour: float) -> None:
    first = 7 * 24 + hour
    repeats = [first + 24 * days for days in (7, 13, 20, 26)]
    moved = [start + (index - 2) / 10 for index, start in enumerate(repeats)]
    incidents = {(start, start + 0.5): 4.0 for start in [first, *moved]}
    windows = made(36, incidents, per_hour)
    without = {each // 24 for each in firing(evaluate(PLAIN.of(KEY), windows, 36 * 24))}
    assert len(without) >= 4
    detector = marked((first, first + 0.6), kind=MarkKind.NORMAL)
    assert firing(evaluate(detector, windows, 36 * 24)) == []


def test_what_is_slower_than_what_was_marked_is_flagged_at_that_time_and_the_same_at_others() -> None:
    incidents = {(171.0, 171.5): 3.0, (219.0, 219.5): 12.0, (250.0, 250.5): 3.0}
    detector = marked((171.0, 171.6), kind=MarkKind.NORMAL)
    assert firing(evaluate(detector, made(12, incidents, 300), 288)) == [219, 250]


def test_tolerance_is_forgotten_after_four_weeks() -> None:
    incidents = {(171.0, 171.5): 4.0, (171.0 + 29 * 24, 171.5 + 29 * 24): 4.0}
    detector = marked((171.0, 171.6), kind=MarkKind.NORMAL)
    progress = evaluate(detector, made(38, incidents, 120), 38 * 24)
    assert firing(progress) == [171 + 29 * 24]
    assert progress.state.tolerances == ()


def error_firing(progress: HistoryProgress) -> list[int]:
    return [(each.at - MONDAY) // HOUR for each in progress.error_changes if each.event is FlagEvent.FIRING]


def failing(*hours: float) -> dict[int, float]:
    return {round(12 * hour) + mark: 0.5 for hour in hours for mark in range(1, 7)}


def test_failures_that_were_marked_as_normal_are_tolerated_and_those_that_were_expected_are_left_out() -> None:
    windows = windows_with_failures(20, failing(171.0, 171.0 + 24 * 5, 171.0 + 24 * 11, 300.0))
    assert error_firing(evaluate(PLAIN.of(KEY), windows, 480)) == [171, 291, 300, 435]
    assert error_firing(evaluate(marked((171.0, 171.6), kind=MarkKind.NORMAL), windows, 480)) == [300]
    assert error_firing(evaluate(marked((171.0, 171.6)), windows, 480)) == [291, 300, 435]


def replayed(detector: Detector, hours: int, incidents: Incidents) -> Replay:
    replay = Replay(detector)
    for hour, requests in traffic(1, hours / 24, 120, incidents).items():
        replay.add_hour(PLAIN.clock.hour(MONDAY + hour * HOUR), requests)
    return replay


def test_live_flag_is_quiet_while_a_mark_says_so_and_right_after_it() -> None:
    incidents = {(74.2, 76.1): 5.0}

    def times(replay: Replay) -> Iterable[float]:
        return [(each.at - MONDAY) / HOUR for each in replay.changes if each.event is FlagEvent.FIRING]

    assert 74.2 < next(iter(times(replayed(PLAIN.of(KEY), 96, incidents)))) < 74.5
    assert times(replayed(marked((74.0, 76.2)), 96, incidents)) == []
    assert 74.2 < next(iter(times(replayed(marked((74.0, 76.2), kind=MarkKind.INCIDENT), 96, incidents)))) < 74.5
    assert times(replayed(marked((74.0, 75.0)), 96, incidents)) == pytest.approx([75.1], abs=0.1)


def test_traffic_that_was_marked_as_normal_is_usual_at_that_time_of_the_day() -> None:
    silent = MONDAY + 171 * HOUR
    windows = [window for window in made(10, {}) if window.start != silent]
    (tolerance,) = evaluate(marked((171.25, 171.75), kind=MarkKind.NORMAL), windows, 240).state.tolerances
    assert (tolerance.start, tolerance.hour, tolerance.first, tolerance.behind) == (silent, 3, 3, 9)
    assert tolerance.traffic_ratio == 0.0
    around = [PLAIN.clock.hour(silent + DAY + hour * HOUR) for hour in (-1, 0, 1)]
    assert tolerated_traffic([tolerance], around) == ((0, 12, 0.0),)
    assert (
        tolerated_traffic([tolerance], [hour._replace(slot=around[1].slot._replace(hour=9)) for hour in around]) == ()
    )
    (busy,) = evaluate(marked((171.25, 171.75), kind=MarkKind.NORMAL), made(10, {}), 240).state.tolerances
    assert busy.traffic_ratio == 1.0


def test_runs_that_were_marked_as_normal_are_tolerated() -> None:
    slow = {number: 5.0 for day in (7, 27) for number in (24 * day + 3, 24 * day + 4)}
    windows = stored(job(30, slow=lambda number: slow.get(number, 1.0)))
    assert [hour // 24 for hour in firing(evaluate(PLAIN.of(KEY), windows, 720))] == [7, 27]
    assert firing(evaluate(marked((171.0, 173.0), kind=MarkKind.NORMAL), windows, 720)) == []


def test_hours_that_are_left_out_count_as_not_read_for_the_traffic() -> None:
    windows = made(10, {})
    hours = [PLAIN.clock.hour(window.start) for window in windows]
    marks = range(MONDAY + 300, hours[-1].end + 1, 300)
    source = SourceHistory(
        hours=[SourceHour(hour, ((hour.start, 1.0),)) for hour in hours],
        coverage=dict.fromkeys(marks, 1.0),
        whole=frozenset(hour.start for hour in hours),
    )
    expected = marked((171.5, 172.2)).traffic(windows, source).source
    assert {(hour.hour.start - MONDAY) // HOUR for hour in source.hours} - {
        (hour.hour.start - MONDAY) // HOUR for hour in expected.hours
    } == {171, 172}
    assert source.whole - expected.whole == {MONDAY + 171 * HOUR, MONDAY + 172 * HOUR}
    assert source.coverage.keys() - expected.coverage.keys() == set(
        range(MONDAY + 171 * HOUR + 300, MONDAY + 173 * HOUR + 1, 300)
    )
    normal = marked((171.5, 172.0), kind=MarkKind.NORMAL).traffic(windows, source).source
    assert normal.hours == source.hours
    assert source.whole - normal.whole == {MONDAY + 171 * HOUR}
    assert PLAIN.of(KEY).traffic(windows, source).source is source
