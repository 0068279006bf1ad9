"""Tolerance: what people have marked as normal is not flagged again when it repeats.

Evaluating an hour with such a mark yields how far its windows were above the baseline within the marked range. At the
same time of the day, a quarter of an hour earlier or later included, thresholds are raised by as much for four weeks.
This adds to the pattern within the hour (:mod:`.profile`), so that only something slower than what was marked, by the
usual ratio, is a shift there.
"""

from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Final, NamedTuple

from exporter.detection.parameters import LONG_WINDOW_MARKS
from exporter.detection.profile import highest
from exporter.model.calendar import HOUR_SECONDS, LocalHour
from exporter.model.deviations import MARKS, deviations_of
from exporter.model.histogram import BUCKETS_PER_OCTAVE
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hour_evaluation import QUANTILES, HourProfile
from exporter.model.hours import SeriesHours

TOLERATED_SECONDS: Final = 28 * 24 * HOUR_SECONDS
"""How long a mark is remembered."""
SPREAD_MARKS: Final = 3
"""It may repeat so many five-minute marks earlier or later."""
_UNBOUNDED_BUCKETS: Final = 127
"""A deviation of four octaves is stored for all larger ones."""
_UNBOUNDED_RAISE: Final = 12 * BUCKETS_PER_OCTAVE
"""How far such a deviation raises thresholds: nothing is slow there."""
_RUN_SLOW: Final = BUCKETS_PER_OCTAVE // 2
"""Runs may be slower by half an octave than the slowest that was marked; they are slow only beyond that."""
_RUN_FAR: Final = BUCKETS_PER_OCTAVE
"""They are far slower, so that one is enough for a flag, only beyond an octave."""
_HOURS: Final = 24
_MIN_USUAL_HOURS: Final = 3
"""With fewer other days of the hour, its usual traffic is not known."""
_NOTABLE_DROP: Final = 0.8
"""More traffic than this share of the usual is none that has to be tolerated."""


class Tolerance(NamedTuple):
    """What was marked as normal in one hour. Encoded by position.

    Attributes:
        start: start of the hour, Unix seconds.
        hour: hour of the local day.
        first: first five-minute mark of the hour that the range touches, from 0.
        behind: the mark behind the last one.
        raised: how far each quantile was above the baseline in the range, in buckets.
        run: bucket of the slowest run of requests; None without any.
        error_ratio: highest share of failed requests of a window.
        traffic_ratio: traffic relative to the same hour of other days, at most 1.
    """

    start: int
    hour: int
    first: int
    behind: int
    raised: tuple[int, ...] = (0,) * len(QUANTILES)
    run: int | None = None
    error_ratio: float = 0.0
    traffic_ratio: float = 1.0

    @property
    def hours_of_day(self) -> set[int]:
        """The hours of the local day in which it may repeat."""
        hours = {self.hour}
        if self.first < SPREAD_MARKS:
            hours.add((self.hour - 1) % _HOURS)
        if self.behind > MARKS - SPREAD_MARKS:
            hours.add((self.hour + 1) % _HOURS)
        return hours


