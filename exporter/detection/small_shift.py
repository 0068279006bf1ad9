"""Two tests for small shifts, which one evaluation window alone cannot tell from the normal swing.

Both compare with less than the whole swing of the series, because part of that is known:

- The *long window* of half an hour swings less than five minutes do. A series has shifted if its long window passes the
  shift test on thresholds from its own swing, and the evaluation window lies above the same gate.
- The *level* of now follows from the evaluation windows of the half hour before: a series that has been 10 % slower all
  afternoon is expected to stay so, and swings less around that level than around the baseline. A series has shifted if
  its evaluation window passes the shift test on thresholds relative to the level, and is well above the baseline.

Levels and windows are computed at marks, so that live traffic and stored history have the same.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from itertools import chain
from typing import NamedTuple, Protocol

from exporter.detection.measurement import levels_of, measurable_quantiles
from exporter.detection.parameters import (
    LEVEL_MARKS,
    LONG_WINDOW_MARKS,
    LONG_WINDOW_MIN_TRACES,
    MIN_EVALUATED_TRACES,
    MIN_EXCEEDANCES,
    Parameters,
)
from exporter.detection.profile import raised_at
from exporter.detection.schedule import SmallSchedule
from exporter.detection.significance import exceeds, tail_probability
from exporter.detection.thresholds import (
    UNREACHABLE,
    UNREACHABLE_LONG,
    Floors,
    LevelThreshold,
    LongThreshold,
    SmallShiftThresholds,
)
from exporter.detection.window import MarkedBuckets, gated_positions, next_mark, past_mark, quantile_positions, rank_of
from exporter.model.deviations import MARKS
from exporter.model.histogram import ZERO_BUCKET
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hour_evaluation import QUANTILES


class ShiftTest(StrEnum):
    """The tests that can show a shift."""

    WINDOW = "window"
    """The evaluation window against the baseline."""
    LADDER = "ladder"
    """A small share of its traces against a multiple of the gate."""
    LONG = "long window"
    """The last half hour against the baseline."""
    LEVEL = "level"
    """The evaluation window against the level of the half hour before."""
    TAIL = "tail"
    """The slowest traces of the last half hour or hour against the baseline."""
    RUNS = "runs"
    """The last runs of a series with little traffic against past runs."""


class SmallShift(NamedTuple):
    """Test statistics of a small shift.

    Attributes:
        test: the test that shows it.
        position: position of the quantile in :data:`QUANTILES`.
        traces: number of traces in the tested window.
        slow: number of them above the gate.
        gate: the gate in the current hour, as bucket.
        bucket: the tested window's quantile.
        chance: tail probability.
        swing: by how many buckets the quantile may exceed the baseline or the level within its normal variation.
        level: the level of now in buckets; 0 for the long window.
        excess: by how many buckets the quantile lies above the gate.
    """

    test: ShiftTest
    position: int
    traces: int
    slow: int
    gate: int
    bucket: int
    chance: float
    swing: int
    level: int
    excess: int


class Traces(Protocol):
    """Recent traces that can be read by mark."""

    def by_mark(self, since: int, until: float) -> list[MarkedBuckets]:
        """Return the traces that ended in ``(since, until]`` by mark."""


def can_be_small_shift(buckets: Sequence[int], long_traces: int, floors: Floors, parameters: Parameters) -> bool:
    """Whether one of both tests can be positive, given only lower bounds of the thresholds.

    Args:
        buckets: buckets of the evaluation window in ascending order.
        long_traces: number of traces in the long window.
        floors: lower bounds over all hours in which the traces ended.
        parameters: settings of the detector.
    """
    traces = len(buckets)
    for index, (position, gate) in enumerate(zip(gated_positions(traces), floors.gates, strict=False)):
        if buckets[position] <= gate:
            continue
        if long_traces >= LONG_WINDOW_MIN_TRACES:
            return True
        beyond_swing = traces - bisect_right(buckets, floors.stats[index])
        if tail_probability(beyond_swing, traces, 1 - QUANTILES[index], floors.correlation) < parameters.alpha:
            return True
    return False


def exceeds_small_gate(buckets: Sequence[int], schedule: SmallSchedule) -> bool:
    """Whether some quantile of an evaluation window lies above a gate of one of both tests, which a shift requires.

    Args:
        buckets: buckets of the window's traces in ascending order.
        schedule: thresholds by hour; the pattern within the hour only raises them.
    """
    for index, position in enumerate(gated_positions(len(buckets))):
        bucket = buckets[position]
        for _, thresholds in schedule:
            if thresholds.long and bucket > thresholds.long[index].gate:
                return True
            if thresholds.level and bucket > thresholds.level[index].least_gate:
                return True
    return False


def find_small_shift(
    traces: Traces, now: float, since: int, schedule: SmallSchedule, parameters: Parameters
) -> SmallShift | None:
    """Apply both tests; returns the result with the lowest tail probability, if one is positive.

    Args:
        traces: recent traces of the series.
        now: time of the tick, Unix seconds.
        since: the evaluation window is ``(since, now]``, not older than the schedule.
        schedule: thresholds by hour, newest first; the tests are negative where it is empty.
        parameters: settings of the detector.
    """
    if not schedule:
        return None
    newest = schedule[0].thresholds
    since = max(since, schedule[-1].start)
    window = _Parts.of(traces.by_mark(since, now), schedule)
    if window.traces < MIN_EVALUATED_TRACES:
        return None
    raised = raised_at(newest.profile, schedule[0].start, since + 1, now)
    found: list[SmallShift] = []
    if newest.long:
        found += _long_shifts(traces, now, window, raised, schedule, parameters)
    if newest.level:
        found += _level_shifts(traces, now, window, raised, schedule, parameters)
    return min(found, key=lambda shift: shift.chance, default=None)


class _Parts(NamedTuple):
    """Traces of a window by the hour in which they ended: thresholds and sorted buckets."""

    parts: Sequence[tuple[SmallShiftThresholds, Sequence[int]]]
    traces: int

    @classmethod
    def of(cls, marked: Sequence[MarkedBuckets], schedule: SmallSchedule) -> "_Parts":
        """Assign marks to hours; what ended before the schedule is left out."""
        parts = []
        traces = 0
        for mark, buckets in marked:
            thresholds = _thresholds_at(mark, schedule)
            if thresholds is not None:
                parts.append((thresholds, buckets))
                traces += len(buckets)
        return cls(parts, traces)

    def count_above(self, limit: Callable[[SmallShiftThresholds], int]) -> int:
        """Return the number of traces above a threshold of the hour in which each ended."""
        return sum(len(buckets) - bisect_right(buckets, limit(thresholds)) for thresholds, buckets in self.parts)

    def quantile_bucket(self, q: float) -> int:
        """Return the bucket of a quantile."""
        return sorted(chain.from_iterable(buckets for _, buckets in self.parts))[rank_of(q, self.traces) - 1]


def _thresholds_at(mark: int, schedule: SmallSchedule) -> SmallShiftThresholds | None:
    """Return the thresholds of the hour that contains a mark."""
    return next((thresholds for start, thresholds in schedule if start < mark), None)


def _long_shifts(
    traces: Traces,
    now: float,
    window: _Parts,
    raised: Sequence[int],
    schedule: SmallSchedule,
    parameters: Parameters,
) -> Iterator[SmallShift]:
    long: _Parts | None = None
    for index, q in enumerate(QUANTILES):
        above_gate = window.count_above(_long_gate(index, raised[index]))
        if above_gate < MIN_EXCEEDANCES or not exceeds(above_gate, window.traces, q):
            continue
        if long is None:
            begin = next_mark(now) - LONG_WINDOW_MARKS * MARK_SECONDS
            long = _Parts.of(traces.by_mark(begin, now), schedule)
        if long.traces < LONG_WINDOW_MIN_TRACES:
            return
        slow = long.count_above(_long_gate(index))
        if slow < MIN_EXCEEDANCES or not exceeds(slow, long.traces, q):
            continue
        newest = schedule[0].thresholds
        beyond_swing = long.count_above(_long_stat(index))
        chance = tail_probability(beyond_swing, long.traces, 1 - q, newest.correlation)
        if chance < parameters.alpha:
            gate, bucket = newest.long[index].gate, long.quantile_bucket(q)
            swing = newest.long[index].swing
            yield SmallShift(
                ShiftTest.LONG, index, long.traces, slow, gate, bucket, chance, swing, 0, max(1, bucket - gate)
            )


def _long_gate(index: int, raised: int = 0) -> Callable[[SmallShiftThresholds], int]:
    return lambda thresholds: _long(thresholds, index).gate + raised


def _long_stat(index: int) -> Callable[[SmallShiftThresholds], int]:
    return lambda thresholds: _long(thresholds, index).stat


def _long(thresholds: SmallShiftThresholds, index: int) -> LongThreshold:
    # The series may have too little traffic in an earlier hour.
    return thresholds.long[index] if thresholds.long else UNREACHABLE_LONG


def _level_shifts(
    traces: Traces,
    now: float,
    window: _Parts,
    raised: Sequence[int],
    schedule: SmallSchedule,
    parameters: Parameters,
) -> Iterator[SmallShift]:
    newest = schedule[0].thresholds
    levels: Sequence[int | None] | None = None
    for index, q in enumerate(QUANTILES):
        # At any level, the thresholds are not below these.
        at_most = window.count_above(_least_gate(index, raised[index]))
        if at_most < MIN_EXCEEDANCES or not exceeds(at_most, window.traces, q):
            continue
        at_most = window.count_above(_least_stat(index, raised[index]))
        if tail_probability(at_most, window.traces, 1 - q, newest.correlation) >= parameters.alpha:
            continue
        if levels is None:
            levels = current_levels(traces, now, schedule, parameters)
        level = levels[index]
        if level is None:
            continue
        # That a few requests were faster than usual says little about the next few.
        expected = max(0, level) if index and parameters.parts.level_floor else level
        slow = window.count_above(_level_gate(index, expected, raised[index]))
        if slow < MIN_EXCEEDANCES or not exceeds(slow, window.traces, q):
            continue
        beyond_swing = window.count_above(_level_stat(index, expected, raised[index]))
        chance = tail_probability(beyond_swing, window.traces, 1 - q, newest.correlation)
        if chance < parameters.alpha:
            gate, bucket = _level_gate(index, expected, raised[index])(newest), window.quantile_bucket(q)
            swing = _level(newest, index).swing
            yield SmallShift(
                ShiftTest.LEVEL, index, window.traces, slow, gate, bucket, chance, swing, level, max(1, bucket - gate)
            )


def _least_gate(index: int, raised: int) -> Callable[[SmallShiftThresholds], int]:
    return lambda thresholds: _level(thresholds, index).least_gate + raised


def _least_stat(index: int, raised: int) -> Callable[[SmallShiftThresholds], int]:
    return lambda thresholds: _level(thresholds, index).least_stat + raised


def _level_gate(index: int, level: int, raised: int) -> Callable[[SmallShiftThresholds], int]:
    def limit(thresholds: SmallShiftThresholds) -> int:
        own = _level(thresholds, index)
        return max(own.gate + level, own.least_gate) + raised

    return limit


def _level_stat(index: int, level: int, raised: int) -> Callable[[SmallShiftThresholds], int]:
    def limit(thresholds: SmallShiftThresholds) -> int:
        own = _level(thresholds, index)
        return max(own.stat + level, own.least_stat) + raised

    return limit


def _level(thresholds: SmallShiftThresholds, index: int) -> LevelThreshold:
    return thresholds.level[index] if thresholds.level else UNREACHABLE


def current_levels(traces: Traces, now: float, schedule: SmallSchedule, parameters: Parameters) -> list[int | None]:
    """Return the level of now for each quantile in buckets above the baseline; None where it is unknown.

    Args:
        traces: recent traces of the series.
        now: Unix seconds.
        schedule: thresholds by hour, newest first, not empty.
        parameters: settings of the detector.
    """
    newest = past_mark(now) - MARK_SECONDS
    marks = range(newest - (LEVEL_MARKS - 1) * MARK_SECONDS, newest + 1, MARK_SECONDS)
    since = max(schedule[-1].start, marks[0] - parameters.max_window_seconds)
    ended = traces.by_mark(since, newest)
    deviations: list[list[int | None]] = [[] for _ in QUANTILES]
    for mark in marks:
        thresholds = _thresholds_at(mark, schedule)
        buckets = _window_at(mark, ended, parameters)
        positions = quantile_positions(len(buckets)) if buckets else ()
        measurable = len(measurable_quantiles(len(buckets)))
        for index in range(len(QUANTILES)):
            deviation = None
            if index < measurable and thresholds is not None and thresholds.baseline[index] != ZERO_BUCKET:
                pattern = _pattern_at(mark, index, schedule)
                deviation = buckets[positions[index]] - thresholds.baseline[index] - pattern
            deviations[index].append(deviation)
    return [levels_of(each, [len(each)])[0] for each in deviations]


def _window_at(mark: int, ended: Sequence[MarkedBuckets], parameters: Parameters) -> list[int]:
    """Return the sorted buckets of the evaluation window at a mark."""
    window: list[int] = []
    for end, buckets in reversed(ended):
        if end > mark:
            continue
        if end <= mark - parameters.window_seconds and (
            len(window) >= parameters.min_traces or end <= mark - parameters.max_window_seconds
        ):
            break
        window += buckets
    return sorted(window)


def _pattern_at(mark: int, index: int, schedule: SmallSchedule) -> int:
    start, thresholds = schedule[0]
    if not thresholds.profile:
        return 0
    return thresholds.profile[index][((mark - start) // MARK_SECONDS - 1) % MARKS]
