"""Evaluation of a series' traffic in its history, hour by hour, beside that of its latency and its failures.

Traffic has a flag and a quarantine of its own. Hours that the flag touched do not become part of the usual traffic,
unless they recur at the same hour of the day, or the change has lasted until it is accepted.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from operator import attrgetter
from typing import Final, NamedTuple

from exporter.baseline.levels import FallbackRules
from exporter.baseline.traffic import (
    MIN_USUAL_REQUESTS,
    HourPattern,
    TrafficBaseline,
    TrafficHour,
    TrafficRecord,
    traffic_hours,
)
from exporter.detection.flag import INACTIVE, Flag, FlagChange, FlagKind, FlagPeriod
from exporter.detection.parameters import Parameters
from exporter.detection.replayed_flag import ReplayedFlag
from exporter.detection.tolerance import Tolerance, tolerated_traffic
from exporter.detection.traffic.source import NO_LOSSES, REACH_MARKS, SourceHistory
from exporter.detection.traffic.verdict import TrafficEvidence, TrafficVerdict, WindowPart, judge_traffic, tick_traffic
from exporter.model.calendar import HOUR_SECONDS, HourClock, LocalHour
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.series_hour import StoredWindow

_traces_of = attrgetter("traces")
_requests_of = attrgetter("requests")
_REACH_SECONDS: Final = REACH_MARKS * MARK_SECONDS
_ABOVE: Final = 1 + 1e-9
_BELOW: Final = 1 - 1e-9
"""More than the rounding error of sums of usual requests."""


class TrafficState(NamedTuple):
    """What is known of the traffic of a series after evaluating its history up to an instant.

    Times are Unix seconds. Encoded by position, so the order of the fields is part of the stored format.

    Attributes:
        flag: the flag at the last mark.
        quarantined: starts of quarantined hours.
        changepoint: start of the present traffic, if a drop was accepted.
        until: end of the last evaluated hour.
        recent: requests that the next window can contain, or that ended later: number of marks after ``until``, and
            number of requests.
        losses: losses of the source in the last hour, by mark.
    """

    flag: Flag = INACTIVE
    quarantined: tuple[int, ...] = ()
    changepoint: int | None = None
    until: int = 0
    recent: tuple[tuple[int, int], ...] = ()
    losses: tuple[tuple[int, float], ...] = ()

    @property
    def counts(self) -> dict[int, int]:
        """The recent requests by mark."""
        return {self.until + position * MARK_SECONDS: count for position, count in self.recent}


NO_TRAFFIC_STATE: Final = TrafficState()


class TrafficTick(NamedTuple):
    """The traffic of a series at a mark.

    Attributes:
        at: the mark, Unix seconds.
        usual: usual number of requests in the window, of all, whether they were read or not; None without a verdict.
        verdict: the verdict, if there is one.
        flag: the flag after it.
    """

    at: int
    usual: float | None
    verdict: TrafficVerdict | None
    flag: Flag


@dataclass(frozen=True, slots=True)
class SeriesTraffic:
    """The counts of one series and its source, from which its past traffic is judged.

    Attributes:
        record: its hours.
        source: the source.
    """

    record: TrafficRecord
    source: SourceHistory

    @classmethod
    def of(
        cls, windows: Sequence[StoredWindow], source: SourceHistory, rules: FallbackRules, parameters: Parameters
    ) -> "SeriesTraffic":
        """Take the stored windows of a series."""
        most = max(max(map(_traces_of, windows), default=0), max(filter(None, map(_requests_of, windows)), default=0))
        hours = traffic_hours(windows, source.hours)
        return cls(_record(hours, rules, parameters, most * source.most_windows * _ABOVE), source)

    @classmethod
    def empty(cls, source: SourceHistory, rules: FallbackRules, parameters: Parameters) -> "SeriesTraffic":
        """Begin without hours; :attr:`record` takes them as they pass."""
        return cls(_record((), rules, parameters), source)

    def move_to(self, start: int, quarantined: frozenset[int]) -> None:
        """Let the hours count that are known in the hour that begins at an instant."""
        self.record.move_to(start, left_out=self.source.low_before(start), quarantined=quarantined)

    def baseline(
        self, around: Sequence[LocalHour], pattern: HourPattern, quarantined: frozenset[int]
    ) -> TrafficBaseline | None:
        """Return the usual traffic in an hour; None while the series is learning.

        Args:
            around: the hour before, the hour, and the hour after.
            pattern: pattern within the hour.
            quarantined: starts of quarantined hours.
        """
        if not pattern.is_known or not self.record.is_ever_busy:
            return None
        self.move_to(around[1].start, quarantined)
        return self.record.baseline(around, pattern)


def _record(
    hours: Iterable[TrafficHour], rules: FallbackRules, parameters: Parameters, at_most: float = inf
) -> TrafficRecord:
    return TrafficRecord(
        hours,
        rules,
        drop=parameters.traffic_drop,
        accept_after_seconds=parameters.accept_after_seconds,
        at_most=at_most,
    )


class TrafficTracker:
    """Evaluates the traffic of one series, hour by hour.

    Attributes:
        accepted: changepoints of accepted drops.
        tolerances: what was marked as normal.
    """

    def __init__(self, traffic: SeriesTraffic, parameters: Parameters, clock: HourClock, state: TrafficState) -> None:
        """Continue from a state."""
        self.accepted: list[int] = []
        self.tolerances: Sequence[Tolerance] = ()
        self._traffic = traffic
        self._parameters = parameters
        self._clock = clock
        self._flag: ReplayedFlag[TrafficEvidence] = ReplayedFlag(FlagKind.TRAFFIC, state.flag)
        self._quarantined = frozenset(state.quarantined)
        self._changepoint = state.changepoint
        self._counts = state.counts
        # Older versions stored no counts: then no window reaches back beyond the first hour.
        self._is_continued = bool(state.until)
        self._unknown_until = 0

    @property
    def periods(self) -> list[FlagPeriod]:
        """The times in which the flag fired, in time order; the last one has no end while it fires."""
        return self._flag.periods

    @property
    def changes(self) -> list[FlagChange[TrafficEvidence]]:
        """The transitions of the flag, in time order."""
        return self._flag.changes

    def state(self, position: int, lookback_seconds: int) -> TrafficState:
        """Return the state after the hours that ended by an instant (Unix seconds)."""
        if not self._is_continued:
            return TrafficState(self._flag.present, self._kept(position - lookback_seconds), self._changepoint)
        self._discard(position)
        recent = tuple(((mark - position) // MARK_SECONDS, self._counts[mark]) for mark in sorted(self._counts))
        losses = self._traffic.source.losses.get(position, NO_LOSSES)
        return TrafficState(
            self._flag.present,
            self._kept(position - lookback_seconds),
            self._changepoint,
            position,
            recent,
            tuple(sorted(losses.items())),
        )

    def _kept(self, oldest: int) -> tuple[int, ...]:
        return tuple(sorted(start for start in self._quarantined if start >= oldest))

    def evaluate(
        self, hour: LocalHour, requests: Iterable[tuple[int, int]], pattern: HourPattern, *, is_judged: bool
    ) -> None:
        """Tick at the marks of an hour, except where no tick is needed. Hours follow one another.

        Args:
            hour: the hour.
            requests: marks at which its requests ended, with their number.
            pattern: pattern within the hour, as it was known before.
            is_judged: whether the series gets verdicts.
        """
        if self._flag.present == INACTIVE and not self._traffic.record.is_ever_busy:
            # Most series: no hour has enough requests for a verdict.
            self._is_continued = False
            return
        self._begin(hour, requests)
        is_judged = is_judged and self._parameters.traffic_enabled
        if self._flag.present == INACTIVE and (not is_judged or not pattern.is_known):
            self._discard(hour.end)
            return
        self._traffic.move_to(hour.start, self._quarantined)
        self._accept(hour.start)
        if self._flag.present != INACTIVE or self._may_change(hour, pattern):
            for _ in self._tick_through(hour, pattern, is_judged=is_judged, every_mark=False):
                pass
        self._discard(hour.end)

    @property
    def is_calm(self) -> bool:
        """Whether hours in which no window may have too few requests change nothing but what the next windows contain.

        Without quarantined hours no drop can be accepted.
        """
        return (
            self._flag.present == INACTIVE
            and not self._quarantined
            and (not self._traffic.record.is_ever_busy or self._is_continued)
        )

    @property
    def most_requests(self) -> float | None:
        """Upper bound of the usual requests of an hour; None if no hour has enough for a verdict."""
        return self._traffic.record.most_requests if self._traffic.record.is_ever_busy else None

    def skip(self, hours: Iterable[Iterable[tuple[int, int]]], until: int) -> None:
        """Take hours in which no window may have too few requests, while nothing is going on; see :attr:`is_calm`.

        Args:
            hours: marks at which the requests of each hour ended, with their number.
            until: end of the last one, Unix seconds.
        """
        if not self._traffic.record.is_ever_busy:
            self._is_continued = False
            return
        self._discard(until)
        counts, oldest = self._counts, until - _REACH_SECONDS
        for requests in hours:
            for mark, count in requests:
                if mark > oldest:
                    counts[mark] = counts.get(mark, 0) + count

    def ticks(
        self, hour: LocalHour, requests: Iterable[tuple[int, int]], pattern: HourPattern, *, is_judged: bool
    ) -> list[TrafficTick]:
        """Tick at every mark of an hour, as :meth:`evaluate` does where it is needed."""
        self._begin(hour, requests)
        self._traffic.move_to(hour.start, self._quarantined)
        self._accept(hour.start)
        is_judged = is_judged and self._parameters.traffic_enabled
        found = list(self._tick_through(hour, pattern, is_judged=is_judged, every_mark=True))
        self._discard(hour.end)
        return found

    def _begin(self, hour: LocalHour, requests: Iterable[tuple[int, int]]) -> None:
        if not self._is_continued:
            self._is_continued, self._unknown_until, self._counts = True, hour.start, {}
        counts = self._counts
        for mark, count in requests:
            counts[mark] = counts.get(mark, 0) + count

    def _discard(self, now: int) -> None:
        oldest = now - _REACH_SECONDS
        self._counts = {mark: count for mark, count in self._counts.items() if mark > oldest}

    def _accept(self, at: int) -> None:
        """Accept a drop that has lasted long enough: its hours are the usual traffic."""
        record = self._traffic.record
        if not record.has_accepted or record.changepoint is None:
            return
        changepoint = record.changepoint
        self._quarantined = frozenset(start for start in self._quarantined if start < changepoint)
        self._changepoint = changepoint
        self._flag.reset(at)
        self.accepted.append(changepoint)

    def _may_change(self, hour: LocalHour, pattern: HourPattern) -> bool:
        """Whether some window that ends in an hour may differ enough from the usual, while no flag fires."""
        parameters, record, get = self._parameters, self._traffic.record, self._counts.get
        if parameters.traffic_surge is not None:
            return True
        counts = [
            get(mark, 0) for mark in range(hour.start - _REACH_SECONDS + MARK_SECONDS, hour.end + 1, MARK_SECONDS)
        ]
        shares = pattern.shares
        most = record.most_requests
        if not may_drop(counts, [most * share for share in shares] * 2, parameters):
            # Nearly always where traffic hardly changes over the day.
            return False
        usual = record.usual_of(self._clock.hour(hour.start - 1), hour)
        if usual is None:
            return False
        before, own = usual
        return may_drop(counts, [before * share for share in shares] + [own * share for share in shares], parameters)

    def _tick_through(
        self, hour: LocalHour, pattern: HourPattern, *, is_judged: bool, every_mark: bool
    ) -> Iterator[TrafficTick]:
        parameters = self._parameters
        around = (self._clock.hour(hour.start - 1), hour, self._clock.hour(hour.end))
        record = self._traffic.record
        baseline = record.baseline(around, pattern, with_dispersion=False) if is_judged else None
        baseline = self._tolerant(baseline, around)
        windows = None
        if baseline is not None and max(baseline.before, baseline.requests) >= MIN_USUAL_REQUESTS:
            windows = _HourWindows(hour, baseline, self._counts, self._traffic.source, self._unknown_until)
        is_complete = False
        for mark in range(hour.start + MARK_SECONDS, hour.end + 1, MARK_SECONDS):
            if (
                not every_mark
                and self._flag.present == INACTIVE
                and (windows is None or not windows.may_change(mark, parameters))
            ):
                continue
            if windows is not None and not is_complete:
                windows.baseline = baseline = self._tolerant(record.baseline(around, pattern), around)
                is_complete = True
            verdict = None if windows is None else windows.judge(mark, parameters)
            flag, event = tick_traffic(verdict, mark, self._flag.present, parameters, is_known=baseline is not None)
            self._flag.follow(flag, event, mark, None if verdict is None else verdict.evidence)
            if self._flag.present.firing:
                self._touch(hour, mark, MARK_SECONDS if verdict is None else verdict.evidence.seconds)
            usual = None
            if verdict is not None and baseline is not None:
                usual = baseline.expected(mark - verdict.evidence.seconds, mark)
            yield TrafficTick(mark, usual, verdict, self._flag.present)

    def _tolerant(self, baseline: TrafficBaseline | None, around: Sequence[LocalHour]) -> TrafficBaseline | None:
        if baseline is None or not self.tolerances:
            return baseline
        return baseline._replace(tolerated=tolerated_traffic(self.tolerances, around))

    def _touch(self, hour: LocalHour, mark: int, seconds: float) -> None:
        """Quarantine the hours that the firing flag touches."""
        fires_since = self._flag.present.since
        since = min(mark - seconds, mark if fires_since is None else fires_since)
        touched = {hour.start}
        while hour.start > since and hour.start > mark - 2 * HOUR_SECONDS:
            hour = self._clock.hour(hour.start - 1)
            touched.add(hour.start)
        if not touched <= self._quarantined:
            self._quarantined |= touched


def may_drop(counts: Sequence[int], most: Sequence[float], parameters: Parameters) -> bool:
    """Whether a window that ends in an hour may have too few requests, given only upper bounds of the usual ones.

    A window is as short as it can be with :data:`MIN_USUAL_REQUESTS`: by the bounds it is not longer than it really is,
    and without its first mark it has fewer.

    Args:
        counts: requests by mark, those of the reach before the hour included.
        most: upper bounds of the usual requests at the same marks, or at more of them.
        parameters: settings of the detector.
    """
    drop, least = parameters.traffic_drop, MIN_USUAL_REQUESTS * _BELOW
    shortest = -(-parameters.window_seconds // MARK_SECONDS)
    enough = drop * (MIN_USUAL_REQUESTS + max(most)) * _ABOVE
    for last in range(len(counts) - 1, REACH_MARKS - 1, -1):
        usual: float = 0
        requests = 0
        for first in range(last, last - REACH_MARKS, -1):
            usual += most[first]
            requests += counts[first]
            if last - first + 1 < shortest or usual < least:
                continue
            if last - first + 1 > shortest:
                if requests >= enough:
                    break
                limit = min(usual, MIN_USUAL_REQUESTS + most[first])
            else:
                limit = usual
            if requests < drop * limit * _ABOVE:
                return True
    return False


class _HourWindows:
    """The windows that end at the marks of one hour.

    Attributes:
        baseline: usual traffic; to judge, with the dispersion.
    """

    def __init__(
        self,
        hour: LocalHour,
        baseline: TrafficBaseline,
        counts: Mapping[int, int],
        source: SourceHistory,
        unknown_until: int,
    ) -> None:
        self._first = hour.start - _REACH_SECONDS + MARK_SECONDS
        marks = range(self._first, hour.end + 1, MARK_SECONDS)
        self.baseline: TrafficBaseline | None = baseline
        self._losses = source.losses
        self._counts = [counts.get(mark, 0) for mark in marks]
        coverage = source.coverage
        self._unread: Collection[int] = ()
        self._usual: Sequence[float] = baseline.by_mark(self._first, len(marks))
        is_whole = hour.start in source.whole and hour.start - HOUR_SECONDS in source.whole
        if not is_whole or unknown_until > self._first - MARK_SECONDS:
            # What was not read has no usual requests, and windows do not reach beyond it.
            self._unread = {mark for mark in marks if mark not in coverage or mark <= unknown_until}
            self._usual = [usual * coverage.get(mark, 0.0) for mark, usual in zip(marks, self._usual, strict=True)]
        self._request_sums = list(accumulate(self._counts, initial=0))
        self._usual_sums = list(accumulate(self._usual, initial=0.0))

    def may_change(self, mark: int, parameters: Parameters) -> bool:
        """Whether the window that ends at a mark differs from the usual as much as is required, by chance or not."""
        end = self._index(mark) + 1
        start = bisect_right(self._usual_sums, self._usual_sums[end] - MIN_USUAL_REQUESTS) - 1
        start = min(start, end - -(-parameters.window_seconds // MARK_SECONDS))
        if start < max(0, end - REACH_MARKS):
            return False
        usual = self._usual_sums[end] - self._usual_sums[start]
        requests = self._request_sums[end] - self._request_sums[start]
        surge = parameters.traffic_surge
        return requests < parameters.traffic_drop * usual or (surge is not None and requests > surge * usual)

    def judge(self, mark: int, parameters: Parameters) -> TrafficVerdict | None:
        """Return the verdict on the window that ends at a mark."""
        return None if self.baseline is None else judge_traffic(self._parts(mark), self.baseline, parameters)

    def _parts(self, mark: int) -> Iterator[WindowPart]:
        losses = self._losses.get(mark, NO_LOSSES)
        last = self._index(mark)
        for position in range(last, last - REACH_MARKS, -1):
            ended = self._first + position * MARK_SECONDS
            if ended in self._unread:
                return
            yield WindowPart(MARK_SECONDS, self._counts[position], self._usual[position], losses.get(ended, 1.0))

    def _index(self, mark: int) -> int:
        return (mark - self._first) // MARK_SECONDS
