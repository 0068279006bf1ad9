"""Recent failures: as many as the evaluation window has, in any order, also of windows that reach further back."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel
from exporter.detection.errors.recent import RecentFailures
from exporter.detection.errors.verdict import Counts, ErrorBaseline
from exporter.detection.flag import INACTIVE, Flag, FlagEvent
from exporter.detection.window import RecentTraces
from exporter.model.calendar import DayType, Slot
from tests.support.samples import NOON, SETTINGS

PARAMETERS = replace(SETTINGS.shift, window_seconds=60, min_traces=4, max_window_seconds=600)
Requests = list[tuple[int, bool]]
requests = st.lists(st.tuples(st.integers(0, 900), st.booleans()), max_size=60)


class Bench:
    def __init__(self) -> None:
        self.traces = RecentTraces()
        self.failures = RecentFailures()

    def add(self, second: int, failed: bool | None) -> None:
        self.traces.add(second, 0)
        self.failures.add(second, failed, counts=True)

    def failed(self, now: float) -> int | None:
        self.traces.discard(now, PARAMETERS)
        self.failures.discard(now, PARAMETERS)
        return self.failures.within(self.traces.window(now, PARAMETERS), now)


@given(requests, requests, st.integers(0, 300))
def test_failures_are_those_of_the_window(first: Requests, later: Requests, pause: int) -> None:
    bench, ended = Bench(), list[tuple[int, bool]]()
    for now, added in ((NOON + 900.0, first), (NOON + 900.0 + pause, later)):
        for offset, failed in added:
            # Beyond the longest window, the window has no traces either.
            if offset > now - NOON - 600:
                bench.add(NOON + offset, failed)
                ended.append((NOON + offset, failed))
        found = bench.failed(now)
        window = bench.traces.window(now, PARAMETERS)
        if not window.traces:
            assert found is None
            continue
        inside = [failed for second, failed in ended if window.first_second <= second <= now]
        assert len(inside) >= window.traces
        if len(inside) == window.traces:
            assert found == sum(inside)
        assert bench.failures.counted == sum(failed for _, failed in ended)


def test_failures_are_unknown_until_all_of_the_window_are_known() -> None:
    bench = Bench()
    bench.add(NOON - 50, None)
    bench.add(NOON - 10, True)
    assert bench.failed(NOON) is None
    assert bench.failed(NOON + 8) is None
    for second in range(4):
        bench.add(NOON + second, second == 0)
    assert bench.failed(NOON + 20) == 2
    assert RecentFailures().counted is None


def test_failures_are_thinned_with_the_traces() -> None:
    bench = Bench()
    for second in range(10):
        bench.add(NOON + second, True)
    for each in (bench.traces, bench.failures):
        each.keep(lambda second: second % 2 == 0)
    assert bench.failed(NOON + 10) == 5
    assert bench.failures.counted == 10


@pytest.mark.parametrize("failing", [False, True])
def test_old_failures_are_forgotten(failing: bool) -> None:
    bench, found = Bench(), None
    for second in range(2000):
        bench.add(NOON + second, failing)
        found = bench.failed(NOON + second)
    assert found == (60 if failing else 0)
    assert len(bench.failures) <= len(bench.traces)
    assert len(bench.failures) == (120 if failing else 0)


@given(requests, st.randoms(use_true_random=False))
def test_the_order_in_which_requests_are_read_makes_no_difference(ended: Requests, random: Random) -> None:
    now, usual = NOON + 900, [ErrorBaseline(FallbackLevel.EXACT, Slot(12, DayType.WEEKDAY), 5, 10_000, 10)]
    ticks = []
    for shuffled in (ended, random.sample(ended, len(ended))):
        bench = Bench()
        for offset, failed in shuffled:
            bench.add(NOON + offset, failed)
        window = bench.traces.window(now, SETTINGS.shift)
        ticks.append(bench.failures.tick(bench.traces, window, now, usual, INACTIVE, SETTINGS.shift, NOON))
    assert ticks[0] == ticks[1]


def test_long_windows_are_counted_by_mark_and_failures_within_a_minute_are_a_burst() -> None:
    usual = [ErrorBaseline(FallbackLevel.EXACT, Slot(12, DayType.WEEKDAY), 5, 10_000, 10)] * 2
    now = NOON + 1800
    for every, is_burst in ((60, False), (1, True)):
        bench = Bench()
        for minute in range(30):
            bench.failures.add(NOON + 60 * minute, False, counts=True, number=20)
            bench.traces.extend(NOON + 60 * minute, [0] * 20)
        for number in range(6):
            bench.add(now - 10 - every * number, True)
        window = bench.traces.window(now, SETTINGS.shift)
        verdict = bench.failures.tick(bench.traces, window, now, usual, INACTIVE, SETTINGS.shift, NOON).verdict
        assert verdict is not None
        assert verdict.shifted is not is_burst
        assert verdict.chance is not None


def test_long_windows_begin_after_the_flag_was_resolved() -> None:
    usual = [ErrorBaseline(FallbackLevel.EXACT, Slot(12, DayType.WEEKDAY), 6, 1200, 60)] * 3
    begin, end, now = NOON + 600, NOON + 2400, NOON + 3600
    for is_resolved in (False, True):
        bench, flag = Bench(), Flag(firing=True, since=begin, keep_firing_since=end)
        for second in range(NOON + 30, now + 1, 30):
            if is_resolved and second == NOON + 2700:
                window = bench.traces.window(second, SETTINGS.shift)
                tick = bench.failures.tick(bench.traces, window, second, usual, flag, SETTINGS.shift, NOON)
                assert tick.event is FlagEvent.RESOLVED
            fails = second % 90 == 0 if begin < second <= end else second in (now - 240, now - 60, now - 30)
            bench.add(second, fails)
        window = bench.traces.window(now, SETTINGS.shift)
        verdict = bench.failures.tick(bench.traces, window, now, usual, INACTIVE, SETTINGS.shift, NOON).verdict
        assert verdict is not None
        # By themselves the last failures may be chance.
        assert (verdict.shifted, verdict.persists) == (not is_resolved, not is_resolved)


def test_dropped_failures_are_no_part_of_any_window() -> None:
    usual = [ErrorBaseline(FallbackLevel.EXACT, Slot(12, DayType.WEEKDAY), 5, 10_000, 10)] * 2
    bench, now = Bench(), NOON + 1800
    for minute in range(30):
        bench.failures.add(NOON + 60 * minute, False, counts=True, number=20)
        bench.traces.extend(NOON + 60 * minute, [0] * 20)
    for second in (*range(1000, 1150, 10), 1600, 1680, 1760):
        bench.add(NOON + second, True)

    def window_of_the_verdict() -> Counts:
        window = bench.traces.window(now, SETTINGS.shift)
        verdict = bench.failures.tick(bench.traces, window, now, usual, INACTIVE, SETTINGS.shift, NOON).verdict
        assert verdict is not None
        return verdict.counts

    assert window_of_the_verdict().failures == 18
    for each in (bench.traces, bench.failures):
        each.drop(NOON + 950, NOON + 1150)
    assert window_of_the_verdict().failures == 3
