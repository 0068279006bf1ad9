"""Evaluation of history: independent of reading order, restarts, and the length of the ledger's windows."""

import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel, FallbackRules
from exporter.detection.detector import Detector, Expectation, SeriesState, decode_state, encode_state
from exporter.detection.flag import FlagEvent
from exporter.detection.history import HistoryProgress, advance
from exporter.detection.parameters import Parameters
from exporter.model.calendar import Calendar, HourClock
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.hour_evaluation import HourEvaluation, ShiftPeriod
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.series_hour import StoredWindow
from tests.support.detection_traffic import MONDAY, Request, stored, traffic

DETECTOR = Detector(FallbackRules(), Parameters(), HourClock(Calendar()))
HOUR = 3600


def flat(made: dict[int, list[Request]]) -> Iterator[Request]:
    for requests in made.values():
        yield from requests


def history_of(windows: Iterable[StoredWindow]) -> SeriesHours:
    return SeriesHours(hours_of(windows, DETECTOR.clock))


def evaluate(windows: Iterable[StoredWindow], hours: int) -> HistoryProgress:
    return advance(DETECTOR, history_of(windows), MONDAY + hours * HOUR)


def quarantined(progress: HistoryProgress) -> list[int]:
    """Return the quarantined hours, counted from Monday."""
    return sorted((start - MONDAY) // HOUR for start, found in progress.evaluations.items() if found.quarantined)


INCIDENT = traffic(1, 5, 60, {(74.2, 76.1): 5.0})
WINDOWS = stored(flat(INCIDENT))
WHOLE = evaluate(WINDOWS, 120)


def test_incident_fires_the_flag_and_its_hours_are_quarantined() -> None:
    assert quarantined(WHOLE) == [74, 75, 76]
    firing, resolved = WHOLE.changes
    assert (firing.event, resolved.event) == (FlagEvent.FIRING, FlagEvent.RESOLVED)
    assert 0 < firing.at - (MONDAY + 74.2 * HOUR) < 15 * 60
    assert 0 < resolved.at - (MONDAY + 76.1 * HOUR) < 15 * 60
    assert firing.explanation is not None
    assert firing.explanation.current_seconds / firing.explanation.baseline_seconds > 3
    assert firing.explanation.baseline.level in (FallbackLevel.EXACT, FallbackLevel.NEARBY)
    assert not WHOLE.accepted


def test_time_in_which_the_flag_fired_is_returned_with_its_peak() -> None:
    ((since, until, peak),) = WHOLE.shifts
    firing, resolved = WHOLE.changes
    assert since <= firing.at
    assert until is not None
    assert 0 < until - (MONDAY + 76.1 * HOUR) < 10 * 60
    assert until < resolved.at
    assert peak > 2
    (unfinished,) = evaluate(WINDOWS, 76).shifts
    assert (unfinished.since, unfinished.until) == (since, None)


def test_incident_does_not_change_the_baseline_of_the_next_day() -> None:
    incident_hours = {74, 75, 76}
    healthy = {hour: requests for hour, requests in traffic(1, 5, 60).items() if hour not in incident_hours}
    without = history_of(stored(flat(healthy)))
    with_incident = history_of(WINDOWS)
    advance(DETECTOR, without, MONDAY + 98 * HOUR)
    advance(DETECTOR, with_incident, MONDAY + 98 * HOUR)
    for hour in (98, 99, 100):
        local_hour = DETECTOR.clock.hour(MONDAY + hour * HOUR)
        expected = DETECTOR.expect(without, local_hour)
        found = DETECTOR.expect(with_incident, local_hour)
        assert found.pool is not None
        assert expected.pool is not None
        assert found.pool.digest == expected.pool.digest
        assert found.thresholds is not None


@settings(max_examples=12, deadline=None)
@given(st.sets(st.integers(1, 119), max_size=8), st.integers(0, 2**32))
def test_result_does_not_depend_on_stops_and_restarts(stops: set[int], seed: int) -> None:
    evaluations: dict[int, HourEvaluation] = {}
    state: SeriesState | None = None
    changes = []
    shifts: dict[float, ShiftPeriod] = {}
    windows = WINDOWS.copy()
    random.Random(seed).shuffle(windows)
    for stop in [*sorted(stops), 120]:
        until = MONDAY + stop * HOUR
        read = [window for window in windows if window.start < until]
        history = SeriesHours(hours_of(read, DETECTOR.clock, evaluations))
        progress = advance(DETECTOR, history, until, state)
        evaluations.update(progress.evaluations)
        changes += progress.changes
        for shift in progress.shifts:
            before = shifts.get(shift.since, shift)
            shifts[shift.since] = shift._replace(peak_score=max(before.peak_score, shift.peak_score))
        state = decode_state(encode_state(progress.state))
    assert state == WHOLE.state
    assert changes == WHOLE.changes
    assert list(shifts.values()) == WHOLE.shifts
    assert evaluations == WHOLE.evaluations


@pytest.mark.parametrize("batch_seconds", [300, 600, 1200])
def test_result_does_not_depend_on_the_length_of_windows(batch_seconds: int) -> None:
    assert evaluate(stored(flat(INCIDENT), batch_seconds), 120) == WHOLE


def test_evaluation_without_state_discards_previous_evaluations() -> None:
    history = history_of(WINDOWS)
    for hour in history:
        history.set_evaluation(hour, HourEvaluation(quarantined=True, swings=(9, 1) * 12))
    assert advance(DETECTOR, history, MONDAY + 120 * HOUR) == WHOLE


def test_suspects_of_the_live_edge_are_quarantined() -> None:
    history = history_of(WINDOWS)
    suspects = {MONDAY + 100 * HOUR, MONDAY + 55 * HOUR}
    progress = advance(DETECTOR, history, MONDAY + 120 * HOUR, suspects=suspects)
    assert quarantined(progress) == [55, 74, 75, 76, 100]


def test_hours_significantly_faster_are_quarantined_without_a_flag() -> None:
    progress = evaluate(stored(flat(traffic(2, 4, 60, {(80, 82): 0.3}))), 96)
    assert quarantined(progress) == [80, 81]
    assert not progress.changes


def test_lasting_change_is_accepted_after_a_day() -> None:
    made = traffic(3, 7, 30, {(75.0, 999.0): 4.0})
    progress = evaluate(stored(flat(made)), 168)
    (changepoint,) = progress.accepted
    assert changepoint in (MONDAY + 75 * HOUR, MONDAY + 76 * HOUR)
    assert progress.state.changepoint == changepoint
    assert not [hour for hour in quarantined(progress) if hour >= 75]
    assert [change.event for change in progress.changes].count(FlagEvent.FIRING) == 1
    assert not progress.state.flag.firing

    partly = evaluate(stored(flat(made)), 97)
    assert not partly.accepted
    assert len(quarantined(partly)) > 15


def test_incident_of_some_hours_is_not_accepted() -> None:
    assert not evaluate(stored(flat(traffic(4, 7, 30, {(75.0, 90.0): 4.0}))), 168).accepted


def test_recurring_hours_are_released() -> None:
    made = traffic(5, 10, 40, {(24.0 * day + 3, 24.0 * day + 4): 4.0 for day in range(2, 10)})
    progress = evaluate(stored(flat(made)), 240)
    # The flag resolves in the hour after the batch, so that this hour is touched as well.
    assert {3} <= {(start - MONDAY) // HOUR % 24 for start in progress.released} <= {3, 4}
    released = [progress.evaluations[start] for start in progress.released]
    assert not any(evaluation.quarantined for evaluation in released)


def test_learning_series_is_not_evaluated() -> None:
    progress = evaluate(stored(flat(traffic(6, 1, 60, {(10.0, 14.0): 10.0}))), 24)
    assert not progress.evaluations
    assert not progress.changes
    assert progress.state.schedule == ()


def test_series_without_traffic_only_advances() -> None:
    progress = advance(DETECTOR, SeriesHours(), MONDAY + 24 * HOUR)
    assert progress.state == SeriesState(until=MONDAY + 24 * HOUR)


def test_flag_resolves_when_traffic_stops() -> None:
    made = traffic(7, 5, 60, {(74.2, 75.0): 5.0})
    for hour in range(75, 120):
        made[hour] = []
    firing, resolved = evaluate(stored(flat(made)), 120).changes
    assert firing.event is FlagEvent.FIRING
    # The window extends back over the last traces for at most an hour; then it is empty.
    assert MONDAY + 75 * HOUR < resolved.at <= MONDAY + 76 * HOUR + 600


def test_long_traces_count_when_they_end() -> None:
    made = traffic(8, 5, 60)
    long_ns = 3 * HOUR * 10**9
    for minute in range(20):
        made[90].append(((MONDAY + 90 * HOUR + minute * 60) * 10**9, long_ns))
    changes = evaluate(stored(flat(made)), 120).changes
    assert changes
    assert (changes[0].at - MONDAY) // HOUR == 93


def test_schedule_extends_back_as_far_as_a_window() -> None:
    history = history_of(WINDOWS)
    progress = advance(DETECTOR, history, MONDAY + 98 * HOUR)
    expected, schedule = DETECTOR.schedule_at(history, progress.state, MONDAY + 99 * HOUR + 1800)
    assert [(entry.start - MONDAY) // HOUR for entry in schedule.hours] == [99, 98]
    assert schedule.hours[0].thresholds == expected.thresholds

    # Once the previous hour is settled, its thresholds come from the state.
    later = advance(DETECTOR, history, MONDAY + 99 * HOUR, progress.state)
    _, after = DETECTOR.schedule_at(history, later.state, MONDAY + 99 * HOUR + 2400)
    assert after.hours[1] == later.state.schedule[0] == schedule.hours[1]


def test_schedule_of_a_series_without_history_is_empty() -> None:
    state = SeriesState(until=MONDAY)
    expected, schedule = DETECTOR.schedule_at(SeriesHours(), state, MONDAY + 60)
    assert expected == Expectation()
    assert schedule.hours == ()


def test_damaged_marks_raise_a_specific_error() -> None:
    windows = [*WINDOWS[:-1], WINDOWS[-1]._replace(marks=b"\xff\xff")]
    with pytest.raises(DamagedDigestError):
        evaluate(windows, 120)


@pytest.mark.parametrize("data", [b"", b"{}", b"\x90", b"\x91\xa4soon", b"\xff"])
def test_damaged_state_is_rejected(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_state(data)


def test_state_of_a_healthy_series_is_small() -> None:
    assert len(encode_state(WHOLE.state)) < 1600
