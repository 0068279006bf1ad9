"""The recent past of one series over time: its latency, failures and traffic, each against the usual of its hour.

Pure: the windows, the baselines and the flags are passed in.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from exporter.baseline.levels import Baseline
from exporter.detection.flag import FlagPeriod
from exporter.model.calendar import HOUR_SECONDS, HourClock, LocalHour
from exporter.model.histogram import HIGHEST_BUCKET, ZERO_BUCKET, Digest
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.series_hour import SeriesHour
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkRange

MARKS_PER_HOUR: Final = HOUR_SECONDS // MARK_SECONDS
LATE_SECONDS: Final = 2 * HOUR_SECONDS
"""Requests that ended in the range may have begun this much earlier; longer ones are left out of shorter steps."""
_STEPS_SECONDS: Final = (MARK_SECONDS, 900, HOUR_SECONDS)
_MAX_POINTS: Final = 300
_MIN_TRACES: Final = 10
"""Traces that a point should have on average, so that its p95 is more than the slowest request."""
_MAX_ROWS: Final = 36
_FINEST_ROW: Final = 4
"""Buckets in the finest row of a heat map: an eighth of an octave."""


class TimelineRange(StrEnum):
    """A range of time that ends now."""

    HOURS_6 = "6h"
    HOURS_24 = "24h"
    DAYS_7 = "7d"

    @property
    def seconds(self) -> int:
        """Length in seconds."""
        return HOUR_SECONDS * {TimelineRange.HOURS_6: 6, TimelineRange.HOURS_24: 24, TimelineRange.DAYS_7: 168}[self]


class PointState(StrEnum):
    """How much is known of a point."""

    READ = "read"
    """Its time was read. Without requests, there were none."""
    UNREAD = "unread"
    """Its time was not read as a whole, so nothing is known of it."""
    CURRENT = "current"
    """Its values are those of the evaluation window at its end; its time is not read as a whole yet."""


class HourUsual(NamedTuple):
    """The baselines of a series for one hour.

    Attributes:
        baseline: latency; None at level 5.
        error_ratio: share of failed requests; None while unknown.
        requests: number of requests; None while unknown.
        shares: share of the requests by mark.
    """

    baseline: Baseline | None = None
    error_ratio: float | None = None
    requests: float | None = None
    shares: Sequence[float] = (1 / MARKS_PER_HOUR,) * MARKS_PER_HOUR


class TimelinePoint(NamedTuple):
    """One step of a timeline. Fields are None while unknown.

    Attributes:
        start: start, Unix seconds.
        end: end, Unix seconds.
        state: how much is known of it.
        digest: durations of the traces; empty without any, and of a current point.
        traces: number of traces that were read.
        requests: number of requests that there were; where a sample was read, an estimate.
        failures: number of failed traces.
        p50_seconds: median of the durations; None without traces.
        p95_seconds: their 95th percentile.
        usual: the baselines of its hour.
        usual_requests: usual number of requests in its time.
        is_quarantined: whether its hour is kept out of the baseline of the latency.
        is_error_quarantined: whether its hour is kept out of the usual failures.
    """

    start: int
    end: int
    state: PointState
    digest: Digest
    traces: int
    requests: float | None
    failures: int | None
    p50_seconds: float | None
    p95_seconds: float | None
    usual: HourUsual
    usual_requests: float | None
    is_quarantined: bool
    is_error_quarantined: bool

    @property
    def error_ratio(self) -> float | None:
        """Share of the traces that failed; None without traces."""
        return None if self.failures is None or not self.traces else self.failures / self.traces


@dataclass(frozen=True, slots=True)
class Timeline:
    """The recent past of one series.

    Attributes:
        key: the series.
        start: start of the first point, Unix seconds.
        end: now, Unix seconds.
        step_seconds: length of a point; one at a change of the UTC offset may be shorter.
        points: in time order without a gap.
        flags: times in which its flags fired, by kind and time.
        changepoint: start of the present behaviour, Unix seconds, if a lasting change was accepted.
        marks: what people have marked of its time, by start.
    """

    key: SeriesKey
    start: int
    end: int
    step_seconds: int
    points: Sequence[TimelinePoint]
    flags: Sequence[FlagPeriod]
    changepoint: int | None
    marks: Sequence[MarkRange] = ()


class CurrentPoint(NamedTuple):
    """The evaluation window of a series at an instant, for the time that is not read yet.

    Attributes:
        at: its end, Unix seconds.
        traces: number of traces.
        failures: number of failed ones; None while unknown.
        p50_seconds: median; None without traces.
        p95_seconds: 95th percentile; None without traces.
    """

    at: int
    traces: int
    failures: int | None
    p50_seconds: float | None
    p95_seconds: float | None


@dataclass(frozen=True, slots=True)
class SeriesPast:
    """What a timeline is built from.

    Attributes:
        key: the series.
        hours: its hours with traffic, in time order, also some before the range.
        requests: number of requests by start of the hour; None where it is unknown.
        read: ranges of time that were read, in time order.
        usual: returns the baselines of an hour.
        quarantined: starts of the hours that are kept out of the baseline of the latency.
        error_quarantined: starts of the hours that are kept out of the usual failures.
        flags: times in which its flags fired.
        changepoint: start of the present behaviour, Unix seconds, if a lasting change was accepted.
        current: the evaluation windows of the last hours, in time order.
        marks: what people have marked, by start.
    """

    key: SeriesKey
    hours: Sequence[SeriesHour]
    requests: Mapping[int, float | None]
    read: Sequence[tuple[int, int]]
    usual: Callable[[LocalHour], HourUsual]
    quarantined: Collection[int] = ()
    error_quarantined: Collection[int] = ()
    flags: Sequence[FlagPeriod] = ()
    changepoint: int | None = None
    current: Sequence[CurrentPoint] = ()
    marks: Sequence[MarkRange] = ()


def step_of(traces: int, hours: int, range_: TimelineRange) -> int:
    """Return the length of a point: as short as gives points with enough traces, and not too many points.

    Args:
        traces: traces of the series in the range.
        hours: hours with traffic in the range.
        range_: the range.
    """
    for step in _STEPS_SECONDS:
        is_dense = traces > 0 and traces * step >= _MIN_TRACES * hours * HOUR_SECONDS
        if is_dense and range_.seconds <= _MAX_POINTS * step:
            return step
    return HOUR_SECONDS


def build_timeline(past: SeriesPast, clock: HourClock, start: int, end: int, step_seconds: int) -> Timeline:
    """Build the timeline of a series.

    In steps of an hour, requests count by when they started, as in the ledger; in shorter ones by when they ended.

    Args:
        past: what is known.
        clock: the local hours.
        start: start of the range, Unix seconds; the first point begins with its local hour.
        end: end of the range, Unix seconds.
        step_seconds: length of a point: an hour, or a divisor of it that is a multiple of five minutes.

    Raises:
        DamagedDigestError: stored bytes are damaged.
    """
    hours = {hour.start: hour for hour in past.hours}
    steps = list(_steps(clock, start, end, step_seconds))
    counts = _counts_by_hour(past.hours) if step_seconds >= HOUR_SECONDS else _counts_by_step(past.hours, steps)
    points: list[TimelinePoint] = []
    usual, usual_hour = HourUsual(), -1
    for hour, begin, until in steps:
        if hour.start != usual_hour:
            usual, usual_hour = past.usual(hour), hour.start
        digest, failures = counts.get(begin, (Digest({}), 0))
        # Of a part of an hour, the rest of the hour says what share was read.
        requests = past.requests.get(hour.start, 0.0) if hour.start in hours else 0.0
        read = hours[hour.start].count if hour.start in hours else 0
        is_read = _is_read(past.read, begin, min(until, end))
        points.append(
            TimelinePoint(
                start=begin,
                end=until,
                state=PointState.READ if is_read else PointState.UNREAD,
                digest=digest if is_read else Digest({}),
                traces=digest.count if is_read else 0,
                requests=_requests(digest.count, read, requests) if is_read else None,
                failures=failures if is_read else None,
                p50_seconds=digest.quantile_seconds(0.5) if is_read and digest else None,
                p95_seconds=digest.quantile_seconds(0.95) if is_read and digest else None,
                usual=usual,
                usual_requests=_usual_requests(usual, hour, begin, until),
                is_quarantined=hour.start in past.quarantined,
                is_error_quarantined=hour.start in past.error_quarantined,
            )
        )
    first = points[0].start if points else start
    return Timeline(
        key=past.key,
        start=first,
        end=end,
        step_seconds=step_seconds,
        points=_with_current(points, past.current),
        flags=[flag for flag in past.flags if flag.overlaps(first, end)],
        changepoint=past.changepoint,
        marks=[each for each in past.marks if each.start < end and first < each.end],
    )


def _steps(clock: HourClock, start: int, end: int, step_seconds: int) -> Iterator[tuple[LocalHour, int, int]]:
    """Yield the local hour, the start and the end of each point."""
    hour = clock.hour(start)
    while hour.start < end:
        for begin in range(hour.start, min(hour.end, end), step_seconds):
            yield hour, begin, min(begin + step_seconds, hour.end)
        hour = clock.hour(hour.end)


_Counts = Mapping[int, tuple[Digest, int | None]]
"""Durations and number of failures by start of the point."""


def _counts_by_hour(hours: Iterable[SeriesHour]) -> _Counts:
    return {hour.start: (hour.digest, hour.failed) for hour in hours}


def _counts_by_step(hours: Iterable[SeriesHour], steps: Sequence[tuple[LocalHour, int, int]]) -> _Counts:
    starts = [begin for _, begin, _ in steps]
    counts: defaultdict[int, Counter[int]] = defaultdict(Counter)
    failures: dict[int, int | None] = {}
    for hour in hours:
        failed = hour.failures()
        for mark, buckets in hour.marks():
            position = bisect_right(starts, mark - MARK_SECONDS) - 1
            if position < 0 or mark > steps[position][2]:
                continue
            start = starts[position]
            counts[start].update(buckets)
            before = failures.get(start, 0)
            failures[start] = None if failed is None or before is None else before + failed.get(mark, 0)
    return {start: (Digest(found), failures[start]) for start, found in counts.items()}


def _is_read(read: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    """Whether the ranges that were read cover ``[start, end)``."""
    position = bisect_right(read, start, key=lambda each: each[0]) - 1
    while 0 <= position < len(read) and read[position][0] <= start < end:
        start = max(start, read[position][1])
        position += 1
    return start >= end


def _requests(traces: int, read: int, requests: float | None) -> float | None:
    """Return how many requests there were, by the share of the hour's requests that was read."""
    if not traces:
        return 0.0
    if not read:
        # What began in an earlier hour.
        return float(traces)
    return None if requests is None else traces * requests / read


