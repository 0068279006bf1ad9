"""Shifts of a whole service: most of its endpoints take longer than usual, by the same factor.

The deviation of a service is the median, over its endpoints with traffic, of how far the median of the evaluation
window lies from that of the baseline. What endpoints do by themselves nearly cancels out in it, so it varies less than
any of them, and a smaller shift is significant. How much it varies is learned from the past deviations of the service
at the five-minute marks: these are medians over the stored deviations of its series, without the hours of a series that
are quarantined.

With D the deviation, o the pattern of the service at a mark, and ``z`` the tolerated swings (`Parameters.swing`):

- the swing is ``τ = sqrt((48 · 0.1² + n · v) / (48 + n))`` octaves for n marks, with v the median over the days of the
  mean of (D - o)², each at most 4,
- the service is shifted if ``D - o`` is at least ``max(log2(1.25), 1.5 z τ)``, and its endpoints take at least
  `Parameters.min_delta_seconds` longer than usual, as a median,
- the shift persists while ``D - o`` is at least half of that.

The pattern is like that of an endpoint (see :mod:`exporter.detection.profile`), learned from the same deviations: a
batch that slows all endpoints down at the same minutes of every hour or day is usual.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import log2, sqrt
from statistics import median
from typing import Final, NamedTuple

from exporter.detection.flag import Flag, FlagEvent, advance_flag
from exporter.detection.measurement import MAX_SQUARE
from exporter.detection.parameters import (
    DAILY_PATTERN_BUCKETS,
    DAILY_PATTERN_MIN_HOURS,
    PRIOR_SWING_OCTAVES,
    PRIOR_SWING_WEIGHT,
    PROFILE_MIN_HOURS,
    SMALL_SHIFT_HOLDS,
    SMALL_SHIFT_RATIO,
    Parameters,
)
from exporter.detection.profile import raised_at
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.deviations import MARKS, MOST_BUCKETS, lanes_above, medians_over_series
from exporter.model.histogram import BUCKETS_PER_OCTAVE
from exporter.model.hour_evaluation import PATTERN_BUCKETS

MIN_ENDPOINTS: Final = 4
"""With fewer endpoints in the evaluation window, the deviation of a service is unknown."""
MIN_MARKS: Final = 288
"""Marks of the past that are needed for a verdict: a day of them."""
MIN_DAY_MARKS: Final = 72
"""A day with fewer marks does not count for the swing."""
SWING_FACTOR: Final = 1.5
"""Tolerated swings of a service, as a multiple of those of an endpoint. Chance is not tested apart: the endpoints'
medians vary by chance, so their median does, and that is part of its swing."""

_DAY_SECONDS: Final = 24 * HOUR_SECONDS
_ZERO: Final = 128
_UNKNOWN: Final = 0
_NO_PATTERN: Final = (0,) * MARKS


class ServiceHour(NamedTuple):
    """The deviations of a service in an hour of the past.

    Attributes:
        start: its start, Unix seconds.
        hour_of_day: its hour of the local day.
        deviations: encoded deviations at its marks, as of :func:`service_deviations`.
    """

    start: int
    hour_of_day: int
    deviations: bytes


class ServiceBaseline(NamedTuple):
    """The baseline of a service in one hour.

    Attributes:
        swing_octaves: root mean square of its past deviations from its pattern.
        pattern: how much longer it takes at each mark of the hour, in buckets; empty without a pattern.
    """

    swing_octaves: float
    pattern: tuple[int, ...] = ()

    def threshold_buckets(self, parameters: Parameters) -> float:
        """The deviation from the pattern that is a shift, in buckets."""
        tolerated = SWING_FACTOR * parameters.swing * self.swing_octaves
        return BUCKETS_PER_OCTAVE * max(log2(SMALL_SHIFT_RATIO), tolerated)


EndpointLatency = tuple[float, float]
"""Median latency of the evaluation window of an endpoint, and that of its baseline, which is not 0, in seconds.

