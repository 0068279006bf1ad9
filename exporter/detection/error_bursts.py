"""The bursts of failures that an endpoint has, learned from the worst windows of past hours.

They are the swing of errors: in them an endpoint may fail more often than usual without a flag.
"""

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Final, NamedTuple

from exporter.detection.errors import BURST_USUAL_FACTOR, ERROR_CORRELATION, MAX_RATIO, Counts, error_limit
from exporter.detection.parameters import MIN_EXCEEDANCES, Parameters
from exporter.detection.significance import tail_probability
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram_codec import MARK_SECONDS

# The constants below are part of the method and not meant to be tuned.

SWING_DEVIATIONS: Final = 3.0
"""The ratio of a past window counts with the lower bound of its interval of this many standard deviations."""
SWING_DAYS: Final = 3
"""What windows reach on so many days is the swing; a single incident does not count."""
SWING_FACTOR: Final = 1.2
"""How much worse than these a window may be."""
BURST_MIN_FAILURES: Final = 2
"""A single failure is no burst."""
BURST_ALPHA: Final = 3e-5
"""A past window is a burst if chance has less than this probability, with one and a half times the usual ratio."""
BURST_DAYS: Final = 2
"""Bursts are learned once there have been some on so many days."""
BURST_FACTOR: Final = 4.0
"""How much worse a burst may be than those of so many days: their heights and lengths differ much."""
HOUR_FACTOR: Final = 2.5
"""The same for the ratio of a whole hour."""
PATTERN_HOURS: Final = 2
"""So many hours of the day may have bursts of their own, which do not count for the others."""
PATTERN_FACTOR: Final = 1.5
"""How much worse than on other days these may be."""
BURST_MARKS: Final = 4
"""An hour with bursts is tested without so many marks, those with the most failures."""
WHOLE_HOUR_MARKS: Final = HOUR_SECONDS // MARK_SECONDS + 1
"""All that an hour can touch: bursts that recur at its time of the day may fill it."""


def lower_bound(counts: Counts, min_failures: int = MIN_EXCEEDANCES) -> float:
    """Return the error ratio that a window certainly has: the lower bound of its score interval.

    It is 0 with fewer failures than ``min_failures``.

    See Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    requests, failures = counts
    if failures < min_failures:
        return 0.0
    ratio, square = failures / requests, SWING_DEVIATIONS**2 / requests
    margin = SWING_DEVIATIONS * sqrt((ratio * (1 - ratio) + square / 4) / requests)
    return max(0.0, (ratio + square / 2 - margin) / (1 + square))


class ErrorPeak(NamedTuple):
    """The worst evaluation window of a past hour.

    Attributes:
        day: local date as a proleptic Gregorian ordinal.
        hour: hour of the day.
        window: the window.
        whole: all of the hour.
    """

    day: int
    hour: int
    window: Counts
    whole: Counts


class ErrorSwing(NamedTuple):
    """The bursts of a series in an hour of the day; see :class:`ErrorBaseline`."""

    swing: float = 0.0
    hour_swing: float = 0.0
    burst_marks: int = 0


def swing_of_days(
    peaks: Sequence[ErrorPeak], hour_of_day: int, usual: float, prior_ratio: float, parameters: Parameters
) -> ErrorSwing:
    """Return the bursts that an endpoint has in an hour of the day.

    What is reached on one day only does not count, so that single incidents do not. What recurs in some hour of the
    day, such as a batch that fails, counts there only: the two hours that recur most are left out elsewhere.

    Args:
        peaks: the worst windows of past hours.
        hour_of_day: the hour.
        usual: the usual error ratio.
        prior_ratio: the same, above 0.
        parameters: settings of the detector.
    """
    limit = error_limit(usual, parameters)

    def burst(counts: Counts) -> float:
        requests, failures = counts
        if failures < BURST_MIN_FAILURES or failures < limit * requests:
            return 0.0
        most = min(MAX_RATIO, BURST_USUAL_FACTOR * prior_ratio)
        return counts.ratio if tail_probability(failures, requests, most, ERROR_CORRELATION) < BURST_ALPHA else 0.0

    times = [(peak.day, peak.hour) for peak in peaks]
    any_window, same_window = _bursts(times, [burst(peak.window) for peak in peaks], hour_of_day)
    any_hour, same_hour = _bursts(times, [burst(peak.whole) for peak in peaks], hour_of_day)
    least = _nth_day(((peak.day, lower_bound(peak.window)) for peak in peaks), SWING_DAYS)
    hour_least = _nth_day(((peak.day, lower_bound(peak.whole)) for peak in peaks), SWING_DAYS)
    hour_swing = max(HOUR_FACTOR * any_hour, PATTERN_FACTOR * same_hour, SWING_FACTOR * hour_least)
    swing = max(BURST_FACTOR * any_window, PATTERN_FACTOR * same_window, SWING_FACTOR * least, hour_swing)
    marks = 0
    if same_window or same_hour:
        marks = WHOLE_HOUR_MARKS
    elif any_window or any_hour:
        marks = BURST_MARKS
    return ErrorSwing(swing, hour_swing, marks)


def _bursts(times: Sequence[tuple[int, int]], ratios: Sequence[float], hour_of_day: int) -> tuple[float, float]:
    """Return the ratio of the bursts at any time, and of those that recur in an hour of the day; 0 without.

    Args:
        times: day and hour of the day of each ratio.
        ratios: error ratio of a burst; 0 where there was none.
        hour_of_day: the hour.
    """
    by_hour: dict[int, list[tuple[int, float]]] = {}
    for (day, hour), ratio in zip(times, ratios, strict=True):
        if ratio:
            by_hour.setdefault(hour, []).append((day, ratio))
    recurring = {hour: found for hour, of in by_hour.items() if (found := _nth_day(of, SWING_DAYS))}
    left_out = sorted(recurring, key=lambda hour: (recurring[hour], hour))[-PATTERN_HOURS:]
    at_any_time = (each for hour, of in by_hour.items() if hour not in left_out for each in of)
    return _nth_day(at_any_time, BURST_DAYS), recurring.get(hour_of_day, 0.0)


def _nth_day(ratios: Iterable[tuple[int, float]], count: int) -> float:
    """Return the highest ratio that so many days reach; 0 if there are fewer."""
    by_day: dict[int, float] = {}
    for day, ratio in ratios:
        by_day[day] = max(by_day.get(day, 0.0), ratio)
    ordered = sorted(by_day.values())
    return ordered[-count] if len(ordered) >= count else 0.0
