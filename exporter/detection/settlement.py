"""What becomes of an hour once it is over: was it anomalous, and has a change lasted long enough to be accepted?"""

from collections.abc import Sequence
from itertools import dropwhile
from typing import NamedTuple

from exporter.detection.parameters import (
    MIN_EXCEEDANCES,
    MIN_JUDGED,
    RUN_BREAK_HOURS,
    RUN_ELEVATED_SHARE,
    RUN_MEMORY_HOURS,
    RUN_MIN_ANOMALOUS,
    Parameters,
)
from exporter.detection.tail import tail_probability
from exporter.detection.thresholds import Thresholds
from exporter.detection.verdict import exceeds
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram import Digest


class SettledHour(NamedTuple):
    """What the memory of a series keeps of an hour that is over.

    Attributes:
        start: when it began, unix seconds.
        anomalous: whether it is no example of what is usual.
        elevated: whether it was anomalous or anything in it lay where a shift is still going on.
    """

    start: int
    anomalous: bool
    elevated: bool


def is_anomalous(digest: Digest, thresholds: Thresholds, parameters: Parameters) -> bool:
    """Whether a whole hour fails the test of a window, upwards or, as for its median, downwards."""
    n = digest.count
    if n < MIN_JUDGED:
        return False
    for threshold in thresholds.quantiles:
        slow = digest.count_above(threshold.gate)
        if slow < MIN_EXCEEDANCES or not exceeds(slow, n, threshold.q):
            continue
        beyond_swing = digest.count_above(threshold.stat)
        if tail_probability(beyond_swing, n, 1 - threshold.q, thresholds.correlation) < parameters.alpha:
            return True
    # Faster than usual is not usual either.
    fast = n - digest.count_above(thresholds.fast)
    return 2 * fast > n and tail_probability(fast, n, 0.5, thresholds.correlation) < parameters.alpha


def is_elevated(digest: Digest, thresholds: Thresholds) -> bool:
    """Whether some quantile of an hour lies where a shift counts as still going on."""
    return any(exceeds(digest.count_above(t.clear), digest.count, t.q) for t in thresholds.quantiles)


def extended_run(run: Sequence[SettledHour], hour: SettledHour) -> tuple[SettledHour, ...]:
    """A run of hours that may become the new normal, after one more hour with traffic has settled.

    It begins at an anomalous hour and is broken by some hours in a row that are not elevated: then it is empty.
    """
    if not run:
        return (hour,) if hour.anomalous else ()
    hours = (*run, hour)
    if not any(member.elevated for member in hours[-RUN_BREAK_HOURS:]):
        return ()
    return tuple(dropwhile(lambda member: not member.anomalous, hours[-RUN_MEMORY_HOURS:]))


def is_new_normal(run: Sequence[SettledHour], parameters: Parameters) -> bool:
    """Whether a run is old enough, had traffic often enough and was elevated nearly all the time."""
    if len(run) < RUN_MIN_ANOMALOUS or not run[-1].elevated:
        return False
    age_seconds = run[-1].start + HOUR_SECONDS - run[0].start
    return (
        age_seconds >= parameters.accept_after_seconds
        and 2 * HOUR_SECONDS * len(run) >= parameters.accept_after_seconds
        and sum(hour.elevated for hour in run) >= RUN_ELEVATED_SHARE * len(run)
        and sum(hour.anomalous for hour in run) >= RUN_MIN_ANOMALOUS
    )