Both are the middle of their bucket."""


class ServiceVerdict(NamedTuple):
    """The verdict on a service.

    Attributes:
        ratio: how many times their usual its endpoints take, as a median, beyond the pattern.
        threshold_ratio: the ratio that is a shift.
        endpoints: number of endpoints that were compared.
        shifted: whether the ratio is a shift.
        persists: whether it is enough for a shift to persist.
    """

    ratio: float
    threshold_ratio: float
    endpoints: int
    shifted: bool
    persists: bool


def service_deviations(series: Sequence[bytes]) -> bytes:
    """Return the encoded deviations of a service at the marks of an hour.

    Args:
        series: encoded deviations of its series in that hour; see :mod:`exporter.model.deviations`. Their order does
            not matter.
    """
    return medians_over_series(series, MIN_ENDPOINTS)


def learn_service(hours: Sequence[ServiceHour]) -> Mapping[int, ServiceBaseline]:
    """Learn the baselines of a service, from past hours in any order.

    Returns:
        The baseline for each hour of the local day; empty while there are too few marks with a deviation.
    """
    known = b"".join([hour.deviations for hour in hours])
    marks = len(known) - known.count(_UNKNOWN)
    if marks < MIN_MARKS:
        return {}
    hourly = _pattern(lanes_above([hour.deviations for hour in hours], PROFILE_MIN_HOURS, PATTERN_BUCKETS))
    by_hour: dict[int, list[bytes]] = {}
    for hour in hours:
        by_hour.setdefault(hour.hour_of_day, []).append(hour.deviations)
    patterns = dict.fromkeys(range(24), hourly)
    if known.translate(_IS_LARGE).count(1) >= DAILY_PATTERN_MIN_HOURS:
        for hour_of_day, same in by_hour.items():
            daily = _pattern(lanes_above(same, DAILY_PATTERN_MIN_HOURS, DAILY_PATTERN_BUCKETS))
            if daily:
                patterns[hour_of_day] = tuple(map(max, daily, hourly or _NO_PATTERN))
    variance = (
        PRIOR_SWING_WEIGHT * PRIOR_SWING_OCTAVES**2
        + marks * _variance_of_a_day(hours, patterns) / BUCKETS_PER_OCTAVE**2
    ) / (PRIOR_SWING_WEIGHT + marks)
    swing = sqrt(variance)
    # Most hours of the day share one.
    baselines = {pattern: ServiceBaseline(swing, pattern) for pattern in set(patterns.values())}
    return {hour_of_day: baselines[pattern] for hour_of_day, pattern in patterns.items()}


def _pattern(lanes: Mapping[int, int]) -> tuple[int, ...]:
    return tuple([lanes.get(mark, 0) for mark in range(MARKS)]) if lanes else ()


def _variance_of_a_day(hours: Sequence[ServiceHour], patterns: Mapping[int, tuple[int, ...]]) -> float:
    """Return the mean squared distance from the pattern on a typical day, in square buckets.

    That is the median over the days: one on which the service was shifted, or whose baselines came from other days, as
    those of a first weekend do, says little about the others.
    """
    by_day: dict[int, list[ServiceHour]] = {}
    for hour in hours:
        by_day.setdefault(hour.start // _DAY_SECONDS, []).append(hour)
    means = []
    for same in by_day.values():
        known = MARKS * len(same) - sum([hour.deviations.count(_UNKNOWN) for hour in same])
        if known >= MIN_DAY_MARKS:
            means.append(sum([_sum_of_squares(hour.deviations, patterns[hour.hour_of_day]) for hour in same]) / known)
    return median(means) if means else 0.0


def _sum_of_squares(deviations: bytes, pattern: tuple[int, ...]) -> int:
    if not pattern:
        return sum(map(_SQUARES.__getitem__, deviations))
    return sum([_squares_around(raised)[code] for raised, code in zip(pattern, deviations, strict=True)])


@lru_cache(maxsize=512)
def _squares_around(raised: int) -> list[int]:
    """Return the squared distance from a pattern, in square buckets, by code of the deviation; 0 where unknown."""
    return [0, *(min(MAX_SQUARE, (code - _ZERO - raised) ** 2) for code in range(1, 256))]


_SQUARES: Final = _squares_around(0)
_IS_LARGE: Final = bytes(code > _ZERO + DAILY_PATTERN_BUCKETS for code in range(256))


def judge_service(
    endpoints: Sequence[EndpointLatency],
    baseline: ServiceBaseline,
    hour_start: int,
    now: float,
    parameters: Parameters,
) -> ServiceVerdict | None:
    """Judge a service; None with too few endpoints.

    Args:
        endpoints: the endpoints that have enough requests in their evaluation window, and a mature baseline.
        baseline: its baseline.
        hour_start: start of any local hour, Unix seconds.
        now: end of the evaluation windows, Unix seconds.
        parameters: settings of the detector.
    """
    if len(endpoints) < MIN_ENDPOINTS:
        return None
    deviation = _median_buckets([now_seconds / usual_seconds for now_seconds, usual_seconds in endpoints])
    if baseline.pattern:
        first = now - parameters.window_seconds + 1
        deviation -= raised_at((baseline.pattern,), hour_start, first, now)[0]
    threshold = baseline.threshold_buckets(parameters)
    persists = 2 * deviation >= threshold
    shifted = (
        deviation >= threshold
        and median([now_seconds - usual_seconds for now_seconds, usual_seconds in endpoints])
        >= parameters.min_delta_seconds
    )
    return ServiceVerdict(
        ratio=2.0 ** (deviation / BUCKETS_PER_OCTAVE),
        threshold_ratio=2.0 ** (threshold / BUCKETS_PER_OCTAVE),
        endpoints=len(endpoints),
        shifted=shifted,
        persists=persists,
    )


def _median_buckets(ratios: list[float]) -> int:
    """Return the median of ratios in buckets, rounded down as in :func:`.medians_over_series`."""
    ratios.sort()
    count = len(ratios)
    return (_buckets(ratios[(count - 1) // 2]) + _buckets(ratios[count // 2])) // 2


def _buckets(ratio: float) -> int:
    # The logarithm is a whole number, since the ratio is one of the middles of two buckets.
    return round(BUCKETS_PER_OCTAVE * log2(ratio)) if ratio else -MOST_BUCKETS


def advance_service_flag(
    flag: Flag, now: float, verdict: ServiceVerdict | None, parameters: Parameters
) -> tuple[Flag, FlagEvent | None]:
    """Return the flag of a service after one more tick, and its transition, if any.

    Args:
        flag: state after the previous tick.
        now: time of the tick, Unix seconds.
        verdict: the verdict; None while it is unknown, which resolves the flag as the end of a shift does.
        parameters: hold times.
    """
    return advance_flag(
        flag,
        now,
        shifted=verdict is not None and verdict.shifted,
        persists=verdict is not None and verdict.persists,
        parameters=parameters,
        hold_seconds=SMALL_SHIFT_HOLDS * parameters.hold_seconds,
    )
