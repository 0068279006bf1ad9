"""Pattern within the hour: work that recurs at the same minutes of every hour is normal there, such as a batch at :00.

The pattern of a series is the median deviation of past evaluation windows from their baseline, by mark of the hour; see
:meth:`exporter.model.hours.SeriesHours.profile`. Work that recurs at the same minutes of one hour of the day has such a
pattern in this hour of most days, of both day types; see :func:`pattern_of_hour`. The higher of both counts: at a tick,
all thresholds of a quantile are raised by the highest value among the marks that the window touches.
"""

from collections.abc import Sequence

from exporter.detection.parameters import DAILY_PATTERN_BUCKETS, DAILY_PATTERN_MIN_HOURS
from exporter.detection.window import next_mark
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.deviations import MARKS, lanes_above
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hours import QUANTILES, HourProfile, SeriesHour

NOT_RAISED = (0,) * len(QUANTILES)


def pattern_of_hour(hours: Sequence[SeriesHour]) -> HourProfile:
    """Return the pattern within one hour of the day, from that hour of past days: a batch at 03:10, say.

    There are only a few such hours, so only large deviations are a pattern.
    """
    deviations = [hour.evaluation.deviations for hour in hours]
    found = lanes_above(deviations, DAILY_PATTERN_MIN_HOURS, DAILY_PATTERN_BUCKETS)
    if not found:
        return ()
    return tuple(
        tuple([found.get(MARKS * index + mark, 0) for mark in range(MARKS)]) for index in range(len(QUANTILES))
    )


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
