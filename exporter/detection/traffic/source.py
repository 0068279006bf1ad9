"""The source in the past: which hours can be compared, how completely they were read, and where traffic was lost.

Where the traffic of all series falls together, Tempo, a collector or the sampling has lost it. As in current traffic,
each series is then compared with the share that is left.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Final

from exporter.baseline.traffic import MIN_USUAL_REQUESTS, HourPattern, SourceHour, TrafficBaseline, TrafficRecord
from exporter.detection.traffic.verdict import (
    SOURCE_MIN_SERIES,
    SOURCE_MIN_USUAL,
    SOURCE_RATIO,
    SourceWindow,
    low_hours,
    middle_ratio,
    read_hours,
    source_traffic,
)
from exporter.model.calendar import HOUR_SECONDS, HourClock, LocalHour
from exporter.model.histogram_codec import MARK_SECONDS

SOURCE_SERIES: Final = 30
"""The source of the past is judged by so many series: reading all of them twice would cost too much."""
_SOURCE_MARKS: Final = (1, 3, 12)
"""Windows in which the source is judged, in marks; the longer ones only where the shorter have too few requests."""
REACH_MARKS: Final = _SOURCE_MARKS[-1]
"""No window of traffic reaches further back."""

Losses = Mapping[int, float]
"""Share of its usual traffic that the source had, by mark; marks at which it had lost none are missing."""
NO_LOSSES: Final[Losses] = {}


@dataclass(frozen=True)
class SourceHistory:
    """The source in the past. Times are Unix seconds.

    Attributes:
        hours: the hours that were read as a whole and with known coverage, in time order.
        low: starts of those in which the source had far less traffic than usual, by the hour before which that was
            known.
        coverage: by mark, the share of the requests in the five minutes before it that was read; missing if unknown.
        losses: by mark, the losses that were known then of the hour before it; missing without any.
        whole: starts of the hours that were read completely.
    """

    hours: Sequence[SourceHour] = ()
    low: Mapping[int, frozenset[int]] = field(default_factory=dict)
    coverage: Mapping[int, float] = field(default_factory=dict)
    losses: Mapping[int, Losses] = field(default_factory=dict)
    whole: frozenset[int] = frozenset()

    @cached_property
    def most_windows(self) -> float:
        """Of how many windows an hour consists at most, where a window counts once for each time its part was read.

        No hour of a series has more requests than this times those read, or counted, in one of its windows.
        """
        return max([sum(1 / min(1.0, coverage) for _, coverage in each.windows) for each in self.hours], default=0.0)

    def low_before(self, start: int) -> frozenset[int]:
        """Return the starts of the hours before one in which the source had far less traffic than usual."""
        return self.low.get(start, _NONE)

    def without(self, left_out: Collection[int], unjudged: Collection[int], clock: HourClock) -> "SourceHistory":
        """Return a copy in which some hours, given by their starts, count as not read.

        Args:
            left_out: these hours do not count at all.
            unjudged: these have no verdict.
            clock: maps instants to local hours.
        """
        if not left_out and not unjudged:
            return self
        without = {*left_out, *unjudged}
        return replace(
            self,
            hours=[each for each in self.hours if each.hour.start not in left_out],
            coverage={
                mark: share for mark, share in self.coverage.items() if clock.hour(mark - 1).start not in without
            },
            whole=self.whole.difference(without),
        )

    def with_losses(self, losses: Mapping[int, Losses]) -> "SourceHistory":
        """Return a copy with the losses of the source."""
        return replace(self, losses=losses)


_NONE: Final[frozenset[int]] = frozenset()


def source_history(
    windows: Iterable[SourceWindow],
    clock: HourClock,
    since: int,
    until: int,
    *,
    lookback_seconds: int,
    accept_after_seconds: int,
) -> SourceHistory:
    """Return the history of the source, without losses.

    Args:
        windows: windows of the ledger.
        clock: maps instants to local hours.
        since: start of the first hour with a verdict, Unix seconds.
        until: start of the last one.
        lookback_seconds: how far back hours are compared.
        accept_after_seconds: a change that lasts this long is the usual.
    """
    windows = sorted(windows)
    read = read_hours((clock.hour(window.start), window) for window in windows)
    starts = [each.hour.hour.start for each in read]
    low: dict[int, frozenset[int]] = {}
    before = _NONE
    if not windows:
        return SourceHistory()
    since = max(since, windows[0].start)
    hour = clock.hour(since)
    while hour.start <= until:
        first, last = bisect_left(starts, hour.start - lookback_seconds), bisect_left(starts, hour.start)
        found = low_hours(read[first:last], accept_after_seconds)
        if found:
            # Most hours have the same ones: they share the object.
            before = low[hour.start] = before if found == before else found
        hour = clock.hour(hour.end)
    coverage = _coverage(windows, since - HOUR_SECONDS)
    hours = tuple(each.hour for each in read)
    whole = frozenset(
        each.hour.start
        for each in hours
        if all(
            coverage.get(mark) == 1 for mark in range(each.hour.start + MARK_SECONDS, each.hour.end + 1, MARK_SECONDS)
        )
    )
    return SourceHistory(hours, low, coverage, whole=whole)


def _coverage(windows: Iterable[SourceWindow], since: int) -> dict[int, float]:
    """Return the coverage of the marks after an instant whose five minutes were read, at least in part."""
    found: dict[int, float] = {}
    seconds: dict[int, int] = {}
    for start, end, _, coverage in windows:
        if end <= since or not coverage:
            continue
        for mark in range(start - start % MARK_SECONDS + MARK_SECONDS, end + MARK_SECONDS, MARK_SECONDS):
            overlap = min(end, mark) - max(start, mark - MARK_SECONDS)
            if overlap > 0:
                seconds[mark] = seconds.get(mark, 0) + overlap
                found[mark] = min(found.get(mark, 1.0), coverage)
    return {mark: share for mark, share in found.items() if seconds[mark] >= MARK_SECONDS}


class SampledSeries:
    """One of the series by which the source is judged, while its hours pass.

    Attributes:
        requests: sums of its requests, by mark, since an hour before the present hour.
        usual: sums of those that are usual, of what was read.
    """

    def __init__(
        self,
        record: TrafficRecord,
        pattern: HourPattern,
        counts: Mapping[int, int],
        source: SourceHistory,
        quarantined: frozenset[int] = _NONE,
    ) -> None:
        """Take what is known before the first hour.

        Args:
            record: its hours.
            pattern: pattern within the hour.
            counts: requests by mark, those of the hour before the first one included.
            source: the source as it counts for the series: without the hours that people have marked.
            quarantined: starts of anomalous hours.
        """
        self._record = record
        self._pattern = pattern
        self._counts = counts
        self._source = source
        self._quarantined = quarantined
        self._around: Sequence[LocalHour] = ()
        self._baseline: TrafficBaseline | None = None
        self._is_complete = False
        self.requests: Sequence[float] = ()
        self.usual: Sequence[float] = ()

    def enter(self, around: Sequence[LocalHour]) -> bool:
        """Move on to an hour, and return whether the usual traffic in it is known.

        Args:
            around: the hour before, the hour, and the hour after.
        """
        hour, source = around[1], self._source
        self._record.move_to(hour.start, left_out=source.low_before(hour.start), quarantined=self._quarantined)
        marks = _marks(hour)
        # What is not counted is not expected either.
        is_whole = {hour.start, around[0].start} <= source.whole
        counts = [self._counts.get(mark, 0) if is_whole or mark in source.coverage else 0 for mark in marks]
        baseline = self._record.baseline(around, self._pattern, with_dispersion=False)
        self._pattern = self._pattern.with_hour(_by_position(marks, counts, hour))
        if baseline is None or max(baseline.before, baseline.requests) < MIN_USUAL_REQUESTS:
            return False
        self._around, self._baseline, self._is_complete = around, baseline, False
        usual: Sequence[float] = baseline.by_mark(marks[0], len(marks))
        if not is_whole:
            usual = [requests * source.coverage.get(mark, 0.0) for mark, requests in zip(marks, usual, strict=True)]
        self.requests, self.usual = list(accumulate(counts, initial=0)), list(accumulate(usual, initial=0.0))
        return True

    def dispersion(self, seconds: float) -> float:
        """Return the dispersion of windows of a length in the present hour."""
        if self._baseline is not None and not self._is_complete:
            self._baseline = self._record.baseline(self._around, self._baseline.pattern)
            self._is_complete = True
        return 0.0 if self._baseline is None else self._baseline.dispersion_of(seconds)


def _marks(hour: LocalHour) -> range:
    return range(hour.start - HOUR_SECONDS + MARK_SECONDS, hour.end + 1, MARK_SECONDS)


def _by_position(marks: Sequence[int], counts: Sequence[int], hour: LocalHour) -> list[int]:
    """Return the requests of an hour by mark of the hour."""
    by_mark = [0] * (HOUR_SECONDS // MARK_SECONDS)
    for mark, count in zip(marks, counts, strict=True):
        if mark > hour.start:
            by_mark[(mark - hour.start) // MARK_SECONDS - 1] += count
    return by_mark


def source_losses(
    series: Sequence[SampledSeries],
    source: SourceHistory,
    clock: HourClock,
    since: int,
    until: int,
    known: Losses = NO_LOSSES,
) -> dict[int, Losses]:
    """Return the losses of the source, by the mark at which they were known.

    Args:
        series: the series by which it is judged.
        source: the source.
        clock: maps instants to local hours.
        since: start of the first hour, Unix seconds.
        until: end of the last hour.
        known: losses in the hour before.
    """
    found: dict[int, Losses] = {}
    hour = clock.hour(since)
    while hour.end <= until:
        if hour.end not in source.coverage:
            # Recorded traffic may have gaps of years.
            hour = clock.hour(hour.end)
            continue
        around = (clock.hour(hour.start - 1), hour, clock.hour(hour.end))
        judged = [each for each in series if each.enter(around)]
        marks = _marks(hour)
        for position, mark in enumerate(marks, 1):
            if mark <= hour.start:
                continue
            lost = _lost(judged, marks, position, source)
            if lost or known:
                oldest = mark - REACH_MARKS * MARK_SECONDS
                known = {each: share for each, share in {**known, **lost}.items() if each > oldest}
            if known:
                found[mark] = known
        hour = clock.hour(hour.end)
    return found


def _lost(series: Sequence[SampledSeries], marks: Sequence[int], last: int, source: SourceHistory) -> Losses:
    """Return the losses that the shortest window shows that ends with a mark and has enough requests."""
    for length in _SOURCE_MARKS:
        first = last - length
        if first < 0 or any(mark not in source.coverage for mark in marks[first:last]):
            return NO_LOSSES
        found = [
            (each, each.requests[last] - each.requests[first], each.usual[last] - each.usual[first]) for each in series
        ]
        ratios = [requests / usual for _, requests, usual in found if usual >= SOURCE_MIN_USUAL]
        if len(ratios) < SOURCE_MIN_SERIES:
            continue
        if middle_ratio(ratios) >= SOURCE_RATIO:
            # Nearly always: the dispersion is not needed.
            return NO_LOSSES
        seconds = length * MARK_SECONDS
        judged = source_traffic((requests, usual, each.dispersion(seconds)) for each, requests, usual in found)
        if judged is None or not judged.is_lost:
            return NO_LOSSES
        usual_of_mark = sum(each.usual[last] - each.usual[first] for each in series) / length
        return {
            marks[position]: min(
                1.0, sum(each.requests[position + 1] - each.requests[position] for each in series) / usual_of_mark
            )
            for position in range(first, last)
        }
    return NO_LOSSES