def _usual_requests(usual: HourUsual, hour: LocalHour, start: int, end: int) -> float | None:
    if usual.requests is None:
        return None
    first, behind = ((instant - hour.start) // MARK_SECONDS for instant in (start, end))
    is_whole = behind - first == MARKS_PER_HOUR
    return usual.requests if is_whole else usual.requests * sum(usual.shares[first:behind])


def _with_current(points: Sequence[TimelinePoint], current: Sequence[CurrentPoint]) -> Sequence[TimelinePoint]:
    """Fill the points that are not read yet with the last evaluation window that ended in each."""
    last = {}
    starts = [point.start for point in points]
    for each in current:
        position = bisect_right(starts, each.at - 1) - 1
        if position >= 0 and points[position].state is PointState.UNREAD and each.at <= points[position].end:
            last[position] = each
    return [
        point
        if (found := last.get(position)) is None
        else point._replace(
            state=PointState.CURRENT,
            traces=found.traces,
            failures=found.failures,
            p50_seconds=found.p50_seconds,
            p95_seconds=found.p95_seconds,
        )
        for position, point in enumerate(points)
    ]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """How the durations are distributed over time: rows of buckets, one column for each point.

    Attributes:
        bounds: the buckets between the rows, ascending, one more than there are rows: row ``i`` counts the durations
            in buckets above ``bounds[i]`` up to ``bounds[i + 1]``.
        counts: number of traces by row, for each point.
    """

    bounds: Sequence[int]
    counts: Sequence[Sequence[int]]


def heat_map(timeline: Timeline) -> HeatMap:
    """Count the durations of a timeline by rows of equal ratio; without any traces there are no rows.

    Durations of zero are counted in the lowest row.
    """
    lowest, highest = HIGHEST_BUCKET, ZERO_BUCKET
    for point in timeline.points:
        if point.digest:
            first, last = point.digest.quantile_buckets((0.0, 1.0))
            if first == ZERO_BUCKET:
                first = min([bucket for bucket, _ in point.digest if bucket > ZERO_BUCKET], default=lowest)
            lowest, highest = min(lowest, first), max(highest, last)
    if highest == ZERO_BUCKET:
        return HeatMap((), [()] * len(timeline.points))
    size = _FINEST_ROW
    while (highest // size - lowest // size) >= _MAX_ROWS:
        size *= 2
    first, rows = lowest // size, highest // size - lowest // size + 1
    counts = []
    for point in timeline.points:
        column = [0] * rows
        for bucket, count in point.digest:
            column[max(0, bucket // size - first)] += count
        counts.append(column)
    return HeatMap([(first + row) * size - 1 for row in range(rows + 1)], counts)
