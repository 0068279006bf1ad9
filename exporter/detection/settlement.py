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
    STREAK_HOURS,
    STREAK_MIN_TRACES,
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
    :data:`STREAK_HOURS` hours are not. Unlike a run it needs no single hour that is significant, so that it shows
    lasting changes of series with little traffic.
    """
    hours = (*streak, hour)[-RUN_MEMORY_HOURS:]
    if not _are_slow(hours[-STREAK_HOURS:]):
        return ()
    return tuple(dropwhile(lambda member: not _are_slow((member,)), hours))


def is_streak_accepted(streak: Sequence[SlowHour], correlation: float, parameters: Parameters) -> bool:
    """Whether a streak of slow hours is accepted as the baseline: old enough, and significant as a whole.

    Args:
        streak: slow hours.
        correlation: correlation of exceedances, as in :class:`Thresholds`.
        parameters: settings of the detector.
    """
    traces = sum(hour.traces for hour in streak)
    if traces < STREAK_MIN_TRACES or not _are_slow(streak):
        return False
    age_seconds = streak[-1].start + HOUR_SECONDS - streak[0].start
    covered_seconds = min(age_seconds, 2 * HOUR_SECONDS * len(streak))
    if covered_seconds < parameters.accept_after_seconds:
        return False
    slow = sum(hour.slow for hour in streak)
    expected = sum(hour.traces * hour.expected for hour in streak) / traces
    return tail_probability(slow, traces, expected, correlation) < parameters.alpha


def _are_slow(hours: Sequence[SlowHour]) -> bool:
    return 2 * sum(hour.slow for hour in hours) > sum(hour.traces for hour in hours)
