"""Tests on settled hours: whether an hour is anomalous, and whether a lasting change is accepted as the baseline."""

from collections.abc import Sequence
from itertools import dropwhile
from typing import Final, NamedTuple

from exporter.detection.parameters import (
    MIN_EVALUATED_TRACES,
    MIN_EXCEEDANCES,
    MIN_SWING_EXCEEDANCES,
    RUN_BREAK_HOURS,
    RUN_ELEVATED_SHARE,
    RUN_MEMORY_HOURS,
    RUN_MIN_ANOMALOUS,
    STREAK_BLOCK_SECONDS,
    STREAK_HOURS,
    STREAK_MIN_TRACES,
    STREAK_SLACK,
    Parameters,
)
from exporter.detection.prediction import SlowHour
from exporter.detection.significance import exceeds, tail_probability
from exporter.detection.thresholds import Thresholds
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram import Digest

_ROUNDING: Final = 1e-9


class SettledHour(NamedTuple):
    """A settled hour of a run; a run is a change that may be accepted as the baseline.

    Attributes:
        start: start of the hour, Unix seconds.
        anomalous: whether the hour is quarantined; see :func:`is_anomalous`.
        elevated: whether it is anomalous, or some quantile lies above its clear threshold.
    """

    start: int
    anomalous: bool
    elevated: bool


def is_anomalous(digest: Digest, thresholds: Thresholds, parameters: Parameters) -> bool:
    """Whether an hour fails the shift test as one window, upwards for any quantile or downwards for the median.

    An hour significantly faster than its baseline does not represent it either.
    """
    n = digest.count
    if n < MIN_EVALUATED_TRACES:
        return False
    for threshold in thresholds.quantiles:
        slow = digest.count_above(threshold.gate)
        if slow < MIN_EXCEEDANCES or not exceeds(slow, n, threshold.q):
            continue
        beyond_swing = digest.count_above(threshold.stat)
        if tail_probability(beyond_swing, n, 1 - threshold.q, thresholds.correlation) < parameters.alpha:
            return True
    fast = n - digest.count_above(thresholds.fast)
    return 2 * fast > n and tail_probability(fast, n, 0.5, thresholds.correlation) < parameters.alpha


def is_elevated(digest: Digest, thresholds: Thresholds) -> bool:
    """Whether some quantile of an hour lies above its clear threshold, of those that the hour has traces enough for.

    One slow trace among thirty says nothing about the p99.
    """
    n = digest.count
    return any(
        exceeds(digest.count_above(t.clear), n, t.q)
        for t in thresholds.quantiles
        if n * (1 - t.q) >= MIN_SWING_EXCEEDANCES - _ROUNDING
    )


def extended_run(run: Sequence[SettledHour], hour: SettledHour) -> tuple[SettledHour, ...]:
    """Return a run after one more hour with traffic has settled.

    A run begins at an anomalous hour. It ends, and is empty, after :data:`RUN_BREAK_HOURS` consecutive hours that are
    not elevated.
    """
    if not run:
        return (hour,) if hour.anomalous else ()
    hours = (*run, hour)
    if not any(member.elevated for member in hours[-RUN_BREAK_HOURS:]):
        return ()
    return tuple(dropwhile(lambda member: not member.anomalous, hours[-RUN_MEMORY_HOURS:]))


def is_new_baseline(run: Sequence[SettledHour], parameters: Parameters) -> bool:
    """Whether a run is accepted as the baseline.

    It must be old enough, have had traffic in at least half of its hours, be elevated in nearly all of these, and
    contain enough anomalous hours.
    """
    if len(run) < RUN_MIN_ANOMALOUS or not run[-1].elevated:
        return False
    age_seconds = run[-1].start + HOUR_SECONDS - run[0].start
    return (
        age_seconds >= parameters.accept_after_seconds
        and 2 * HOUR_SECONDS * len(run) >= parameters.accept_after_seconds
        and sum(hour.elevated for hour in run) >= RUN_ELEVATED_SHARE * len(run)
        and sum(hour.anomalous for hour in run) >= RUN_MIN_ANOMALOUS
    )


def extended_streak(streak: Sequence[SlowHour], hour: SlowHour) -> tuple[SlowHour, ...]:
    """Return a streak of slow hours after one more hour with traffic has settled.

    It begins at an hour in which most traces are slow, and ends, and is empty, when most traces of its last
    :data:`STREAK_HOURS` hours are not, by :data:`STREAK_SLACK` traces or more: of a few traces half are fast by chance.
    Unlike a run it needs no single hour that is significant, so that it shows lasting changes of series with little
    traffic.
    """
    hours = (*streak, hour)[-RUN_MEMORY_HOURS:]
    if _excess(hours[-STREAK_HOURS:]) <= -STREAK_SLACK:
        return ()
    return tuple(dropwhile(lambda member: not _are_slow((member,)), hours))


def accepted_streak(streak: Sequence[SlowHour], correlation: float, parameters: Parameters) -> tuple[SlowHour, ...]:
    """Return the part of a streak that is accepted as the baseline; empty if none is.

    It begins where most of it is slow most clearly. It must be old enough, slow to the end, and significant.

    Args:
        streak: slow hours.
        correlation: correlation of exceedances, as in :class:`Thresholds`, among the traces of an hour.
        parameters: settings of the detector.
    """
    part = streak[_clearest_start(streak) :]
    traces = sum(hour.traces for hour in part)
    if traces < STREAK_MIN_TRACES or not _are_slow(part) or not _are_slow(part[-STREAK_HOURS:]):
        return ()
    age_seconds = part[-1].start + HOUR_SECONDS - part[0].start
    covered_seconds = min(age_seconds, 2 * HOUR_SECONDS * len(part))
    if covered_seconds < parameters.accept_after_seconds:
        return ()
    slow = sum(hour.slow for hour in part)
    expected = sum(hour.traces * hour.expected for hour in part) / traces
    blocks: dict[int, int] = {}
    for hour in part:
        block = hour.start // STREAK_BLOCK_SECONDS
        blocks[block] = blocks.get(block, 0) + hour.traces
    # Traces of one block are alike, those of different ones are not.
    shared = sum(count * count for count in blocks.values()) / traces**2
    is_chance = tail_probability(slow, traces, expected, correlation * shared) >= parameters.alpha
    return () if is_chance else tuple(part)


def _clearest_start(streak: Sequence[SlowHour]) -> int:
    """Return the position from which on the most traces are slow, beyond half of all."""
    best, best_excess, excess = 0, 0, 0
    for position in range(len(streak) - 1, -1, -1):
        excess += _excess(streak[position : position + 1])
        if excess > best_excess:
            best, best_excess = position, excess
    return best


def _are_slow(hours: Sequence[SlowHour]) -> bool:
    return _excess(hours) > 0


def _excess(hours: Sequence[SlowHour]) -> int:
    """Return how many more traces are slow than not."""
    return sum(2 * hour.slow - hour.traces for hour in hours)