def marks_in(hour: LocalHour, ranges: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the first five-minute mark of an hour that some ranges touch, and the one behind the last; None without.

    Args:
        hour: the hour.
        ranges: ranges of time, Unix seconds.
    """
    touched = [
        mark
        for start, end in ranges
        for mark in range(MARKS)
        if start < hour.start + (mark + 1) * MARK_SECONDS and hour.start + mark * MARK_SECONDS < end
    ]
    return (min(touched), max(touched) + 1) if touched else None


def raised_in(deviations: bytes, first: int, behind: int) -> tuple[int, ...]:
    """Return how far each quantile was above the baseline at some marks of an hour, in buckets.

    A quantile that no window had enough requests for counts like the highest of the others.

    Args:
        deviations: deviations of the hour's windows; see :mod:`exporter.model.deviations`.
        first: the first mark, from 0.
        behind: the mark behind the last one.
    """
    found = []
    for index in range(len(QUANTILES)):
        known = [each for each in deviations_of(deviations, index)[first:behind] if each is not None]
        most = max(known, default=None)
        found.append(_UNBOUNDED_RAISE if most is not None and most >= _UNBOUNDED_BUCKETS else most)
    highest_known = max([0, *(each for each in found if each is not None)])
    return tuple(highest_known if each is None else max(0, each) for each in found)


def traffic_ratio(history: SeriesHours, hour: LocalHour, requests: Sequence[int], shares: Sequence[float]) -> float:
    """Return the traffic in some marks of an hour relative to the same hour of other days, at most 1.

    Args:
        history: hours of the series.
        hour: the hour.
        requests: requests at each of these marks.
        shares: the usual share of an hour's requests at each of these marks.
    """
    others = [each.count for each in history if each.slot == hour.slot and each.start < hour.start]
    if len(others) < _MIN_USUAL_HOURS:
        return 1.0
    usual = median(others) * sum(shares)
    ratio = sum(requests) / usual if usual else 1.0
    return ratio if ratio < _NOTABLE_DROP else 1.0


def remembered(tolerances: Iterable[Tolerance], at: int) -> Iterator[Tolerance]:
    """Yield the tolerances that are not forgotten at an instant (Unix seconds)."""
    return (each for each in tolerances if at - each.start <= TOLERATED_SECONDS)


def is_tolerant(tolerances: Iterable[Tolerance], hour: LocalHour) -> bool:
    """Whether something is tolerated in an hour, so that its windows do not tell how much a series varies."""
    return any(True for _ in _applicable(tolerances, hour))


def _applicable(tolerances: Iterable[Tolerance], hour: LocalHour) -> Iterator[Tolerance]:
    """Yield what is tolerated in an hour."""
    for each in remembered(tolerances, hour.start):
        if each.start < hour.start and hour.slot.hour in each.hours_of_day:
            yield each


def with_tolerance(
    profile: HourProfile, tolerances: Iterable[Tolerance], hour: LocalHour, *, is_sparse: bool
) -> HourProfile:
    """Return the pattern within an hour, raised by what was marked as normal at that time of the day.

    Args:
        profile: the pattern.
        tolerances: what was marked as normal.
        hour: the local hour.
        is_sparse: whether an evaluation window may be as long as an hour.
    """
    for each in remembered(tolerances, hour.start):
        # Nearest to this hour of the day, so that 23 and 0 are next to each other.
        apart = (each.hour - hour.slot.hour + _HOURS // 2) % _HOURS - _HOURS // 2
        if abs(apart) > 1 or each.start >= hour.start or not any(each.raised):
            continue
        begin = apart * MARKS + each.first - SPREAD_MARKS
        end = apart * MARKS + each.behind + SPREAD_MARKS
        # Negative marks are those of the hour before, into which a window may reach back.
        oldest = -MARKS if is_sparse else -LONG_WINDOW_MARKS
        touched = {mark % MARKS for mark in range(max(begin, oldest), min(end, MARKS))}
        if touched:
            raised = tuple(tuple(buckets if mark in touched else 0 for mark in range(MARKS)) for buckets in each.raised)
            profile = highest(profile, raised)
    return profile


def tolerated_run(tolerances: Iterable[Tolerance], hour: LocalHour) -> tuple[int, int] | None:
    """Return the buckets up to which a run in an hour is neither slow nor far slower; None for no such tolerance."""
    runs = [each.run for each in _applicable(tolerances, hour) if each.run is not None]
    return (max(runs) + _RUN_SLOW, max(runs) + _RUN_FAR) if runs else None


def tolerated_errors(tolerances: Iterable[Tolerance], hour: LocalHour) -> float:
    """Return the share of failed requests that windows may have in an hour; 0 for no tolerance."""
    return max([each.error_ratio for each in _applicable(tolerances, hour)], default=0.0)


def tolerated_traffic(
    tolerances: Iterable[Tolerance], hours: Sequence[LocalHour]
) -> tuple[tuple[int, int, float], ...]:
    """Return when traffic may be how far below the usual around an hour.

    Args:
        tolerances: what was marked as normal.
        hours: the hour before, the hour, and the hour after.

    Returns:
        The first five-minute mark, relative to the hour, the one behind the last, and the share of the usual.
    """
    found = []
    for each in remembered(tolerances, hours[1].start):
        if each.traffic_ratio >= 1 or each.start >= hours[1].start:
            continue
        for position, hour in enumerate(hours):
            if hour.slot.hour == each.hour:
                offset = (position - 1) * MARKS
                found.append(
                    (offset + each.first - SPREAD_MARKS, offset + each.behind + SPREAD_MARKS, each.traffic_ratio)
                )
    return tuple(found)
