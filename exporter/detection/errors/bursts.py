"""The bursts of failures that an endpoint has, learned from the worst windows of past hours.

They are the swing of errors: in them an endpoint may fail more often than usual without a flag.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Final, NamedTuple

from exporter.detection.errors.verdict import ERROR_CORRELATION, MAX_RATIO, Counts, drifted, error_limit
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
"""A past window is a burst if chance has less than this probability, with one and a half times the usual odds."""
BURST_DAYS: Final = 2
"""Bursts are learned once there have been some on so many days."""
BURST_FACTOR: Final = 4.0
"""How much worse a burst may be than those of so many days: their heights and lengths differ much."""
HOUR_FACTOR: Final = 2.5
"""The same for the ratio of a whole hour."""
PATTERN_HOURS: Final = 2
"""So many hours of the day may have bursts of their own, which do not count for the others."""
PATTERN_ALPHA: Final = 1e-4
"""An hour of the day has bursts of its own if, over the days, chance has less than this probability with the ratio of
the others: there are 24, and a false one hides incidents in this hour only."""
PATTERN_LEAST_RATIO: Final = 0.02
"""The others are taken to have at least this ratio: they may have no window with failures at all."""
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
    day, such as a batch that fails, counts there only: the two hours that recur most are left out elsewhere. It recurs
    if it is a burst on three days, or if the hours of all days together are worse than those at other times.

    Args:
        peaks: the worst windows of past hours.
        hour_of_day: the hour.
        usual: the usual error ratio.
        prior_ratio: the same, above 0.
        parameters: settings of the detector.
    """
    if not peaks:
        return ErrorSwing()
    limit, most = error_limit(usual, parameters), drifted(prior_ratio)

    def burst(counts: Counts) -> float:
        requests, failures = counts
        if failures < BURST_MIN_FAILURES or failures < limit * requests:
            return 0.0
        chance = tail_probability(failures, requests, most, ERROR_CORRELATION, enough=BURST_ALPHA)
        return counts.ratio if chance < BURST_ALPHA else 0.0

    windows: Mapping[int, float] = {}
    wholes: Mapping[int, float] = {}
    if parameters.parts.error_patterns:
        windows = _patterns([(peak.day, peak.hour, peak.window) for peak in peaks], limit)
        wholes = _patterns([(peak.day, peak.hour, peak.whole) for peak in peaks], limit)
    times = [(peak.day, peak.hour) for peak in peaks]
    any_window, same_window = _bursts(times, [burst(peak.window) for peak in peaks], windows, hour_of_day)
    any_hour, same_hour = _bursts(times, [burst(peak.whole) for peak in peaks], wholes, hour_of_day)
    least = _nth_day(((peak.day, lower_bound(peak.window)) for peak in peaks), SWING_DAYS)
    hour_least = _nth_day(((peak.day, lower_bound(peak.whole)) for peak in peaks), SWING_DAYS)
    # What recurs at this time of the day may fill an hour, or all traffic of the hour may lie within it.
    hour_swing = max(HOUR_FACTOR * any_hour, PATTERN_FACTOR * max(same_hour, same_window), SWING_FACTOR * hour_least)
    swing = max(BURST_FACTOR * any_window, PATTERN_FACTOR * same_window, SWING_FACTOR * least, hour_swing)
    marks = 0
    if same_window or same_hour:
        marks = WHOLE_HOUR_MARKS
    elif any_window or any_hour:
        marks = BURST_MARKS
    return ErrorSwing(swing, hour_swing, marks)


def _patterns(of: Iterable[tuple[int, int, Counts]], limit: float) -> dict[int, float]:
    """Return the error ratio of each hour of the day in which more requests fail than in others, day after day.

    The windows of an hour are added up over the days: of a sparse endpoint, that of one day proves nothing. They are
    compared with those of the other hours, which are worst windows too.

    Args:
        of: day, hour of the day and counts of the worst windows.
        limit: error ratio from which failures matter.
    """
    by_hour: dict[int, dict[int, Counts]] = {}
    for day, hour, counts in of:
        by_day = by_hour.setdefault(hour, {})
        before = by_day.get(day)
        by_day[day] = counts if before is None else max(before, counts, key=_most_failures)
    recurring = {hour: _without_worst_day(by_day) for hour, by_day in by_hour.items() if len(by_day) >= SWING_DAYS}
    worse = {hour: own for hour, own in recurring.items() if own.ratio >= limit}
    if not worse:
        # Mostly: no hour of the day is worse than the others.
        return {}
    sums = [recurring.get(hour) or _without_worst_day(by_day) for hour, by_day in by_hour.items()]
    total = Counts(sum([each.requests for each in sums]), sum([each.failures for each in sums]))
    found: dict[int, float] = {}
    for hour, own in worse.items():
        others = Counts(total.requests - own.requests, total.failures - own.failures)
        usual = min(MAX_RATIO, max(PATTERN_LEAST_RATIO, others.ratio))
        chance = tail_probability(own.failures, own.requests, usual, ERROR_CORRELATION, enough=PATTERN_ALPHA)
        if chance < PATTERN_ALPHA:
            found[hour] = own.ratio
    return found


def _without_worst_day(by_day: Mapping[int, Counts]) -> Counts:
    """Return the sum of all days but the worst one: a single incident is no pattern."""
    worst = max(by_day.values(), key=_most_failures)
    requests = sum([each.requests for each in by_day.values()]) - worst.requests
    return Counts(requests, sum([each.failures for each in by_day.values()]) - worst.failures)


def _bursts(
    times: Sequence[tuple[int, int]], ratios: Sequence[float], patterns: Mapping[int, float], hour_of_day: int
) -> tuple[float, float]:
    """Return the ratio of the bursts at any time, and of those that recur in an hour of the day; 0 without.

    Args:
        times: day and hour of the day of each ratio.
        ratios: error ratio of a burst; 0 where there was none.
        patterns: error ratio of hours of the day that are worse than others, over all days.
        hour_of_day: the hour.
    """
    by_hour: dict[int, list[tuple[int, float]]] = {}
    for (day, hour), ratio in zip(times, ratios, strict=True):
        if ratio:
            by_hour.setdefault(hour, []).append((day, ratio))
    recurring = dict(patterns)
    for hour, of in by_hour.items():
        if found := _nth_day(of, SWING_DAYS):
            recurring[hour] = max(found, recurring.get(hour, 0.0))
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


def _most_failures(counts: Counts) -> tuple[int, int]:
    return counts.failures, -counts.requests
