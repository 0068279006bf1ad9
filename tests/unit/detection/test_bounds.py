"""Bounds by which the evaluation of history skips marks; no mark is skipped at which the full test is positive."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel, FallbackRules
from exporter.baseline.traffic import MIN_USUAL_REQUESTS, traffic_hours
from exporter.detection.errors import history as error_history
from exporter.detection.errors.bursts import BURST_MARKS, WHOLE_HOUR_MARKS
from exporter.detection.errors.verdict import (
    Counts,
    ErrorBaseline,
    ErrorWindow,
    ErrorWindows,
    evaluate_errors,
    may_be_error_shift,
)
from exporter.detection.parameters import Parameters
from exporter.detection.tick import FlagTracker
from exporter.detection.traffic import history as traffic_history
from exporter.detection.traffic.history import SeriesTraffic, may_drop
from exporter.detection.traffic.source import REACH_MARKS, SourceHistory
from exporter.detection.traffic.verdict import SourceWindow, read_hours
from exporter.evaluation.series import SeriesHistory
from exporter.model.calendar import Calendar, DayType, HourClock, Slot
from exporter.model.series_hour import StoredWindow
from tests.support.detection_traffic import MONDAY
from tests.support.full_verdicts import found_in

PARAMETERS = Parameters()
SLOT = Slot(10, DayType.WEEKDAY)


def counts(most: int = 400) -> st.SearchStrategy[Counts]:
    ratios = st.sampled_from([0.0, 0.01, 0.03, 0.1, 0.5, 1.0])
    return st.builds(lambda requests, ratio: Counts(requests, round(ratio * requests)), st.integers(1, most), ratios)


@st.composite
def windows(draw: st.DrawFn) -> ErrorWindows:
    marks = draw(st.lists(counts(120), min_size=1, max_size=15))

    def newest(number: int, seconds: int, hours: int) -> ErrorWindow:
        ended = marks[-number:]
        failures = sum(each.failures for each in ended)
        worst = max(each.failures for each in ended)
        return ErrorWindow(Counts(sum(each.requests for each in ended), failures), failures - worst, seconds, hours)

    others = (newest(3, 900, 1), newest(12, 3600, draw(st.integers(1, 2))))
    return ErrorWindows(newest(1, 300, 1), lambda _: marks[-1], others, tuple(marks))


@st.composite
def baselines(draw: st.DrawFn) -> ErrorBaseline:
    requests = draw(st.integers(30, 20_000))
    failures = round(requests * draw(st.sampled_from([0.0, 0.002, 0.02, 0.3, 0.97])))
    swing, hour_swing = draw(st.floats(0, 1.5)), draw(st.floats(0, 1.5))
    marks = draw(st.sampled_from([0, BURST_MARKS, WHOLE_HOUR_MARKS]))
    return ErrorBaseline(FallbackLevel.EXACT, SLOT, 10, requests, failures, swing, hour_swing, marks)


@given(windows(), st.lists(baselines(), min_size=1, max_size=2))
def test_no_error_shift_is_missed_without_the_swing(found: ErrorWindows, usual: list[ErrorBaseline]) -> None:
    without = [each._replace(swing=0.0, hour_swing=0.0, burst_marks=0) for each in usual]
    if evaluate_errors(found, usual, PARAMETERS).shifted:
        assert may_be_error_shift(found, without, (BURST_MARKS, WHOLE_HOUR_MARKS), PARAMETERS)


def test_a_few_failures_by_chance_need_no_swing() -> None:
    usual = ErrorBaseline(FallbackLevel.EXACT, SLOT, 10, 10_000, 40)
    evaluation = ErrorWindow(Counts(80, 3), 2, 300, 1)
    found = ErrorWindows(evaluation, lambda _: evaluation.counts, (evaluation,), (Counts(80, 3),))
    assert not may_be_error_shift(found, [usual], (BURST_MARKS, WHOLE_HOUR_MARKS), PARAMETERS)


def is_low(requests: list[int], usual: list[float], last: int) -> bool:
    """Whether the shortest window with enough usual requests that ends with a mark has too few."""
    for first in range(last, last - REACH_MARKS, -1):
        expected = sum(usual[first : last + 1])
        if expected >= MIN_USUAL_REQUESTS:
            return sum(requests[first : last + 1]) < PARAMETERS.traffic_drop * expected
    return False


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.floats(0, 40), st.sampled_from([1.0, 1.0, 1.3, 4.0])),
        min_size=2 * REACH_MARKS,
        max_size=2 * REACH_MARKS,
    ),
    st.sampled_from([0.1, 1.0]),
)
def test_no_drop_of_traffic_is_missed_with_upper_bounds(marks: list[tuple[int, float, float]], scale: float) -> None:
    requests, usual = [each[0] for each in marks], [scale * each[1] for each in marks]
    most = [scale * each[1] * each[2] for each in marks]
    if any(is_low(requests, usual, last) for last in range(REACH_MARKS, 2 * REACH_MARKS)):
        assert may_drop(requests, most, PARAMETERS)


def test_usual_traffic_is_no_drop() -> None:
    assert not may_drop([8] * 24, [8.0] * 24, PARAMETERS)
    assert may_drop([8] * 20 + [0] * 4, [8.0] * 24, PARAMETERS)


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.none() | st.integers(0, 40), st.sampled_from([1.0, 1.0, 0.5, 0.07])),
        min_size=1,
        max_size=24,
    ),
    st.sampled_from([3600, 900]),
)
def test_no_busy_hour_is_missed_by_the_largest_window(
    drawn: list[tuple[int, int | None, float]], batch_seconds: int
) -> None:
    clock = HourClock(Calendar())
    starts = [MONDAY + number * batch_seconds for number in range(len(drawn))]
    windows = [
        StoredWindow(start, traces, b"", requests=counted)
        for start, (traces, counted, _) in zip(starts, drawn, strict=True)
    ]
    read = [
        (clock.hour(start), SourceWindow(start, start + batch_seconds, 1_000, coverage))
        for start, (_, _, coverage) in zip(starts, drawn, strict=True)
    ]
    source = SourceHistory(hours=[each.hour for each in read_hours(read)])
    busiest = max([each.requests for each in traffic_hours(windows, source.hours)], default=0)
    traffic = SeriesTraffic.of(windows, source, FallbackRules(), PARAMETERS)
    assert traffic.record.is_ever_busy == (busiest >= MIN_USUAL_REQUESTS)


def always(*_args: Any, **_kwargs: Any) -> bool:
    return True


@pytest.mark.parametrize("seed", [7, 10, 12, 13, 19, 20, 21, 24, 36, 38, 40])
def test_the_full_walk_finds_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = found_in(seed, most_requests=4_000)
    monkeypatch.setattr(FlagTracker, "needs_tick", always)
    monkeypatch.setattr(traffic_history, "may_drop", always)
    monkeypatch.setattr(error_history, "may_be_error_shift", always)
    monkeypatch.setattr(error_history, "LEAST_FAILURES", 0)
    monkeypatch.setattr(error_history._Sums, "can_be_shift", always)
    monkeypatch.setattr(SeriesHistory, "thresholds", lambda self, civil: self.expect(civil).thresholds)
    assert found_in(seed, most_requests=4_000) == found
