"""Judges the traffic of recorded requests: all series of a file have one source, and are read completely."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from exporter.backtest.traffic import Requests, key_of
from exporter.baseline.traffic import MARKS, NO_PATTERN, TrafficHour, TrafficRecord
from exporter.detection.detector import Detector
from exporter.detection.flag import FlagChange
from exporter.detection.streams import UNDECIDED
from exporter.detection.traffic.history import NO_TRAFFIC_STATE, SeriesTraffic, TrafficTracker
from exporter.detection.traffic.source import (
    SOURCE_SERIES,
    SampledSeries,
    SourceHistory,
    source_history,
    source_losses,
)
from exporter.detection.traffic.verdict import SourceWindow, TrafficEvidence
from exporter.detection.window import end_second
from exporter.model.calendar import HourClock, LocalHour
from exporter.model.histogram_codec import MARK_SECONDS

_NS: Final = 1_000_000_000
_MAX_IDLE_SECONDS: Final = 15 * 86_400
"""Of a longer time in which no series has requests, the rest is left out."""


@dataclass(slots=True)
class _Counts:
    """The requests of one series: by the hour in which they began, and by the mark up to which they ended."""

    by_hour: Counter[int] = field(default_factory=Counter)
    by_mark: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, requests: Requests, clock: HourClock) -> "_Counts":
        counts = cls()
        for start_ns, duration_ns, _ in requests:
            counts.by_hour[clock.hour(start_ns // _NS).start] += 1
            ended = end_second(start_ns + duration_ns)
            counts.by_mark[-(-ended // MARK_SECONDS) * MARK_SECONDS] += 1
        return counts


class RecordedTraffic:
    """The traffic of all series of a file.

    Attributes:
        end: end of the last hour of any series, Unix seconds.
        hours: number of hours that are judged.
    """

    def __init__(self, series: Mapping[str, Requests], detector: Detector) -> None:
        """Count the requests of all series, at least one of which has some."""
        clock = detector.clock
        self._counts = {name: _Counts.of(requests, clock) for name, requests in series.items()}
        self._hours = _hours(clock, {start for counts in self._counts.values() for start in counts.by_hour})
        self.end = self._hours[-1].end
        self.hours = len(self._hours)
        self._source = self._read_source(detector)

    def changes(self, name: str, detector: Detector) -> list[FlagChange[TrafficEvidence]]:
        """Return the transitions of the traffic flag of a series, to the end of the file.

        Args:
            name: the series.
            detector: the rules of the series.
        """
        counts = self._counts[name]
        source = detector.own_source(self._source)
        traffic = SeriesTraffic(_record(counts, source, detector), source)
        tracker = TrafficTracker(traffic, detector.parameters, detector.clock, NO_TRAFFIC_STATE)
        is_judged = detector.is_judged(UNDECIDED)
        pattern = NO_PATTERN
        first = min(counts.by_hour)
        for hour in self._hours:
            if hour.start < first:
                continue
            marks = range(hour.start + MARK_SECONDS, hour.end + 1, MARK_SECONDS)
            requests = [(mark, counts.by_mark[mark]) for mark in marks]
            tracker.evaluate(hour, requests, pattern, is_judged=is_judged)
            by_mark = [count for _, count in requests]
            pattern = pattern.with_hour([*by_mark, *[0] * (MARKS - len(by_mark))])
        return tracker.changes

    def _read_source(self, detector: Detector) -> SourceHistory:
        windows = [
            SourceWindow(hour.start, hour.end, sum(counts.by_hour[hour.start] for counts in self._counts.values()), 1.0)
            for hour in self._hours
        ]
        since, clock = self._hours[0].start, detector.clock
        source = source_history(
            windows,
            clock,
            since,
            self.end,
            lookback_seconds=detector.rules.lookback_seconds,
            accept_after_seconds=detector.parameters.accept_after_seconds,
        )
        busiest = sorted(self._counts, key=lambda name: (-self._counts[name].by_hour.total(), name))[:SOURCE_SERIES]
        sample = []
        for name in busiest:
            counts, own = self._counts[name], detector.of(key_of(name))
            own_source = own.own_source(source)
            sample.append(SampledSeries(_record(counts, own_source, own), NO_PATTERN, counts.by_mark, own_source))
        return source.with_losses(source_losses(sample, source, clock, since, self.end))


def _hours(clock: HourClock, busy: Iterable[int]) -> list[LocalHour]:
    """Return the hours from the first to the last that any series has requests in; recorded traffic may have gaps."""
    hours: list[LocalHour] = []
    last = 0
    for start in sorted(busy):
        while hours and (following := clock.hour(hours[-1].end)).start < start:
            if hours[-1].start - last >= _MAX_IDLE_SECONDS:
                break
            hours.append(following)
        hours.append(clock.hour(start))
        last = start
    return hours


def _record(counts: _Counts, source: SourceHistory, detector: Detector) -> TrafficRecord:
    return TrafficRecord(
        [TrafficHour(each.hour, float(counts.by_hour[each.hour.start])) for each in source.hours],
        detector.rules,
        drop=detector.parameters.traffic_drop,
        accept_after_seconds=detector.parameters.accept_after_seconds,
    )
