"""Pattern within the hour: work that recurs at the same minutes of every hour is normal there, such as a batch at :00.

The pattern of a series is the median deviation of past evaluation windows from their baseline, by mark of the hour; see
:meth:`exporter.model.hours.SeriesHours.profile`. Work that recurs at the same minutes of one hour of the day has such a
pattern in this hour of most days, of both day types; see :func:`pattern_of_hour`. The higher of both counts: at a tick,
all thresholds of a quantile are raised by the highest value among the marks that the window touches.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import median

from exporter.baseline.levels import MATURE_WINDOWS
from exporter.detection.parameters import DAILY_PATTERN_BUCKETS, DAILY_PATTERN_MIN_HOURS
from exporter.detection.window import next_mark
from exporter.model.calendar import HOUR_SECONDS, Slot
from exporter.model.deviations import MARKS, lanes_above, raised_deviations
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hour_evaluation import QUANTILES, HourProfile
from exporter.model.hours import SeriesHours
from exporter.model.series_hour import SeriesHour

NOT_RAISED = (0,) * len(QUANTILES)


def pattern_of_hour(deviations: Sequence[bytes], *, inherit: bool = True) -> HourProfile:
    """Return the pattern within one hour of the day, from that hour of past days: a batch at 03:10, say.

    There are only a few such hours, so only large deviations are a pattern.

    Args:
        deviations: those of the past hours, encoded.
        inherit: whether a quantile has the pattern of the next lower one where fewer hours know its own.
    """
    found = lanes_above(deviations, DAILY_PATTERN_MIN_HOURS, DAILY_PATTERN_BUCKETS, inherit=inherit)
    if not found:
        return ()
    return tuple(
        tuple([found.get(MARKS * index + mark, 0) for mark in range(MARKS)]) for index in range(len(QUANTILES))
    )


def deviations_from_hours_around(history: SeriesHours, hours: Sequence[SeriesHour]) -> list[bytes]:
    """Return the deviations of past hours as if all of their baselines were pools of the hours around them.

    A baseline of the exact slot contains the batch of that hour, so that the deviations from it are smaller. On the
    first days of the other day type the hours around serve, of which most are without the batch. The difference is
    about how much the whole hour exceeds the mean of the two hours around it, by the median over these days.

    Args:
        history: hours of the series.
        hours: past hours of one hour of the day, in time order within each slot.
    """
    earlier: Counter[Slot] = Counter()
    exact: list[bool] = []
    excesses: list[tuple[float, ...]] = []
    for hour in hours:
        # A slot serves as soon as it has so many hours.
        exact.append(earlier[hour.slot] >= MATURE_WINDOWS)
        earlier[hour.slot] += 1
        before, after = history.at(hour.start - HOUR_SECONDS), history.at(hour.start + HOUR_SECONDS)
        if exact[-1] and before is not None and after is not None:
            around = zip(before.quantile_buckets, after.quantile_buckets, strict=True)
            excesses.append(tuple(own - sum(each) / 2 for own, each in zip(hour.quantile_buckets, around, strict=True)))
    deviations = [hour.evaluation.deviations for hour in hours]
    by = [max(0, round(median(of_quantile))) for of_quantile in zip(*excesses, strict=True)]
    if not any(by):
        return deviations
    return [
        raised_deviations(each, by) if each and is_exact else each
        for each, is_exact in zip(deviations, exact, strict=True)
    ]


def highest(profile: HourProfile, other: HourProfile) -> HourProfile:
    """Return the higher of two patterns at each mark."""
    if not profile or not other:
        return profile or other
    return tuple(tuple(map(max, *pair)) for pair in zip(profile, other, strict=True))


def raised_at(profile: HourProfile, hour_start: int, first: float, last: float) -> tuple[int, ...]:
    """Return by how many buckets the thresholds of each quantile are raised for a window.

    Args:
        profile: the pattern within the hour; empty without any.
        hour_start: start of any local hour, Unix seconds.
        first: the end of the window's first trace, Unix seconds.
        last: the end of the window.
    """
    if not profile:
        return NOT_RAISED
    newest, oldest = next_mark(last), next_mark(first)
    touched = range(max(oldest, newest - HOUR_SECONDS + MARK_SECONDS), newest + 1, MARK_SECONDS)
    marks = [((mark - hour_start) // MARK_SECONDS - 1) % MARKS for mark in touched]
    return tuple([max([of_quantile[mark] for mark in marks]) for of_quantile in profile])


def minutes_of(profile: HourProfile, index: int) -> tuple[tuple[int, int], ...]:
    """Return the stretches of the hour in which a quantile is raised, as minutes ``[from, to)``, in order.

    A mark stands for the windows that end there, so a stretch begins one window before its first mark.
    """
    if not profile:
        return ()
    marks = [mark for mark, raised in enumerate(profile[index]) if raised]
    step = MARK_SECONDS // 60
    found: list[tuple[int, int]] = []
    for mark in marks:
        if found and found[-1][1] == mark * step:
            found[-1] = (found[-1][0], (mark + 1) * step)
        else:
            found.append((mark * step, (mark + 1) * step))
    return tuple(found)
